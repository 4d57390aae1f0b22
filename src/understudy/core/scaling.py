"""The scaling policy, pure: which worker takes a session, and which workers there should be.

The edge calls `place`, the controller `decide`; the simulator calls the same two. One pool is one
model in one region. In each, sessions are packed by best fit, and since they can move, workers
are levels (core/scaling_levels.py): one more is started when too few slots are free for what may
come while it loads, and the emptiest one is emptied by moves, then stopped, when so many are free
that keeping it costs more than starting it again. Whoever waits is seated first come, first served.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import inf

from understudy.core.scaling_levels import Costs, thresholds
from understudy.core.scaling_rates import Life, Rate
from understudy.core.scaling_view import (
    Drain,
    Memory,
    Move,
    Plan,
    Pool,
    Request,
    Rules,
    Seen,
    Stage,
    Start,
    Stop,
    View,
    Worker,
)


def place(view: View, rules: Rules, request: Request) -> str | None:
    """The worker for a session that connects: at home if there is room, else in the nearest
    region that is near enough; there the newest revision, then the fullest one.

    Filling one worker before the next keeps others empty, so that they can be given back. Nobody
    overtakes those who wait for the same workers already.
    """
    near: list[tuple[float, str, Pool]] = []
    for pool in view.pools:
        if pool.model == request.model:
            home = pool.region == request.region
            rtt_s = 0.0 if home else view.rtt_s.get((request.region, pool.region), inf)
            if home or rtt_s <= rules.far_rtt_s:
                near.append((rtt_s, pool.region, pool))
    for _, _, pool in sorted(near, key=lambda found: found[:2]):
        chosen = None if pool.waiting else Seats(pool, pool.workers).take()
        if chosen is not None:
            return chosen
    return None


def decide(view: View, rules: Rules, now: float, memory: Memory) -> tuple[Plan, Memory]:
    """One look at the whole fleet. Pools are independent of each other but for the limits."""
    pools, life = dict(memory.pools), memory.life
    tended: list[_Tended] = []
    live = sum(pool.arrived - pool.ended for pool in view.pools)
    urgency = rules.urgency(life.fleet(live))
    for pool in view.pools:
        seen = pools.get(pool.key)
        if seen is not None and seen.pool is pool and now < seen.look_again_s and not seen.short:
            continue
        rate, life = _learn(seen, pool, now, life)
        wish = _tend(pool, rules.costs(pool, urgency), rate, life.mean_s, now)
        tended.append(wish)
        pools[pool.key] = Seen(pool, now, now + rules.look_s, rate)
    starts = [start for wish in tended for start in wish.starts]
    stops = [stop for wish in tended for stop in wish.stops]
    # Two pools may want to move one guest: home first comes the one that is looked at first.
    moves = list({move.session: move for wish in tended for move in wish.moves}.values())
    if starts and (rules.max_nodes is not None or rules.budget_per_h is not None):
        starts, reclaimed = _limit(view, rules, tended, len(stops))
        for wish in tended:
            if wish.starts and any(start not in starts for start in wish.starts):
                pools[wish.pool.key] = replace(pools[wish.pool.key], short=True)
        if not stops and not moves:  # else the next look finds out what is still missing
            moves, stops = reclaimed
    again = min((seen.look_again_s for seen in pools.values()), default=None)
    return Plan(tuple(moves), tuple(stops), tuple(starts), again), Memory(pools, life)


def _learn(seen: Seen | None, pool: Pool, now: float, life: Life) -> tuple[Rate, Life]:
    if seen is None:
        return Rate(), life.after(now, 0, 0.0)
    dt_s = max(0.0, now - seen.at_s)
    before = seen.pool
    # Counters that fell belong to another store; nothing is learnt from them.
    ends = max(0, pool.ended - before.ended)
    lived_s = dt_s * (before.arrived - before.ended)
    return seen.rate.after(dt_s, max(0, pool.arrived - before.arrived)), life.after(
        now, ends, lived_s
    )


@dataclass(frozen=True, slots=True)
class _Tended:
    """What one pool wants."""

    pool: Pool
    moves: Sequence[Move] = ()
    stops: Sequence[Stop] = ()
    starts: Sequence[Start] = ()
    needed: int = 0  # so many of the starts are for users who wait; the others are foresight


def _tend(pool: Pool, costs: Costs, rate: Rate, mean_s: float, now: float) -> _Tended:
    moves: list[Move] = []
    stops: list[Stop] = []
    usable = [worker for worker in pool.workers if _is_usable(worker, pool)]
    seats = Seats(pool, pool.workers)
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
            live += sum(len(w.sessions) for w in pool.workers if not _is_usable(w, pool))
    arrivals_per_s = rate.per_s(live, mean_s)
    started = 0
    room = capacity
    while live - room >= thresholds(room, arrivals_per_s, mean_s, costs).start_at:
        started += 1
        room += pool.slots
    if started:
        start = Start(pool.model, pool.region, pool.revision)
        needed = -(-max(0, live - capacity) // pool.slots)
        return _Tended(pool, moves, stops, [start] * started, min(started, needed))
    if usable and not moves and not stops:
        victim = _victim(usable)
        base = capacity - victim.slots
        if live - base <= thresholds(base, arrivals_per_s, mean_s, costs).stop_at:
            return _empty(pool, usable, victim)
    return _Tended(pool, moves, stops)


def _settled(worker: Worker, pool: Pool, now: float) -> int:
    """How many sessions count on this worker. A guest does not at first: his home starts a worker
    for him, and two would be started if his host did the same."""
    count = 0
    for session in worker.sessions:
        if session.region == pool.region or now - session.connected_s > 2.0 * pool.boot_s:
            count += 1
    return count


def _is_usable(worker: Worker, pool: Pool) -> bool:
    return worker.stage is not Stage.DRAINING and worker.revision == pool.revision


def _victim(usable: Sequence[Worker]) -> Worker:
    """Whoever is easiest to do without: the latest to load, else the emptiest."""
    return min(
        usable,
        key=lambda w: (
            w.stage is not Stage.LOADING,
            -w.since_s if w.stage is Stage.LOADING else len(w.sessions),
            w.id,
        ),
    )


def _empty(pool: Pool, usable: Sequence[Worker], victim: Worker) -> _Tended:
    """Stops a worker without sessions; one that has some is emptied, if all of them fit."""
    if not victim.sessions:
        return _Tended(pool, stops=[Stop(victim.id)])
    seats = Seats(pool, [w for w in usable if w.id != victim.id])
    targets = [target for _ in victim.sessions if (target := seats.take()) is not None]
    if len(targets) < len(victim.sessions):
        return _Tended(pool)
    return _Tended(
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
    for worker in pool.workers:
        if worker.id in newest or worker.id in seated:
            continue
        if not worker.sessions:
            stops.append(Stop(worker.id))
            continue
        for session in worker.sessions if pool.drain is Drain.MOVE else ():
            if (target := seats.take(newest)) is None:
                return
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


def _limit(
    view: View, rules: Rules, tended: Sequence[_Tended], stopped: int
) -> tuple[list[Start], tuple[list[Move], list[Stop]]]:
    """The starts that the limits allow, for those who have waited longest first; and, if someone
    who waits gets none, what makes room: the pools' foresight is given back."""
    nodes = sum(len(pool.workers) for pool in view.pools) - stopped
    spent = sum(len(pool.workers) * pool.price_per_h for pool in view.pools)
    wishes = [
        # A waiting user outranks all foresight; the k-th start stands for the users beyond it.
        (k >= wish.needed, _connected_s(wish.pool, k), wish.pool.key, wish.pool.price_per_h, start)
        for wish in tended
        for k, start in enumerate(wish.starts)
    ]
    wishes.sort(key=lambda wish: wish[:3])
    allowed: list[Start] = []
    refused = 0
    for foresight, _, _, price_per_h, start in wishes:
        fits = rules.max_nodes is None or nodes < rules.max_nodes
        if rules.budget_per_h is not None and spent + price_per_h > rules.budget_per_h + 1e-9:
            fits = False
        # Nobody behind a refused user is served before him.
        if fits and not refused:
            allowed.append(start)
            nodes += 1
            spent += price_per_h
        elif not foresight:
            refused += 1
        else:
            break
    return allowed, _reclaim(view, refused)


def _connected_s(pool: Pool, k: int) -> float:
    """When the first of the users connected for whom the k-th start would be."""
    index = k * pool.slots
    return pool.waiting[index].connected_s if index < len(pool.waiting) else inf


def _reclaim(view: View, count: int) -> tuple[list[Move], list[Stop]]:
    moves: list[Move] = []
    stops: list[Stop] = []
    for pool in view.pools:
        if len(moves) + len(stops) >= count:
            break
        usable = [worker for worker in pool.workers if _is_usable(worker, pool)]
        if pool.waiting or not usable:
            continue
        victim = _victim(usable)
        spare = sum(worker.slots - len(worker.sessions) for worker in usable)
        if spare >= victim.slots:
            emptied = _empty(pool, usable, victim)
            moves += emptied.moves
            stops += emptied.stops
    return moves, stops
