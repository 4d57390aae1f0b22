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
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from understudy.core import policy
from understudy.core.errors import AlreadyLive, ConfigError
from understudy.core.fleet import (
    Deployment,
    Fleet,
    Placement,
    Request,
    Seat,
    SessionRow,
    Worker,
    WorkerState,
)
from understudy.core.ledger import Interval, Role
from understudy.core.policy_view import Rules, View
from understudy.core.pools import Wanted, pool_of
from understudy.core.wire import Card

P = ParamSpec("P")
T = TypeVar("T")

VERSION: Final = 2
BOOTS: Final = 5  # so many of the last loads are averaged

_SESSION: Final = ", ".join(field.name for field in fields(SessionRow))
_SEAT: Final = ", ".join(field.name for field in fields(Seat))
_LEDGER: Final = ", ".join(field.name for field in fields(Interval))
_ledger_row: Final = attrgetter(*(field.name for field in fields(Interval)))
_WORKER: Final = """id, model, revision, region, slots, state, started_s, price_per_h, ready_s,
    stopped_s, draining, (SELECT count(*) FROM seats WHERE worker = workers.id), reason"""

_COPY_1: Final = """INSERT INTO sessions SELECT id, user, voice, model, '', region, edge, started_s,
    ended_s, reason FROM sessions_1; DROP TABLE sessions_1;"""


def _sql(name: str) -> str:
    return resources.files("understudy.store").joinpath(name).read_text()


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
            if version < VERSION:
                steps = [_sql("schema.sql"), f"PRAGMA user_version = {VERSION};"]
                if version == 1:
                    steps = [_sql("migrate_1.sql"), *steps, _COPY_1]
                db.executescript("BEGIN; " + "\n".join(steps) + " COMMIT;")
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

    async def look(self) -> Fleet:
        return await self._run(_look)

    async def rent(self, worker: Worker) -> None:
        await self._run(_rent, worker)

    async def ready(self, worker: str, at_s: float) -> None:
        await self._run(_ready, worker, at_s)

    async def drain(self, worker: str, on: bool) -> bool:
        return await self._run(_drain, worker, on)

    async def retire(self, worker: str) -> bool:
        return await self._run(_retire, worker)

    async def gone(self, worker: str, at_s: float, reason: str) -> None:
        await self._run(_gone, worker, at_s, reason)

    async def history(self, from_s: float) -> tuple[Sequence[Worker], Sequence[SessionRow]]:
        return await self._run(_history, from_s)

    async def begin(self, row: SessionRow) -> None:
        await self._run(_begin, row)

    async def place(self, request: Request) -> Placement | None:
        return await self._run(_place, request)

    async def move(self, session: str, source: str | None, target: str, why: str) -> bool:
        return await self._run(_move, session, source, target, why)

    async def release(self, session: str, worker: str, slot: int) -> None:
        await self._run(_release, session, worker, slot)

    async def end(self, session: str, reason: str, at_s: float) -> None:
        await self._run(_end, session, reason, at_s)

    async def recover(self, edge: str, at_s: float) -> int:
        return await self._run(_recover, edge, at_s)

    async def save_card(self, model: str, revision: str, card: Card) -> None:
        await self._run(_save_card, model, revision, card)

    async def cards(self) -> Mapping[tuple[str, str], Card]:
        return await self._run(_cards)

    async def deploy(self, deployment: Deployment) -> None:
        await self._run(_deploy, deployment)

    async def deployments(self) -> Sequence[Deployment]:
        return await self._run(_deployments)

    async def fail(self, model: str, revision: str, reason: str) -> None:
        await self._run(_fail, model, revision, reason)

    async def meter(self, intervals: Sequence[Interval]) -> None:
        await self._run(_meter, intervals)

    async def ledger(
        self, *, user: str | None = None, from_s: float = 0.0, to_s: float = math.inf
    ) -> Sequence[Interval]:
        return await self._run(_ledger, user, from_s, to_s)

    async def heard(self, from_s: float) -> Mapping[Role, float]:
        return await self._run(_heard, from_s)


