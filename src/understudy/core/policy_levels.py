"""When one more worker pays: the optimal stopping problem of a single level, solved exactly.

With moves, sessions can always be packed, so a pool's workers are interchangeable and can be seen
as levels: level k is worth having while more than `base` = slots·(k-1) sessions are live. Let
x = sessions - base. Sessions come at a Poisson rate and each leaves at rate 1/mean (the birth
and death process of an M/M/∞ queue); a level that is on costs 1 GPU-second a second, one that is
off costs `patience` GPU-seconds for each second of each of the min(slots, max(0, x)) sessions that
the understudy has to cover, and switching on takes `boot_s`, during which both are paid.

The optimal policy starts the level at x >= start_at and stops it at x <= stop_at, and those two
integers are found here: free slots as inventory with the boot as lead time (the newsvendor's
critical fractile), and the break-even idle time as the gap between the two. Costs are discounted
over `horizon_s`, since rates do not stay for longer. The chain is made discrete in steps of at
most half an event, each threshold's cost-to-go is a tridiagonal system (Thomas's algorithm), and
the two systems are joined at the thresholds by two linear equations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, log, sqrt
from typing import Final

GRAIN: Final = 0.1  # rates are rounded to e^0.1, so that few problems need to be solved
LONGEST: Final = 64  # thresholds below -LONGEST are not looked at


@dataclass(frozen=True, slots=True)
class Costs:
    """What a level's life is weighed by; all but `boot_s` and `horizon_s` in GPU-seconds."""

    slots: int
    boot_s: float
    patience: float  # a second of a session on the understudy
    stop_cost: float  # of moving the sessions of a worker that is stopped
    horizon_s: float


@dataclass(frozen=True, slots=True)
class Thresholds:
    """In sessions beyond the level's base: free slots are -x."""

    start_at: int
    stop_at: int


