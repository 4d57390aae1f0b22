"""The store of one machine: SQLite, in a thread of its own so that a slow disk stalls no audio."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, fields, replace
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from understudy.core import policy
from understudy.core.errors import AlreadyLive, ConfigError
from understudy.core.fleet import Placement, Request, Worker, WorkerState
from understudy.core.ledger import Interval, Role
from understudy.core.wire import Card
from understudy.seams import SessionRow

P = ParamSpec("P")
T = TypeVar("T")

VERSION: Final = 1
_SESSION_COLUMNS: Final = ", ".join(field.name for field in fields(SessionRow))
_LEDGER_COLUMNS: Final = ", ".join(field.name for field in fields(Interval))
_ledger_row: Final = attrgetter(*(field.name for field in fields(Interval)))
_WORKERS: Final = """
    SELECT id, node, model, region, slots, state,
           (SELECT count(*) FROM sessions WHERE worker = workers.id AND ended_s IS NULL),
           progress, boot_s, reason
      FROM workers WHERE state != 'gone'"""


class SqliteStore:
    """seams.Store on a file. Each method is one transaction on the store's only thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db: sqlite3.Connection | None = None

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
            if version > VERSION:
                raise ConfigError(f"{self._path} is of a newer Understudy: upgrade, or pass --data")
            if version == 0:
                schema = resources.files("understudy.store").joinpath("schema.sql").read_text()
                db.executescript(f"BEGIN; {schema} PRAGMA user_version = {VERSION}; COMMIT;")
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

    async def _run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        def transaction() -> T:
            assert self._db is not None, "the store is not open"
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._db, *args, **kwargs)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            return result

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    async def save_card(self, model: str, card: Card) -> None:
        await self._run(_save_card, model, card)

    async def cards(self) -> Mapping[str, Card]:
        return await self._run(_cards)

    async def save_worker(self, worker: Worker) -> None:
        await self._run(_save_worker, worker)

    async def workers(self) -> Sequence[Worker]:
        return await self._run(_workers)

    async def begin(self, row: SessionRow) -> None:
        await self._run(_begin, row)

    async def place(self, request: Request) -> Placement | None:
        return await self._run(_place, request)

    async def release(self, session: str) -> None:
        await self._run(_release, session)

    async def end(self, session: str, reason: str, at_s: float) -> None:
        await self._run(_end, session, reason, at_s)

    async def sessions(self, *, live: bool = True) -> Sequence[SessionRow]:
        return await self._run(_sessions, live)

    async def meter(self, intervals: Sequence[Interval]) -> None:
        await self._run(_meter, intervals)

    async def ledger(
        self, *, user: str | None = None, from_s: float = 0.0, to_s: float = math.inf
    ) -> Sequence[Interval]:
        return await self._run(_ledger, user, from_s, to_s)

    async def recover(self, edge: str, at_s: float) -> int:
        return await self._run(_recover, edge, at_s)


def _save_card(db: sqlite3.Connection, model: str, card: Card) -> None:
    db.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (model, json.dumps(card.dump())))


def _cards(db: sqlite3.Connection) -> dict[str, Card]:
    rows = db.execute("SELECT name, card FROM models")
    return {name: Card.parse(json.loads(card)) for name, card in rows}


def _save_worker(db: sqlite3.Connection, worker: Worker) -> None:
    db.execute(
        "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            worker.id,
            worker.node,
            worker.model,
            worker.region,
            worker.slots,
            worker.state,
            worker.progress,
            worker.boot_s,
            worker.reason,
        ),
    )


def _workers(db: sqlite3.Connection) -> list[Worker]:
    workers = [Worker(*row) for row in db.execute(_WORKERS)]
    return [replace(worker, state=WorkerState(worker.state)) for worker in workers]


def _begin(db: sqlite3.Connection, row: SessionRow) -> None:
    live = db.execute(
        "SELECT id FROM sessions WHERE user = ? AND ended_s IS NULL", (row.user,)
    ).fetchone()
    if live:
        raise AlreadyLive(row.user, live[0])
    marks = ", ".join("?" * len(fields(SessionRow)))
    db.execute(f"INSERT INTO sessions ({_SESSION_COLUMNS}) VALUES ({marks})", astuple(row))


def _place(db: sqlite3.Connection, request: Request) -> Placement | None:
    live = db.execute(
        "SELECT worker, slot FROM sessions WHERE id = ? AND ended_s IS NULL", (request.session,)
    ).fetchone()
    if live is None:
        return None  # it ended while it waited
    if live[0] is not None:
        return Placement(*live)
    worker = policy.place(_workers(db), request)
    if worker is None:
        return None
    rows = db.execute(
        "SELECT slot FROM sessions WHERE worker = ? AND ended_s IS NULL", (worker.id,)
    )
    taken = {slot for (slot,) in rows}
    slot = next(slot for slot in range(worker.slots) if slot not in taken)
    db.execute(
        "UPDATE sessions SET worker = ?, slot = ? WHERE id = ?", (worker.id, slot, request.session)
    )
    return Placement(worker.id, slot)


def _release(db: sqlite3.Connection, session: str) -> None:
    db.execute(
        "UPDATE sessions SET worker = NULL, slot = NULL WHERE id = ? AND ended_s IS NULL",
        (session,),
    )


def _end(db: sqlite3.Connection, session: str, reason: str, at_s: float) -> None:
    db.execute(
        "UPDATE sessions SET ended_s = ?, reason = ? WHERE id = ? AND ended_s IS NULL",
        (at_s, reason, session),
    )


def _sessions(db: sqlite3.Connection, live: bool) -> list[SessionRow]:
    only = "WHERE ended_s IS NULL" if live else ""
    return [
        SessionRow(*row)
        for row in db.execute(f"SELECT {_SESSION_COLUMNS} FROM sessions {only} ORDER BY started_s")
    ]


def _meter(db: sqlite3.Connection, intervals: Sequence[Interval]) -> None:
    marks = ", ".join("?" * len(fields(Interval)))
    db.executemany(
        f"INSERT INTO ledger ({_LEDGER_COLUMNS}) VALUES ({marks})"
        " ON CONFLICT (session, seq) DO UPDATE SET samples = excluded.samples, at_s = excluded.at_s"
        " WHERE excluded.samples > samples",
        map(_ledger_row, intervals),  # in C: Python on this thread holds up the audio's
    )


def _ledger(db: sqlite3.Connection, user: str | None, from_s: float, to_s: float) -> list[Interval]:
    whose = "" if user is None else "AND user = ?"
    rows = db.execute(
        f"SELECT {_LEDGER_COLUMNS} FROM ledger WHERE at_s >= ? AND at_s < ? {whose} ORDER BY at_s",
        (from_s, to_s) if user is None else (from_s, to_s, user),
    )
    return [
        replace(interval, role=Role(interval.role)) for interval in (Interval(*r) for r in rows)
    ]


def _recover(db: sqlite3.Connection, edge: str, at_s: float) -> int:
    db.execute("UPDATE workers SET state = 'gone', reason = 'edge restarted'")
    return db.execute(
        "UPDATE sessions SET ended_s = ?, reason = 'edge_lost' WHERE edge = ? AND ended_s IS NULL",
        (at_s, edge),
    ).rowcount