# The fleet


def _look(db: sqlite3.Connection) -> Fleet:
    return _fleet(db, "1", ())


def _fleet(db: sqlite3.Connection, which: str, values: tuple[str, ...]) -> Fleet:
    """The workers, and the sessions that have or want them, for which a condition on `model` (of
    workers, and so of sessions' models or understudies) holds."""
    workers = _workers(db, f"state != 'gone' AND {which} ORDER BY started_s, id", values)
    wants = f"({which} OR {which.replace('model', 'understudy')})"
    rows = db.execute(
        f"SELECT {_SESSION} FROM sessions WHERE ended_s IS NULL AND {wants} ORDER BY started_s, id",
        values * 2,
    )
    sessions = tuple(SessionRow(*row) for row in rows)
    seats = db.execute(
        f"SELECT {_SEAT} FROM seats WHERE session IN"
        f" (SELECT id FROM sessions WHERE ended_s IS NULL AND {wants}) ORDER BY turn",
        values * 2,
    )
    boots = db.execute(
        "SELECT model, (SELECT avg(boot_s) FROM (SELECT ready_s - started_s AS boot_s FROM workers"
        " WHERE workers.model = known.model AND ready_s IS NOT NULL"
        f" ORDER BY ready_s DESC LIMIT {BOOTS})) FROM (SELECT DISTINCT model FROM cards) AS known"
    )
    boot_s = {model: seconds for model, seconds in boots if seconds is not None}
    return Fleet(tuple(workers), sessions, tuple(map(_seat, seats)), boot_s)


def _seat(row: tuple[Any, ...]) -> Seat:
    session, worker, slot, role, turn, why = row
    return Seat(session, worker, slot, Role(role), turn, why)


def _workers(db: sqlite3.Connection, which: str, values: tuple[Any, ...] = ()) -> list[Worker]:
    rows = db.execute(f"SELECT {_WORKER} FROM workers WHERE {which}", values)
    workers = [Worker(*row) for row in rows]
    return [
        replace(worker, state=WorkerState(worker.state), draining=bool(worker.draining))
        for worker in workers
    ]


def _rent(db: sqlite3.Connection, worker: Worker) -> None:
    values = [getattr(worker, field.name) for field in fields(Worker) if field.name != "taken"]
    db.execute(f"INSERT INTO workers VALUES ({_marks(values)})", values)


def _ready(db: sqlite3.Connection, worker: str, at_s: float) -> None:
    db.execute(
        "UPDATE workers SET state = 'ready', ready_s = ? WHERE id = ? AND state = 'loading'",
        (at_s, worker),
    )


def _drain(db: sqlite3.Connection, worker: str, on: bool) -> bool:
    found = db.execute(
        "UPDATE workers SET draining = ? WHERE id = ? AND state != 'gone'", (on, worker)
    )
    return found.rowcount > 0


def _retire(db: sqlite3.Connection, worker: str) -> bool:
    found = db.execute(
        "UPDATE workers SET state = 'stopping' WHERE id = ? AND state != 'gone'"
        " AND NOT EXISTS (SELECT 1 FROM seats WHERE worker = workers.id)",
        (worker,),
    )
    return found.rowcount > 0


def _gone(db: sqlite3.Connection, worker: str, at_s: float, reason: str) -> None:
    db.execute(
        "UPDATE workers SET state = 'gone', stopped_s = ?, reason = ?"
        " WHERE id = ? AND state != 'gone'",
        (at_s, reason, worker),
    )
    db.execute("DELETE FROM seats WHERE worker = ?", (worker,))


def _history(db: sqlite3.Connection, from_s: float) -> tuple[list[Worker], list[SessionRow]]:
    rows = db.execute(
        f"SELECT {_SESSION} FROM sessions WHERE ended_s IS NULL OR ended_s > ? ORDER BY started_s",
        (from_s,),
    )
    return (
        _workers(db, "stopped_s IS NULL OR stopped_s > ?", (from_s,)),
        [SessionRow(*row) for row in rows],
    )


