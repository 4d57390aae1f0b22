"""One pool, one look: who gets a slot, how many workers to start, which one to do without."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from understudy.core.policy_levels import Costs, thresholds
from understudy.core.policy_rates import Rate
from understudy.core.policy_view import Drain, Move, Pool, Stage, Start, Stop, Worker


@dataclass(frozen=True, slots=True)
class Tended:
    """What one pool wants."""

    pool: Pool
    moves: Sequence[Move] = ()
    stops: Sequence[Stop] = ()
    starts: Sequence[Start] = ()
    needed: int = 0  # so many of the starts are for users who wait; the others are foresight


def tend(
    pool: Pool,
    costs: Costs,
    rate: Rate,
    mean_s: float,
    now: float,
    yielding: Collection[str] = (),
) -> Tended:
    """`yielding` workers take nobody new and are stopped once empty: others have waited longer."""
    moves: list[Move] = []
    usable = [worker for worker in pool.workers if is_usable(worker, pool)]
    seats = Seats(pool, [worker for worker in pool.workers if worker.id not in yielding])
    stops = [Stop(w.id) for w in usable if w.id in yielding and not w.sessions]
    for session in pool.waiting:
        if (target := seats.take()) is None:
            break
        moves.append(Move(session.id, None, target))
    for away in pool.away:
        if (target := seats.take()) is None:
            break
        moves.append(Move(away.session, away.worker, target))
    live = len(pool.waiting) + len(pool.away)
    capacity = 0
    for worker in usable:
        live += _settled(worker, pool, now)
        capacity += worker.slots
    if len(usable) < len(pool.workers):
        _retire(pool, usable, seats, moves, stops)
        if pool.drain is Drain.MOVE:
            live += sum(len(w.sessions) for w in pool.workers if not is_usable(w, pool))
    if pool.keep is not None:
        return _keep(pool, usable, moves, stops)
    arrivals_per_s = rate.per_s(live, mean_s)
    started = 0
    room = capacity
    while not pool.held and live - room >= thresholds(room, arrivals_per_s, mean_s, costs).start_at:
        started += 1
        room += pool.slots
    if started:
        start = Start(pool.model, pool.region, pool.revision)
        needed = -(-max(0, live - capacity) // pool.slots)
        return Tended(pool, moves, stops, [start] * started, min(started, needed))
    if usable and not moves and not stops:
        victim = pick_victim(usable)
        base = capacity - victim.slots
        if live - base <= thresholds(base, arrivals_per_s, mean_s, costs).stop_at:
            return empty(pool, usable, victim)
    return Tended(pool, moves, stops)


def _keep(pool: Pool, usable: Sequence[Worker], moves: Sequence[Move], stops: list[Stop]) -> Tended:
    """As many workers as the operator has said; a busy one is not stopped."""
    assert pool.keep is not None
    missing = 0 if pool.held else max(0, pool.keep - len(usable))
    seated = {move.target for move in moves}
    idle = [worker.id for worker in usable if not worker.sessions and worker.id not in seated]
    surplus = max(0, len(usable) - pool.keep)
    stops = [*stops, *(Stop(worker) for worker in sorted(idle)[:surplus])]
    start = Start(pool.model, pool.region, pool.revision)
    return Tended(pool, moves, stops, [start] * missing, missing)


def _settled(worker: Worker, pool: Pool, now: float) -> int:
    """How many sessions count on this worker. A guest does not at first: his home starts a worker
    for him, and two would be started if his host did the same."""
    count = 0
    for session in worker.sessions:
        if session.region == pool.region or now - session.connected_s > 2.0 * pool.boot_s:
            count += 1
    return count


def is_usable(worker: Worker, pool: Pool) -> bool:
    return worker.stage is not Stage.DRAINING and worker.revision == pool.revision


def pick_victim(usable: Sequence[Worker]) -> Worker:
    """Whoever is easiest to do without: the latest to load, else the emptiest."""
    return min(
        usable,
        key=lambda w: (
            w.stage is not Stage.LOADING,
            -w.since_s if w.stage is Stage.LOADING else len(w.sessions),
            w.id,
        ),
    )


def empty(pool: Pool, usable: Sequence[Worker], victim: Worker) -> Tended:
    """Stops a worker without sessions; one that has some is emptied, if all of them fit."""
    if not victim.sessions:
        return Tended(pool, stops=[Stop(victim.id)])
    seats = Seats(pool, [w for w in usable if w.id != victim.id])
    targets = [target for _ in victim.sessions if (target := seats.take()) is not None]
    if len(targets) < len(victim.sessions):
        return Tended(pool)
    return Tended(
        pool,
        [
            Move(session.id, victim.id, target)
            for session, target in zip(victim.sessions, targets, strict=True)
        ],
    )


def _retire(
    pool: Pool,
    usable: Sequence[Worker],
    seats: Seats,
    moves: list[Move],
    stops: list[Stop],
) -> None:
    """Workers that drain, or have an older revision: stopped when empty, emptied when allowed."""
    seated = {move.target for move in moves}
    newest = {worker.id for worker in usable}
    warming = bool(usable or pool.keep) and all(w.stage is Stage.LOADING for w in usable)
    for worker in pool.workers:
        if worker.id in newest or worker.id in seated:
            continue
        if not worker.sessions:
            # An older revision goes on taking sessions until a newer one can.
            if worker.stage is Stage.DRAINING or not warming:
                stops.append(Stop(worker.id))
            continue
        for session in worker.sessions if pool.drain is Drain.MOVE else ():
            if (target := seats.take(newest)) is None:
                break
            moves.append(Move(session.id, worker.id, target))


class Seats:
    """The free slots of a pool's ready workers, handed out by best fit."""

    def __init__(self, pool: Pool, workers: Sequence[Worker]) -> None:
        self._free = {
            worker.id: (worker.revision == pool.revision, len(worker.sessions) - worker.slots)
            for worker in workers
            if worker.stage is Stage.READY and len(worker.sessions) < worker.slots
        }

    def take(self, among: Collection[str] | None = None) -> str | None:
        fits = self._free if among is None else self._free.keys() & among
        if not fits:
            return None
        chosen = max(fits, key=lambda name: (self._free[name], name))
        newest, owed = self._free.pop(chosen)
        if owed < -1:
            self._free[chosen] = (newest, owed + 1)
        return chosen
