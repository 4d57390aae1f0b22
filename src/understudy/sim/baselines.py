"""The production policy, and how other systems would run the same fleet, as pure functions.

Their models are kind to them: a waiting session gets the next free slot at once, first come,
first served, no busy worker is ever killed, and nothing else fails. None of them has an
understudy (whoever waits hears nothing) or moves a session. Sources of the defaults:

- `reactive`: a worker for who waits, and none for nobody; what a queue and scale to zero give.
- `buffer`: Agones' FleetAutoscaler with a Counter policy: every 30 s (`sync.fixedInterval`)
  enough workers for the sessions and `bufferSize: 5` slots, as in its reference page's example
  (agones.dev/site/docs/reference/fleetautoscaler); fullest worker first (`Packed`).
- `target`: Kubernetes' HorizontalPodAutoscaler (autoscaling/v2): every 15 s
  ceil(workers · use / target) with a target of 80 %, a tolerance of 0.1, at least one worker, up
  by at most 100 % or 4 workers a period, down to the highest wish of the last 300 s; sessions
  spread to the emptiest worker. Those who wait count as use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from understudy.core import policy
from understudy.core.fleet import Request
from understudy.core.policy_view import (
    Key,
    Memory,
    Move,
    Plan,
    Pool,
    Rules,
    Stage,
    Start,
    Stop,
    View,
    Worker,
)
from understudy.sim.world import Policy

BUFFER_SLOTS: Final = 5
BUFFER_SYNC_S: Final = 30.0
TARGET_USE: Final = 0.8
TARGET_SYNC_S: Final = 15.0
TARGET_TOLERANCE: Final = 0.1
TARGET_LEAST: Final = 1
TARGET_STEP: Final = 4
TARGET_STEP_SHARE: Final = 1.0
TARGET_DOWN_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Understudy:
    """core/policy.py itself."""

    rules: Rules = field(default_factory=Rules)
    name: str = "understudy"
    has_understudy: bool = True

    def first(self) -> Memory:
        return Memory()

    def place(self, view: View, request: Request, memory: Memory) -> str | None:
        return policy.place(view, self.rules, request)

    def decide(self, view: View, now: float, memory: Memory) -> tuple[Plan, Memory]:
        return policy.decide(view, self.rules, now, memory)


@dataclass(frozen=True, slots=True)
class Synced:
    """When a baseline looks next, what it wished for lately, and whom it let go."""

    next_s: float = 0.0
    wishes: Mapping[Key, tuple[tuple[float, int], ...]] = field(default_factory=dict)
    marked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reactive:
    rules: Rules = field(default_factory=Rules)
    name: str = "reactive"
    has_understudy: bool = False

    def first(self) -> Synced:
        return Synced()

    def place(self, view: View, request: Request, memory: Synced) -> str | None:
        return _seat(_pool(view, request), memory, spread=False)

    def decide(self, view: View, now: float, memory: Synced) -> tuple[Plan, Synced]:
        moves, waiting = _serve(view, memory, spread=False)
        taken = {move.target for move in moves}
        starts: list[Start] = []
        stops: list[Stop] = []
        for pool in view.pools:
            loading = sum(w.slots for w in pool.workers if w.stage is Stage.LOADING)
            missing = ceil(max(0, waiting[pool.key] - loading) / pool.slots)
            starts += [_start(pool)] * missing
            stops += [Stop(w.id) for w in pool.workers if _is_idle(w) and w.id not in taken]
        return _limited(view, self.rules, moves, stops, starts, None), memory


@dataclass(frozen=True, slots=True)
class Buffer:
    rules: Rules = field(default_factory=Rules)
    name: str = "buffer"
    has_understudy: bool = False

    def first(self) -> Synced:
        return Synced()

    def place(self, view: View, request: Request, memory: Synced) -> str | None:
        return _seat(_pool(view, request), memory, spread=False)

    def decide(self, view: View, now: float, memory: Synced) -> tuple[Plan, Synced]:
        moves, _ = _serve(view, memory, spread=False)
        if moves or now < memory.next_s:
            return Plan(tuple(moves), look_again_s=memory.next_s), memory
        starts: list[Start] = []
        stops: list[Stop] = []
        for pool in view.pools:
            allocated = sum(len(w.sessions) for w in pool.workers)
            change = ceil((allocated + BUFFER_SLOTS) / pool.slots) - len(pool.workers)
            starts += [_start(pool)] * change
            idle = [w for w in pool.workers if not w.sessions]
            stops += [Stop(w.id) for w in idle[: max(0, -change)]]
        memory = Synced(now + BUFFER_SYNC_S)
        return _limited(view, self.rules, moves, stops, starts, memory.next_s), memory


@dataclass(frozen=True, slots=True)
class Target:
    rules: Rules = field(default_factory=Rules)
    name: str = "target"
    has_understudy: bool = False

    def first(self) -> Synced:
        return Synced()

    def place(self, view: View, request: Request, memory: Synced) -> str | None:
        return _seat(_pool(view, request), memory, spread=True)

    def decide(self, view: View, now: float, memory: Synced) -> tuple[Plan, Synced]:
        moves, _ = _serve(view, memory, spread=True)
        stops = [
            Stop(w.id)
            for pool in view.pools
            for w in pool.workers
            if w.id in memory.marked and not w.sessions
        ]
        if moves or now < memory.next_s:
            return Plan(tuple(moves), tuple(stops), look_again_s=memory.next_s), memory
        starts: list[Start] = []
        marked = set(memory.marked)
        wishes = dict(memory.wishes)
        for pool in view.pools:
            kept = [w for w in pool.workers if w.id not in memory.marked]
            wish = self._wish(pool, len(kept))
            recent = [(t, n) for t, n in wishes.get(pool.key, ()) if t > now - TARGET_DOWN_S]
            wishes[pool.key] = (*recent, (now, wish))
            most = max(n for _, n in wishes[pool.key])
            if wish > len(kept):
                starts += [_start(pool)] * (wish - len(kept))
            elif most < len(kept):
                kept.sort(key=lambda w: len(w.sessions))
                marked |= {w.id for w in kept[: len(kept) - most]}
        memory = Synced(now + TARGET_SYNC_S, wishes, frozenset(marked))
        return _limited(view, self.rules, moves, stops, starts, memory.next_s), memory

    @staticmethod
    def _wish(pool: Pool, workers: int) -> int:
        live = len(pool.waiting) + sum(len(w.sessions) for w in pool.workers)
        if workers == 0:
            return TARGET_LEAST
        ratio = live / (workers * pool.slots) / TARGET_USE
        if abs(ratio - 1.0) <= TARGET_TOLERANCE:
            return workers
        most = workers + max(TARGET_STEP, ceil(workers * TARGET_STEP_SHARE))
        return max(TARGET_LEAST, min(most, ceil(workers * ratio)))


POLICIES: Final[Mapping[str, Callable[[Rules], Policy]]] = {
    "understudy": Understudy,
    "reactive": Reactive,
    "buffer": Buffer,
    "target": Target,
}


def _pool(view: View, request: Request) -> Pool | None:
    for pool in view.pools:
        if (pool.model, pool.region) == (request.model, request.region):
            return pool
    return None


def _free(pool: Pool, memory: Synced) -> dict[str, list[int]]:
    return {
        w.id: [len(w.sessions), w.slots]
        for w in pool.workers
        if w.stage is Stage.READY and len(w.sessions) < w.slots and w.id not in memory.marked
    }


def _best(free: Mapping[str, Sequence[int]], *, spread: bool) -> str:
    return max(free, key=lambda name: (-free[name][0] if spread else free[name][0], name))


def _seat(pool: Pool | None, memory: Synced, *, spread: bool) -> str | None:
    if pool is None or pool.waiting or not (free := _free(pool, memory)):
        return None
    return _best(free, spread=spread)


def _serve(view: View, memory: Synced, *, spread: bool) -> tuple[list[Move], dict[Key, int]]:
    """Free slots for those who wait; and how many wait on, in each pool."""
    moves: list[Move] = []
    left: dict[Key, int] = {}
    for pool in view.pools:
        left[pool.key] = len(pool.waiting)
        free = _free(pool, memory) if pool.waiting else {}
        for session in pool.waiting:
            if not free:
                break
            target = _best(free, spread=spread)
            free[target][0] += 1
            if free[target][0] == free[target][1]:
                del free[target]
            moves.append(Move(session.id, None, target))
            left[pool.key] -= 1
    return moves, left


def _is_idle(worker: Worker) -> bool:
    return worker.stage is Stage.READY and not worker.sessions


def _start(pool: Pool) -> Start:
    return Start(pool.model, pool.region, pool.revision)


def _limited(
    view: View,
    rules: Rules,
    moves: Sequence[Move],
    stops: Sequence[Stop],
    starts: Sequence[Start],
    again_s: float | None,
) -> Plan:
    """The same limits for all: what goes beyond them is not started."""
    nodes = sum(len(pool.workers) for pool in view.pools) - len(stops)
    prices = {pool.key: pool.price_per_h for pool in view.pools}
    spent = sum(len(pool.workers) * pool.price_per_h for pool in view.pools)
    allowed: list[Start] = []
    for start in starts:
        price = prices[start.model, start.region]
        if rules.max_nodes is not None and nodes >= rules.max_nodes:
            break
        if rules.budget_per_h is not None and spent + price > rules.budget_per_h + 1e-9:
            break
        allowed.append(start)
        nodes += 1
        spent += price
    return Plan(tuple(moves), tuple(stops), tuple(allowed), again_s)