# Sessions and their seats


def _begin(db: sqlite3.Connection, row: SessionRow) -> None:
    live = db.execute(
        "SELECT id FROM sessions WHERE user = ? AND ended_s IS NULL", (row.user,)
    ).fetchone()
    if live:
        raise AlreadyLive(row.user, live[0])
    values = astuple(row)
    db.execute(f"INSERT INTO sessions ({_SESSION}) VALUES ({_marks(values)})", values)


def _place(db: sqlite3.Connection, request: Request) -> Placement | None:
    row = _live(db, request.session)
    if row is None:
        return None  # it ended while it waited
    if request.model != (row.model if request.role is Role.LEAD else row.understudy):
        return None
    seats = _seats(db, request.session)
    for seat in reversed(seats):
        if seat.role is request.role:
            return Placement(seat.worker, seat.slot)
    fleet = _fleet(db, "model = ?", (request.model,))
    # A session that moves goes by where it goes; the slot that it leaves is taken all the same.
    fleet = replace(fleet, workers=tuple(w for w in fleet.workers if w.taken < w.slots))
    wanted = Wanted(request.model, request.revision, slots=1, misfits=request.misfits)
    regions = {request.region} | {worker.region for worker in fleet.workers}
    pools = [pool_of(fleet, wanted, region, asker=row) for region in sorted(regions)]
    chosen = policy.place(View(tuple(pools)), Rules(), request)
    slot = None if chosen is None else _free_slot(db, chosen)
    if chosen is None or slot is None:
        return None
    _sit(db, request.session, chosen, slot, request.role, request.why)
    return Placement(chosen, slot)


def _move(db: sqlite3.Connection, session: str, source: str | None, target: str, why: str) -> bool:
    row = _live(db, session)
    if row is None or source == target:
        return False
    model = db.execute("SELECT model FROM workers WHERE id = ?", (target,)).fetchone()
    if model is None or model[0] not in (row.model, row.understudy):
        return False
    role = Role.LEAD if model[0] == row.model else Role.UNDERSTUDY
    seats = _seats(db, session)
    before = [seat.worker for seat in seats if seat.role is role]
    if (before[-1] if before else None) != source:
        return False
    if role is Role.UNDERSTUDY and any(seat.role is Role.LEAD for seat in seats):
        return False
    slot = _free_slot(db, target)
    if slot is None:
        return False
    _sit(db, session, target, slot, role, why)
    return True


def _live(db: sqlite3.Connection, session: str) -> SessionRow | None:
    row = db.execute(
        f"SELECT {_SESSION} FROM sessions WHERE id = ? AND ended_s IS NULL", (session,)
    ).fetchone()
    return None if row is None else SessionRow(*row)


def _seats(db: sqlite3.Connection, session: str) -> list[Seat]:
    rows = db.execute(f"SELECT {_SEAT} FROM seats WHERE session = ? ORDER BY turn", (session,))
    return [_seat(row) for row in rows]


def _free_slot(db: sqlite3.Connection, worker: str) -> int | None:
    """The lowest one, if the worker takes anybody."""
    found = db.execute(
        "SELECT slots FROM workers WHERE id = ? AND state = 'ready' AND NOT draining", (worker,)
    ).fetchone()
    rows = db.execute("SELECT slot FROM seats WHERE worker = ?", (worker,))
    taken = {slot for (slot,) in rows}
    return next((slot for slot in range(found[0] if found else 0) if slot not in taken), None)


def _sit(
    db: sqlite3.Connection, session: str, worker: str, slot: int, role: Role, why: str
) -> None:
    db.execute(
        f"INSERT INTO seats ({_SEAT}) SELECT ?, ?, ?, ?, coalesce(max(turn) + 1, 0), ?"
        " FROM seats WHERE session = ?",
        (session, worker, slot, role, why, session),
    )


