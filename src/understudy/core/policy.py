"""The scaling policy, pure: which worker takes a session, and which workers there should be.

The edge calls `place`, the controller `decide`; the simulator calls the same two. One pool is one
model in one region. In each, sessions are packed by best fit, and since they can move, workers
are levels (core/policy_levels.py): one more is started when too few slots are free for what may
come while it loads, and the emptiest one is emptied by moves, then stopped, when so many are free
that keeping it costs more than starting it again. Whoever waits is seated first come, first served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from understudy.core.fleet import Request
from understudy.core.policy_pool import Seats, Tended, empty, is_usable, pick_victim, tend
from understudy.core.policy_rates import Life, Rate
from understudy.core.policy_view import (
    Memory,
    Move,
    Plan,
    Pool,
    Rules,
    Seen,
    Stage,
    Start,
    Stop,
    View,
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
    tended: list[Tended] = []
    live = sum(pool.arrived - pool.ended for pool in view.pools)
    urgency = rules.urgency(life.fleet(live))
    for pool in view.pools:
        seen = pools.get(pool.key)
        if seen is not None and seen.pool is pool and now < seen.look_again_s and not seen.short:
            continue
        rate, life = _learn(seen, pool, now, life)
        wish = tend(pool, rules.costs(pool, urgency), rate, life.mean_s, now, memory.yielding)
        tended.append(wish)
        pools[pool.key] = Seen(pool, now, now + rules.look_s, rate)
    starts = [start for wish in tended for start in wish.starts]
    stops = [stop for wish in tended for stop in wish.stops]
    # Two pools may want to move one guest, his home and his host; each session moves once.
    moves = list({move.session: move for wish in tended for move in wish.moves}.values())
    yielding: frozenset[str] = frozenset()
    if starts and (rules.max_nodes is not None or rules.budget_per_h is not None):
        starts, refused = _limit(view, rules, tended)
        granted = Counter((start.model, start.region) for start in starts)
        for wish in tended:
            if len(wish.starts) > granted[wish.pool.key]:
                pools[wish.pool.key] = replace(pools[wish.pool.key], short=True)
        if refused and not stops and not moves:  # else the next look finds what is still missing
            moves, stops = _reclaim(view, len(refused))
        due = [connected_s for connected_s in refused if now - connected_s >= rules.yield_s]
        yielding = _yield(view, due, memory.yielding)
    again = min((seen.look_again_s for seen in pools.values()), default=None)
    plan = Plan(tuple(moves), tuple(stops), tuple(starts), again)
    return plan, Memory(pools, life, yielding)


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


def _limit(view: View, rules: Rules, tended: Sequence[Tended]) -> tuple[list[Start], list[float]]:
    """The starts that the limits allow, for those who have waited longest first; and for the
    ones that are refused to users who wait, when the first of these connected."""
    rented = [pool for pool in view.pools if pool.keep is None]
    nodes = sum(len(pool.workers) for pool in rented)
    spent = sum(len(pool.workers) * pool.price_per_h for pool in rented)
    always_on = [start for wish in tended if wish.pool.keep is not None for start in wish.starts]
    tended = [wish for wish in tended if wish.pool.keep is None]
    for wish in tended:  # stops come first
        nodes -= len(wish.stops)
        spent -= len(wish.stops) * wish.pool.price_per_h
    wishes = [
        # A waiting user outranks all foresight; the k-th start stands for the users beyond it.
        (k >= wish.needed, _connected_s(wish.pool, k), wish.pool.key, wish.pool.price_per_h, start)
        for wish in tended
        for k, start in enumerate(wish.starts)
    ]
    wishes.sort(key=lambda wish: wish[:3])
    allowed: list[Start] = []
    refused: list[float] = []
    for foresight, connected_s, _, price_per_h, start in wishes:
        fits = rules.max_nodes is None or nodes < rules.max_nodes
        if rules.budget_per_h is not None and spent + price_per_h > rules.budget_per_h + 1e-9:
            fits = False
        # Nobody behind a refused user is served before him.
        if fits and not refused:
            allowed.append(start)
            nodes += 1
            spent += price_per_h
        elif not foresight:
            refused.append(connected_s)
        else:
            break
    return [*always_on, *allowed], refused


def _connected_s(pool: Pool, k: int) -> float:
    """When the first of the users connected for whom the k-th start would be."""
    index = k * pool.slots
    return pool.waiting[index].connected_s if index < len(pool.waiting) else inf


def _reclaim(view: View, count: int) -> tuple[list[Move], list[Stop]]:
    """Makes room for `count` workers where nobody waits: foresight is given back, and sessions
    are packed as tightly as they go."""
    moves: list[Move] = []
    stops: list[Stop] = []
    victims = 0
    for pool in view.pools:
        if victims >= count:
            break
        usable = [worker for worker in pool.workers if is_usable(worker, pool)]
        if pool.waiting or pool.away or pool.keep is not None or not usable:
            continue
        victim = pick_victim(usable)
        spare = sum(worker.slots - len(worker.sessions) for worker in usable)
        if spare >= victim.slots:
            emptied = empty(pool, usable, victim)
            moves += emptied.moves
            stops += emptied.stops
            victims += bool(emptied.moves or emptied.stops)
    return moves, stops


def _yield(view: View, due: Sequence[float], before: frozenset[str]) -> frozenset[str]:
    """One worker for each user who has waited too long, from the pools whose own users came
    later: it takes nobody new, since in a pool that is always full it would never be given back."""
    chosen: list[str] = []
    for connected_s in due:
        found = [
            (worker.id not in before, len(worker.sessions), worker.id)
            for pool in view.pools
            if pool.keep is None and pool.waiting and pool.waiting[0].connected_s > connected_s
            for worker in pool.workers
            if worker.stage is Stage.READY and worker.id not in chosen
        ]
        if found:
            chosen.append(min(found)[2])
    return frozenset(chosen)
