"""What every store does, in SQL that SQLite and PostgreSQL both read, and without I/O.

A transaction is a generator: it yields what it asks of the database and is sent the rows. A driver
(sqlite.py, postgresql.py) runs it, if need be again from its beginning: so each one said twice
does what it does when said once.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from enum import Enum, auto
from importlib import resources
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from understudy.core.errors import AlreadyLive
from understudy.core.fleet import (
    Deployment,
    EdgeRow,
    Fleet,
    Link,
    Placement,
    Request,
    Seat,
    SessionRow,
    Worker,
    WorkerState,
)
from understudy.core.ledger import Interval, Role
from understudy.core.seats import choose, free_slot
from understudy.core.wire import Card

T = TypeVar("T")

# A seat, if its slot is free and its worker ready, wanted and linked to the edge.
TAKE: Final = """INSERT INTO seats (session, worker, slot, role, turn, why)
    SELECT ?, ?, CAST(? AS INTEGER), ?, CAST(? AS INTEGER), ?
    WHERE NOT EXISTS (SELECT 1 FROM seats WHERE worker = ? AND slot = ?)
    AND NOT EXISTS (SELECT 1 FROM seats WHERE session = ? AND (turn >= ? OR role = ?))
    AND EXISTS (SELECT 1 FROM sessions WHERE id = ? AND edge = ? AND ended_s IS NULL)
    AND EXISTS (SELECT 1 FROM workers WHERE id = ? AND state = 'ready' AND draining = 0
        AND id IN (SELECT worker FROM links WHERE edge = ?))
    RETURNING slot"""


class Ask(NamedTuple):
    """A statement with `?` for its values. `many`: once for each of `values`, without rows."""

    sql: str
    values: Sequence[Any] = ()
    many: bool = False


Rows: TypeAlias = Sequence[Sequence[Any]]
Transaction: TypeAlias = Generator[Ask, Rows, T]


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    result: T


def advance(transaction: Transaction[T], rows: Rows | None) -> Ask | Done[T]:
    """What a transaction asks next, now that it has its last answer (None: before the first)."""
    try:
        return next(transaction) if rows is None else transaction.send(rows)
    except StopIteration as done:
        return Done(done.value)


class Kind(Enum):
    """What a transaction needs of its database."""

    READ = auto()  # one instant; nothing is written
    WRITE = auto()  # as if nobody else were there
    EACH = auto()  # nothing holds between its statements: each may be a transaction of its own


VERSION: Final = 3
BOOTS: Final = 5  # so many of the last loads are averaged


def script(name: str) -> str:
    return resources.files("understudy.store").joinpath(name).read_text()


def _columns(record: type, *without: str) -> str:
    # Quoted: to PostgreSQL, `user` is something else.
    return ", ".join(f'"{field.name}"' for field in fields(record) if field.name not in without)


def insert(table: str, record: type, *without: str) -> str:
    columns = _columns(record, *without)
    marks = ", ".join("?" * len(columns.split(", ")))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks})"


_SESSION: Final = _columns(SessionRow)
_SEAT: Final = _columns(Seat)
_LEDGER: Final = _columns(Interval)
_DEPLOYMENT: Final = _columns(Deployment)
_ledger_row: Final = attrgetter(*(field.name for field in fields(Interval)))
_COUNTED: Final = ("taken", "linked")  # of a worker, out of other tables
_rented: Final = attrgetter(*(field.name for field in fields(Worker) if field.name not in _COUNTED))
_WORKER: Final = """id, model, revision, region, slots, state, started_s, price_per_h, ready_s,
    stopped_s, draining, (SELECT count(*) FROM seats WHERE worker = workers.id), reason,
    (SELECT count(*) FROM links JOIN edges ON edges.name = links.edge
     WHERE links.worker = workers.id)"""


def _seat(row: Sequence[Any]) -> Seat:
    session, worker, slot, role, turn, why = row
    return Seat(session, worker, slot, Role(role), turn, why)


def _worker(row: Sequence[Any]) -> Worker:
    worker = Worker(*row)
    return replace(
        worker,
        state=WorkerState(worker.state),
        draining=bool(worker.draining),
        linked=bool(worker.linked),
    )


# The fleet


def look() -> Transaction[Fleet]:
    fleet = yield from _fleet("1 = 1", ())
    boots = yield Ask(
        "SELECT model, (SELECT avg(boot_s) FROM (SELECT ready_s - started_s AS boot_s FROM workers"
        " WHERE workers.model = known.model AND ready_s IS NOT NULL"
        f" ORDER BY ready_s DESC LIMIT {BOOTS}) AS loads)"
        " FROM (SELECT DISTINCT model FROM cards) AS known"
    )
    edges = yield Ask("SELECT name, region, url, via, beat FROM edges ORDER BY name")
    links = yield Ask("SELECT worker, edge, rtt_s FROM links ORDER BY worker, edge")
    return replace(
        fleet,
        boot_s={model: boot_s for model, boot_s in boots if boot_s is not None},
        edges=tuple(
            EdgeRow(name, region, url, json.loads(via), beat)
            for name, region, url, via, beat in edges
        ),
        links=tuple(Link(*row) for row in links),
    )


def _fleet(which: str, values: tuple[str, ...]) -> Transaction[Fleet]:
    """The workers, and the sessions that have or want them, for which a condition on `model` (of
    workers, and so of sessions' models or understudies) holds."""
    workers = yield Ask(
        f"SELECT {_WORKER} FROM workers WHERE state != 'gone' AND {which} ORDER BY started_s, id",
        values,
    )
    wants = f"ended_s IS NULL AND ({which} OR {which.replace('model', 'understudy')})"
    sessions = yield Ask(
        f"SELECT {_SESSION} FROM sessions WHERE {wants} ORDER BY started_s, id", values * 2
    )
    seats = yield Ask(
        f"SELECT {_SEAT} FROM seats WHERE session IN (SELECT id FROM sessions WHERE {wants})"
        " ORDER BY turn",
        values * 2,
    )
    return Fleet(
        tuple(_worker(row) for row in workers),
        tuple(SessionRow(*row) for row in sessions),
        tuple(_seat(row) for row in seats),
    )


def rent(worker: Worker) -> Transaction[None]:
    yield Ask(
        f"{insert('workers', Worker, *_COUNTED)} ON CONFLICT (id) DO NOTHING",
        (*_rented(worker)[:-2], int(worker.draining), worker.reason),
    )


def ready(worker: str, at_s: float) -> Transaction[None]:
    yield Ask(
        "UPDATE workers SET state = 'ready', ready_s = ? WHERE id = ? AND state = 'loading'",
        (at_s, worker),
    )


def drain(worker: str, on: bool) -> Transaction[bool]:
    found = yield Ask(
        "UPDATE workers SET draining = ? WHERE id = ? AND state != 'gone' RETURNING id",
        (int(on), worker),
    )
    return bool(found)


def retire(worker: str) -> Transaction[bool]:
    found = yield Ask(
        "UPDATE workers SET state = 'stopping' WHERE id = ? AND state != 'gone'"
        " AND NOT EXISTS (SELECT 1 FROM seats WHERE worker = workers.id) RETURNING id",
        (worker,),
    )
    return bool(found)


def gone(worker: str, at_s: float | None, reason: str) -> Transaction[None]:
    yield Ask(
        "UPDATE workers SET state = 'gone', reason = ?, stopped_s = coalesce(?,"
        " (SELECT max(at_s) FROM ledger WHERE worker = workers.id), ready_s, started_s)"
        " WHERE id = ? AND state != 'gone'",
        (reason, at_s, worker),
    )
    yield Ask("DELETE FROM seats WHERE worker = ?", (worker,))
    yield Ask("DELETE FROM links WHERE worker = ?", (worker,))


def history(from_s: float) -> Transaction[tuple[list[Worker], list[SessionRow]]]:
    workers = yield Ask(
        f"SELECT {_WORKER} FROM workers WHERE stopped_s IS NULL OR stopped_s > ?", (from_s,)
    )
    sessions = yield Ask(
        f"SELECT {_SESSION} FROM sessions WHERE ended_s IS NULL OR ended_s > ? ORDER BY started_s",
        (from_s,),
    )
    return [_worker(row) for row in workers], [SessionRow(*row) for row in sessions]


def loaded() -> Transaction[set[tuple[str, str]]]:
    rows = yield Ask("SELECT DISTINCT model, revision FROM workers WHERE ready_s IS NOT NULL", ())
    return {(model, revision) for model, revision in rows}


# Edges and their links


def beat(edge: EdgeRow) -> Transaction[None]:
    yield Ask(
        "INSERT INTO edges (name, region, url, via, beat) VALUES (?, ?, ?, ?, 1)"
        " ON CONFLICT (name) DO UPDATE SET region = excluded.region, url = excluded.url,"
        " via = excluded.via, beat = edges.beat + 1",
        (edge.name, edge.region, edge.url, json.dumps(dict(edge.via))),
    )


def lose(edge: str, at_s: float, beat: int | None) -> Transaction[int]:
    if beat is None:
        yield Ask("DELETE FROM edges WHERE name = ?", (edge,))
    elif not (
        yield Ask("DELETE FROM edges WHERE name = ? AND beat = ? RETURNING name", (edge, beat))
    ):
        return 0  # it lives after all
    yield Ask("DELETE FROM links WHERE edge = ?", (edge,))
    # Their seats are kept for now: the edge may be mute only, and still at work there.
    orphans = yield Ask(
        "UPDATE sessions SET edge = '', orphaned_s = ? WHERE edge = ? AND ended_s IS NULL"
        " RETURNING id",
        (at_s, edge),
    )
    return len(orphans)


def link(found: Link) -> Transaction[bool]:
    linked = yield Ask(
        "INSERT INTO links (worker, edge, rtt_s) SELECT id, ?, CAST(? AS DOUBLE PRECISION)"
        " FROM workers WHERE id = ?"
        " AND state != 'gone' ON CONFLICT (worker, edge) DO UPDATE SET rtt_s = excluded.rtt_s"
        " RETURNING worker",
        (found.edge, found.rtt_s, found.worker),
    )
    return bool(linked)


def unlink(worker: str, edge: str) -> Transaction[None]:
    yield Ask("DELETE FROM links WHERE worker = ? AND edge = ?", (worker, edge))
    yield Ask(
        "DELETE FROM seats WHERE worker = ?"
        " AND session IN (SELECT id FROM sessions WHERE edge = ?)",
        (worker, edge),
    )


# Sessions and their seats


def begin(row: SessionRow, seat: Seat | None) -> Transaction[bool]:
    yield Ask(  # nobody holds it any more
        "UPDATE sessions SET ended_s = orphaned_s, reason = 'edge_lost' WHERE \"user\" = ?"
        " AND id != ? AND ended_s IS NULL AND edge = ''",
        (row.user, row.id),
    )
    while True:
        begun = yield Ask(
            f"{insert('sessions', SessionRow)}"
            ' ON CONFLICT ("user") WHERE ended_s IS NULL DO NOTHING RETURNING id',
            astuple(row),
        )
        live = yield Ask(
            'SELECT id FROM sessions WHERE "user" = ? AND ended_s IS NULL', (row.user,)
        )
        if begun or (live and live[0][0] == row.id):
            break
        if live:
            raise AlreadyLive(row.user, live[0][0])
        # It ended between the two.
    if seat is None:
        return False
    return (yield from take(seat, row.edge))


def take(seat: Seat, edge: str) -> Transaction[bool]:
    """A seat for a session of the edge that has none in that role, if the slot is free and its
    worker takes people of it."""
    guards = (seat.worker, seat.slot, seat.session, seat.turn, seat.role, seat.session, edge)
    taken = yield Ask(TAKE, (*astuple(seat), *guards, seat.worker, edge))
    return bool(taken)


def place(request: Request) -> Transaction[Placement | None]:
    fleet = yield from _fleet("model = ?", (request.model,))
    links = yield Ask("SELECT worker, rtt_s FROM links WHERE edge = ?", (request.edge,))
    row = next((row for row in fleet.sessions if row.id == request.session), None)
    if row is None or row.edge != request.edge:
        return None  # it ended while it waited, or another edge has taken it on
    if request.model != (row.model if request.role is Role.LEAD else row.understudy):
        return None
    seats = [seat for seat in fleet.seats if seat.session == row.id]
    for seat in reversed(seats):
        if seat.role is request.role:
            return Placement(seat.worker, seat.slot)
    # A session that moves goes by where it goes; the slot that it leaves is taken all the same.
    chosen = choose(fleet, row, request, {str(name): rtt for name, rtt in links})
    if chosen is None:
        return None
    yield _sit(row.id, chosen.worker, chosen.slot, request.role, seats, request.why)
    return chosen


def move(session: str, source: str | None, target: str, why: str) -> Transaction[bool]:
    rows = yield Ask(
        f"SELECT {_SESSION} FROM sessions WHERE id = ? AND ended_s IS NULL"
        " AND edge IN (SELECT edge FROM links WHERE worker = ?)",
        (session, target),
    )
    workers = yield Ask(f"SELECT {_WORKER} FROM workers WHERE id = ?", (target,))
    if not rows or not workers or source == target:
        return False
    row, worker = SessionRow(*rows[0]), _worker(workers[0])
    if worker.model not in (row.model, row.understudy):
        return False
    found = yield Ask(
        f"SELECT {_SEAT} FROM seats WHERE session = ? OR worker = ? ORDER BY turn",
        (session, target),
    )
    there = [_seat(seat) for seat in found]
    seats = [seat for seat in there if seat.session == session]
    role = Role.LEAD if worker.model == row.model else Role.UNDERSTUDY
    before = [seat.worker for seat in seats if seat.role is role]
    if (before[-1] if before else None) != source:
        return False
    if role is Role.UNDERSTUDY and any(seat.role is Role.LEAD for seat in seats):
        return False
    slot = free_slot(worker, there)
    if slot is None:
        return False
    yield _sit(session, target, slot, role, seats, why)
    return True


def _sit(session: str, worker: str, slot: int, role: Role, seats: Sequence[Seat], why: str) -> Ask:
    """`seats`: those that the session has."""
    turn = seats[-1].turn + 1 if seats else 0
    return Ask(insert("seats", Seat), (session, worker, slot, role, turn, why))


def release(session: str, worker: str, slot: int, edge: str) -> Transaction[None]:
    yield Ask(
        "DELETE FROM seats WHERE worker = ? AND slot = ? AND session IN"
        " (SELECT id FROM sessions WHERE id = ? AND edge = ?)",
        (worker, slot, session, edge),
    )


def end(session: str, reason: str, at_s: float, edge: str) -> Transaction[None]:
    ended = yield Ask(
        "UPDATE sessions SET ended_s = ?, reason = ? WHERE id = ? AND edge = ? AND ended_s IS NULL"
        " RETURNING id",
        (at_s, reason, session, edge),
    )
    if ended:
        yield Ask("DELETE FROM seats WHERE session = ?", (session,))


def evict(session: str, reason: str) -> Transaction[None]:
    yield Ask("UPDATE sessions SET reason = ? WHERE id = ? AND ended_s IS NULL", (reason, session))


def adopt(
    user: str, resume: str, edge: str, region: str, orphan: bool
) -> Transaction[SessionRow | None]:
    # One that ended for want of an edge comes back to life, unless its user is live elsewhere.
    found = yield Ask(
        "UPDATE sessions SET edge = ?, region = ?, epoch = epoch + 1, orphaned_s = NULL,"
        " ended_s = NULL, reason = ''"
        " WHERE \"user\" = ? AND resume = ? AND ((ended_s IS NULL AND reason = '') OR"
        " (reason = 'edge_lost' AND NOT EXISTS (SELECT 1 FROM sessions AS other"
        ' WHERE other."user" = sessions."user" AND other.ended_s IS NULL)))'
        f"{' AND edge = ?' if orphan else ''} RETURNING {_SESSION}",
        (edge, region, user, resume, *([""] if orphan else [])),
    )
    if not found:
        return None
    row = SessionRow(*found[0])
    yield Ask("DELETE FROM seats WHERE session = ?", (row.id,))
    return row


def expire(before_s: float) -> Transaction[int]:
    # What was last heard of them is when they ended.
    ended = yield Ask(
        "UPDATE sessions SET reason = 'edge_lost', ended_s ="
        " coalesce((SELECT max(at_s) FROM ledger WHERE session = sessions.id), started_s)"
        " WHERE ended_s IS NULL AND edge = '' AND orphaned_s < ? RETURNING id",
        (before_s,),
    )
    yield Ask("DELETE FROM seats WHERE session = ?", ended, many=True)
    return len(ended)


# What is learnt and shipped


def save_card(model: str, revision: str, card: Card) -> Transaction[None]:
    yield Ask(
        "INSERT INTO cards (model, revision, card) VALUES (?, ?, ?)"
        " ON CONFLICT (model, revision) DO UPDATE SET card = excluded.card",
        (model, revision, json.dumps(card.dump())),
    )


def cards() -> Transaction[dict[tuple[str, str], Card]]:
    rows = yield Ask("SELECT model, revision, card FROM cards")
    return {(model, revision): Card.parse(json.loads(card)) for model, revision, card in rows}


def deploy(deployment: Deployment) -> Transaction[None]:
    yield Ask(
        f"{insert('deployments', Deployment)} ON CONFLICT (model, at_s) DO UPDATE SET"
        " revision = excluded.revision, spec = excluded.spec, failed = excluded.failed",
        astuple(deployment),
    )


def deployments() -> Transaction[list[Deployment]]:
    rows = yield Ask(f"SELECT {_DEPLOYMENT} FROM deployments ORDER BY at_s")
    return [Deployment(*row) for row in rows]


def fail(model: str, revision: str, reason: str) -> Transaction[None]:
    yield Ask(
        "UPDATE deployments SET failed = ? WHERE model = ? AND revision = ?",
        (reason, model, revision),
    )


# The ledger


def meter(intervals: Sequence[Interval]) -> Transaction[None]:
    yield Ask(
        f"{insert('ledger', Interval)}"
        " ON CONFLICT (session, seq) DO UPDATE SET samples = excluded.samples, at_s = excluded.at_s"
        " WHERE excluded.samples > ledger.samples",
        list(map(_ledger_row, intervals)),  # in C: Python on a store's thread holds up the audio's
        many=True,
    )


def ledger(user: str | None, from_s: float, to_s: float) -> Transaction[list[Interval]]:
    whose = "" if user is None else 'AND "user" = ?'
    rows = yield Ask(
        f"SELECT {_LEDGER} FROM ledger WHERE at_s >= ? AND at_s < ? {whose} ORDER BY at_s",
        (from_s, to_s) if user is None else (from_s, to_s, user),
    )
    return [replace(found, role=Role(found.role)) for found in (Interval(*row) for row in rows)]


def heard(from_s: float, session: str | None) -> Transaction[dict[Role, float]]:
    whose = "" if session is None else " AND session = ?"
    rows = yield Ask(
        "SELECT role, sum(CAST(samples AS DOUBLE PRECISION) / rate_hz) FROM ledger"
        f" WHERE at_s >= ?{whose} GROUP BY role",
        (from_s,) if session is None else (from_s, session),
    )
    return dict.fromkeys(Role, 0.0) | {Role(role): seconds for role, seconds in rows}