def _release(db: sqlite3.Connection, session: str, worker: str, slot: int) -> None:
    db.execute(
        "DELETE FROM seats WHERE session = ? AND worker = ? AND slot = ?", (session, worker, slot)
    )


def _end(db: sqlite3.Connection, session: str, reason: str, at_s: float) -> None:
    db.execute(
        "UPDATE sessions SET ended_s = ?, reason = ? WHERE id = ? AND ended_s IS NULL",
        (at_s, reason, session),
    )
    db.execute("DELETE FROM seats WHERE session = ?", (session,))


def _recover(db: sqlite3.Connection, edge: str, at_s: float) -> int:
    # Nobody knows when it was; what was last heard of them is the honest guess.
    db.execute(
        "UPDATE workers SET state = 'gone', reason = 'edge restarted', stopped_s = min(?, coalesce("
        "(SELECT max(at_s) FROM ledger WHERE worker = workers.id), ready_s, started_s))"
        " WHERE state != 'gone'",
        (at_s,),
    )
    ended = db.execute(
        "UPDATE sessions SET reason = 'edge_lost', ended_s = min(?, coalesce("
        "(SELECT max(at_s) FROM ledger WHERE session = sessions.id), started_s))"
        " WHERE edge = ? AND ended_s IS NULL",
        (at_s, edge),
    ).rowcount
    db.execute("DELETE FROM seats")
    return ended


# What is learnt and shipped


def _save_card(db: sqlite3.Connection, model: str, revision: str, card: Card) -> None:
    db.execute(
        "INSERT OR REPLACE INTO cards VALUES (?, ?, ?)", (model, revision, json.dumps(card.dump()))
    )


def _cards(db: sqlite3.Connection) -> dict[tuple[str, str], Card]:
    rows = db.execute("SELECT model, revision, card FROM cards")
    return {(model, revision): Card.parse(json.loads(card)) for model, revision, card in rows}


def _deploy(db: sqlite3.Connection, deployment: Deployment) -> None:
    values = astuple(deployment)
    db.execute(f"INSERT INTO deployments VALUES ({_marks(values)})", values)


def _deployments(db: sqlite3.Connection) -> list[Deployment]:
    rows = db.execute("SELECT model, revision, at_s, spec, failed FROM deployments ORDER BY at_s")
    return [Deployment(*row) for row in rows]


def _fail(db: sqlite3.Connection, model: str, revision: str, reason: str) -> None:
    db.execute(
        "UPDATE deployments SET failed = ? WHERE model = ? AND revision = ?",
        (reason, model, revision),
    )


# The ledger


def _meter(db: sqlite3.Connection, intervals: Sequence[Interval]) -> None:
    db.executemany(
        f"INSERT INTO ledger ({_LEDGER}) VALUES ({_marks(fields(Interval))})"
        " ON CONFLICT (session, seq) DO UPDATE SET samples = excluded.samples, at_s = excluded.at_s"
        " WHERE excluded.samples > samples",
        map(_ledger_row, intervals),  # in C: Python on this thread holds up the audio's
    )


def _ledger(db: sqlite3.Connection, user: str | None, from_s: float, to_s: float) -> list[Interval]:
    whose = "" if user is None else "AND user = ?"
    rows = db.execute(
        f"SELECT {_LEDGER} FROM ledger WHERE at_s >= ? AND at_s < ? {whose} ORDER BY at_s",
        (from_s, to_s) if user is None else (from_s, to_s, user),
    )
    return [
        replace(interval, role=Role(interval.role)) for interval in (Interval(*r) for r in rows)
    ]


def _heard(db: sqlite3.Connection, from_s: float) -> dict[Role, float]:
    rows = db.execute(
        "SELECT role, sum(1.0 * samples / rate_hz) FROM ledger WHERE at_s >= ? GROUP BY role",
        (from_s,),
    )
    return dict.fromkeys(Role, 0.0) | {Role(role): seconds for role, seconds in rows}


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