def thresholds(base: int, arrivals_per_s: float, mean_s: float, costs: Costs) -> Thresholds:
    """The level above `base` sessions, with rates as they are believed to be now."""
    rate = round(log(max(arrivals_per_s, 1e-6)) / GRAIN)
    mean = round(log(max(mean_s, 1.0)) / GRAIN)
    if base > 10 * costs.slots:  # far up, neighbours hardly differ
        step = 1 << (base // (10 * costs.slots)).bit_length()
        base = round(base / costs.slots / step) * step * costs.slots
    return _solve(base, exp(rate * GRAIN), exp(mean * GRAIN), costs)


@lru_cache(maxsize=65536)
def _solve(base: int, arrivals_per_s: float, mean_s: float, costs: Costs) -> Thresholds:
    level = _Level(base, arrivals_per_s, mean_s, costs)
    best = level.best_stop(1)
    for start_at in range(0, level.low - 1, -1):
        tried = level.best_stop(start_at)
        if tried.start_cost >= level.cost_off(best, start_at):  # to wait once more is cheaper
            break
        best = tried
    return Thresholds(best.start_at, best.stop_at)


@dataclass(frozen=True, slots=True)
class _Policy:
    start_at: int
    stop_at: int
    start_cost: float  # cost-to-go at `start_at`


class _Level:
    """One problem: the chain on low..high, and the solved pieces that threshold pairs share."""

    def __init__(self, base: int, arrivals_per_s: float, mean_s: float, costs: Costs) -> None:
        self.costs = costs
        drift = arrivals_per_s * costs.boot_s
        reach = min(LONGEST, ceil(8 + drift + 4 * sqrt(max(drift, 1.0)) + 2 * costs.slots))
        self.low = max(-base, -reach)
        self.high = reach
        size = self.high - self.low + 1
        deaths = [(base + self.low + i) / mean_s for i in range(size)]
        fastest = arrivals_per_s + deaths[-1]
        self.steps = max(6, ceil(costs.boot_s * fastest / 0.5))
        step_s = costs.boot_s / self.steps
        self.step_s = step_s
        self.keep = exp(-step_s / costs.horizon_s)
        self.up = [arrivals_per_s * step_s] * (size - 1) + [0.0]
        self.down = [0.0] + [d * step_s for d in deaths[1:]]
        wait = [min(costs.slots, max(0, self.low + i)) for i in range(size)]
        self.wait_cost = [costs.patience * w * step_s for w in wait]
        self._boots: dict[int, tuple[float, list[float]]] = {}
        self._off: dict[int, tuple[list[float], list[float]]] = {}
        self._on: dict[int, tuple[list[float], list[float]]] = {}

    def best_stop(self, start_at: int) -> _Policy:
        best: _Policy | None = None
        for stop_at in range(min(0, start_at - 1), self.low - 1, -1):
            cost = self._start_cost(start_at, stop_at)
            if best is not None and cost >= best.start_cost:
                break
            best = _Policy(start_at, stop_at, cost)
        if best is None:  # nothing lies below: it never stops
            best = _Policy(start_at, self.low - 1, self._start_cost(start_at, self.low - 1))
        return best

    def cost_off(self, policy: _Policy, x: int) -> float:
        fixed, share = self._off_costs(policy.start_at)
        return fixed[x - self.low] + share[x - self.low] * policy.start_cost

    def _start_cost(self, start_at: int, stop_at: int) -> float:
        """s = spent while booting + discount · E[cost-to-go after], which is linear in s."""
        spent, after = self._boot(start_at)
        fixed_off, share_off = self._off_costs(start_at)
        fixed_on, share_on = self._on_costs(stop_at)
        at_stop = stop_at - self.low
        stop_fixed = stop_share = 0.0
        if at_stop >= 0:
            stop_fixed = fixed_off[at_stop] + self.costs.stop_cost
            stop_share = share_off[at_stop]
        fixed = share = 0.0
        for i, chance in enumerate(after):
            if i <= at_stop:
                fixed += chance * (fixed_off[i] + self.costs.stop_cost)
                share += chance * share_off[i]
            else:
                fixed += chance * (fixed_on[i] + share_on[i] * stop_fixed)
                share += chance * share_on[i] * stop_share
        keep: float = self.keep**self.steps
        return (spent + keep * fixed) / (1.0 - keep * share)

    def _boot(self, start_at: int) -> tuple[float, list[float]]:
        """What a boot from `start_at` costs, and where the chain is after it."""
        if start_at in self._boots:
            return self._boots[start_at]
        size = len(self.up)
        chance = [0.0] * size
        chance[start_at - self.low] = 1.0
        first = last = start_at - self.low
        spent, weight = 0.0, 1.0
        for _ in range(self.steps):
            spent += weight * self.step_s
            after = [0.0] * size
            for i in range(first, last + 1):
                p = chance[i]
                spent += weight * p * self.wait_cost[i]
                up, down = self.up[i], self.down[i]
                after[i] += p * (1.0 - up - down)
                if up:
                    after[i + 1] += p * up
                if down:
                    after[i - 1] += p * down
            chance = after
            first, last = max(0, first - 1), min(size - 1, last + 1)
            weight *= self.keep
        self._boots[start_at] = spent, chance
        return spent, chance

    def _off_costs(self, start_at: int) -> tuple[list[float], list[float]]:
        """Cost-to-go below `start_at`, as fixed + share · (cost at `start_at`)."""
        if start_at not in self._off:
            n = start_at - self.low
            a, b = self._thomas(0, n, self.wait_cost[:n], above=True)
            self._off[start_at] = ([*a, 0.0], [*b, 1.0])
        return self._off[start_at]

    def _on_costs(self, stop_at: int) -> tuple[list[float], list[float]]:
        """Cost-to-go above `stop_at`, as fixed + share · (cost at `stop_at`)."""
        if stop_at not in self._on:
            first = stop_at - self.low + 1
            n = len(self.up) - first
            a, b = self._thomas(first, n, [self.step_s] * n, above=False)
            self._on[stop_at] = ([0.0] * first + a, [0.0] * first + b)
        return self._on[stop_at]

    def _thomas(
        self, first: int, n: int, costs: list[float], *, above: bool
    ) -> tuple[list[float], list[float]]:
        """(I - keep·P) V = costs on n states, for the costs and for a unit at the boundary."""
        keep = self.keep
        ratio, fixed, share = [0.0] * n, [0.0] * n, [0.0] * n
        for i in range(n):
            up, down = self.up[first + i], self.down[first + i]
            diagonal = 1.0 - keep * (1.0 - up - down)
            right_share = 0.0
            if i:
                diagonal -= keep * down * ratio[i - 1]
                right = costs[i] + keep * down * fixed[i - 1]
                right_share = keep * down * share[i - 1]
            else:
                right = costs[i]
                if not above:
                    right_share = keep * down
            if above and i == n - 1:
                right_share += keep * up
            ratio[i] = keep * up / diagonal
            fixed[i] = right / diagonal
            share[i] = right_share / diagonal
        for i in range(n - 2, -1, -1):
            fixed[i] += ratio[i] * fixed[i + 1]
            share[i] += ratio[i] * share[i + 1]
        return fixed, share
