"""Where the shared truth is kept: adapters of seams.Store."""

from __future__ import annotations

from pathlib import Path

from understudy.core.errors import ConfigError
from understudy.seams import Store


async def open_store(where: str | Path) -> Store:
    """The store of a PostgreSQL URL or of an SQLite file, opened. Raises ConfigError."""
    store = _new(where)
    try:
        await store.open()
    except BaseException:
        await store.close()
        raise
    return store


def _new(where: str | Path) -> Store:
    if isinstance(where, Path) or "://" not in where:
        from understudy.store.sqlite import SqliteStore

        return SqliteStore(Path(where))
    if not where.startswith(("postgresql://", "postgres://")):
        raise ConfigError("a store is a file, or a database at postgresql://USER@HOST/NAME")
    try:
        from understudy.store.postgresql import PostgresStore
    except ImportError:
        raise ConfigError(
            "a PostgreSQL database needs a driver: pip install 'understudy[postgres]'"
        ) from None
    return PostgresStore(where)
