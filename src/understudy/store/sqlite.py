"""The store of one machine: SQLite, in a thread of its own so that a slow disk stalls no audio."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, ParamSpec, TypeVar

from understudy.core.errors import ConfigError, StoreAway
from understudy.store.base import SqlStore
from understudy.store.transactions import VERSION, Done, Kind, Rows, Transaction, advance, script

P = ParamSpec("P")
T = TypeVar("T")

_BEGIN: Final = {
    Kind.READ: "BEGIN",
    Kind.WRITE: "BEGIN IMMEDIATE",
    Kind.EACH: "BEGIN IMMEDIATE",  # one write to the disk, be there many statements
}
_COPY_1: Final = """INSERT INTO sessions SELECT id, user, voice, model, '', region, edge, started_s,
    ended_s, reason, '', 0, NULL FROM sessions_1; DROP TABLE sessions_1;"""


class SqliteStore(SqlStore):
    """seams.Store on a file. Each method is one transaction on the store's only thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db: sqlite3.Connection | None = None
        self._leads: IO[str] | None = None

    async def open(self) -> None:
        """Raises ConfigError if the file is of a newer version, or no database."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    def _connect(self) -> None:
        # The connection is opened on the store's thread, and used there only.
        db = sqlite3.connect(self._path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version < VERSION:
                with _locked(self._path):  # other processes may begin at this very moment
                    _migrate(db)
            elif version > VERSION:
                raise ConfigError(f"{self._path} is of a newer Understudy: upgrade, or pass --data")
        except sqlite3.DatabaseError as error:
            db.close()
            raise ConfigError(
                f"{self._path} cannot be used as a database: {error}; move it away, or pass --data"
            ) from None
        self._db = db

    async def close(self) -> None:
        if self._db is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._thread.shutdown()
        if self._leads is not None:
            self._leads.close()

    def _roll_back(self) -> None:
        if self._db is not None and self._db.in_transaction:
            self._db.execute("ROLLBACK")

    async def is_leader(self) -> bool:
        """A lock on a file beside the database, which the system frees for whoever dies."""
        if self._leads is None and str(self._path) != ":memory:":
            lock = self._path.with_name(f"{self._path.name}-leader").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")  # for who asks which process leads
            lock.flush()
            self._leads = lock
        return True

    async def _run(
        self, kind: Kind, work: Callable[P, Transaction[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def transaction() -> T:
            assert self._db is not None, "the store is not open"
            try:
                self._db.execute(_BEGIN[kind])
                result = _answer(self._db, work(*args, **kwargs))
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:  # locked, or the disk is full
                self._roll_back()
                raise StoreAway(f"{self._path.name} cannot be used now: {error}") from error
            except BaseException:
                self._roll_back()
                raise
            return result

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    if str(path) == ":memory:":
        yield
        return
    with path.with_name(f"{path.name}-schema").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _migrate(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    steps = [script("migrate_2.sql" if version == 2 else "schema.sql")]
    steps.append(f"PRAGMA user_version = {VERSION};")
    if version == 1:
        steps = [script("migrate_1.sql"), *steps, _COPY_1]
    db.executescript("BEGIN; " + "\n".join(steps) + " COMMIT;")


def _answer(db: sqlite3.Connection, transaction: Transaction[T]) -> T:
    """Runs a transaction's statements to its end."""
    rows: Rows | None = None
    while True:
        ask = advance(transaction, rows)
        if isinstance(ask, Done):
            return ask.result
        cursor = (db.executemany if ask.many else db.execute)(ask.sql, ask.values)
        rows = cursor.fetchall()
