"""Which process leads: of the controllers on one database, if it is one of this machine's."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path
from socket import gethostname
from typing import Final

from understudy.core.errors import StoreAway

CALL_S: Final = 5.0
_LEADS: Final = """
    SELECT application_name FROM pg_stat_activity
    JOIN pg_locks USING (pid) JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND granted AND pg_database.datname = current_database()
    AND application_name LIKE 'understudy %'"""


async def leading_process(where: str | Path) -> int | None:
    """Its id; None: nobody leads just now, or somebody elsewhere. Raises StoreAway."""
    if isinstance(where, Path) or "://" not in where:
        path = Path(where)
        return await asyncio.to_thread(_of_file, path.with_name(f"{path.name}-leader"))
    return await _of_database(where)


def _of_file(lock: Path) -> int | None:
    try:
        with lock.open("r") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(held.read().strip() or 0) or None
    except FileNotFoundError:
        pass
    return None  # the one who led is no more


async def _of_database(url: str) -> int | None:
    import asyncpg

    try:
        db = await asyncpg.connect(url, timeout=CALL_S)
    except (OSError, asyncpg.PostgresError) as error:
        raise StoreAway(f"the database does not say who leads: {error}") from None
    try:
        rows = await db.fetch(_LEADS, timeout=CALL_S)
    finally:
        await db.close()
    for row in rows:
        pid, _, host = str(row["application_name"]).removeprefix("understudy ").partition("@")
        if pid.isdigit() and host and gethostname().startswith(host):
            return int(pid)
    return None
