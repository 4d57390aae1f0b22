"""What the fleet costs, and the least that it could have cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from understudy.core.fleet import SessionRow, Worker
from understudy.core.policy_view import Key
from understudy.core.pools import DEFAULT_BOOT_S

Span = tuple[Key, float, float]  # one session: its pool, its start and its end


def bound_gpu_s(spans: Iterable[Span], boot_s: float, slots: int) -> float:
    """The least GPU time with which nobody waits, for one who knows the future and may move.

    Per (voice, region): the sum over levels k of the time that more than slots·(k-1) sessions are
    live, plus for each time that level is switched on a boot, or, where it is cheaper, the gap
    before it, through which it is kept on.
    """
    changes: dict[Key, list[tuple[float, int]]] = {}
    for key, start_s, end_s in spans:
        if end_s > start_s:
            changes.setdefault(key, []).extend([(start_s, 1), (end_s, -1)])
    total = 0.0
    for pool in changes.values():
        pool.sort()  # at one moment the ends come first: their slots can be had again
        live = 0
        on_since: list[float] = []
        off_since: dict[int, float] = {}
        for t, change in pool:
            if change > 0 and live % slots == 0:  # a level is switched on
                level = live // slots
                gap = t - off_since[level] if level in off_since else boot_s
                total += min(gap, boot_s)
                on_since.append(t)
            live += change
            if change < 0 and live % slots == 0:
                level = live // slots
                total += t - on_since.pop()
                off_since[level] = t
    return total


@dataclass(frozen=True, slots=True)
class Rate:
    """What a rented model costs. `boot_s` as learnt."""

    slots: int
    price_per_h: float
    boot_s: float = DEFAULT_BOOT_S


@dataclass(frozen=True, slots=True)
class Bill:
    """In the currency of the prices, since some moment."""

    rented: float
    bound: float  # the least that it could have been
    always_on: float  # workers that are always on: the understudies
    gpu_s: float


def add_up(
    workers: Iterable[Worker],
    sessions: Iterable[SessionRow],
    rented: dict[str, Rate],
    from_s: float,
    now: float,
) -> Bill:
    """From `from_s` to `now`; `rented`: the models that are rented, others are always on."""
    paid, always_on, gpu_s = 0.0, 0.0, 0.0
    for worker in workers:
        end_s = now if worker.stopped_s is None else min(now, worker.stopped_s)
        seconds = max(0.0, end_s - max(from_s, worker.started_s))
        if worker.model in rented:
            gpu_s += seconds
            paid += seconds / 3600 * worker.price_per_h
        else:
            always_on += seconds / 3600 * worker.price_per_h
    spans: dict[str, list[Span]] = {}
    for row in sessions:
        end_s = now if row.ended_s is None else min(now, row.ended_s)
        span = ((row.model, row.region), max(from_s, row.started_s), end_s)
        spans.setdefault(row.model, []).append(span)
    bound = sum(
        bound_gpu_s(spans.get(model, ()), rate.boot_s, rate.slots) / 3600 * rate.price_per_h
        for model, rate in rented.items()
    )
    return Bill(paid, bound, always_on, gpu_s)
