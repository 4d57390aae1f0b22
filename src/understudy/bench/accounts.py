"""Heard against billed, and what grew: the sums that benchmarks of a whole fleet have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from understudy.bench.callers import Caller
from understudy.bench.server import figure, spread_ms

ALIKE_MS: Final = 1000.0  # billed and heard


@dataclass(frozen=True, slots=True)
class Account:
    """One user's: by its own ears, and by the ledger."""

    user: str
    heard_s: float
    billed_s: float
    resumes: int  # lines lost and opened anew: an edge that dies takes its last half second along

    @property
    def more_s(self) -> float:
        """Billed and not heard."""
        return self.billed_s - self.heard_s


def accounts(callers: Sequence[Caller], billed_s: Mapping[str, float]) -> list[Account]:
    return [
        Account(one.user, one.heard_s, billed_s.get(one.user, 0.0), one.stream.resumes)
        for one in callers
    ]


def figures_of_ledger(found: Sequence[Account], doubled: int) -> list[dict[str, Any]]:
    """`doubled`: users with two live sessions at once."""
    apart = spread_ms(abs(one.more_s) for one in found)
    return [
        figure("billed and heard apart, a session, p50", apart["p50"], "ms"),
        figure("billed and heard apart, a session, max", apart["max"], "ms"),
        figure("billed and not heard, a session, max",
               max(one.more_s for one in found) * 1e3, "ms", at_most=ALIKE_MS),
        figure("heard and not billed, a session and line, max",
               max(-one.more_s / (1 + one.resumes) for one in found) * 1e3, "ms",
               at_most=ALIKE_MS),
        figure("users with two live sessions at once", doubled, at_most=0),
    ]  # fmt: skip


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """(s, value) -> how much the value grows in a minute, by least squares; 0 of too few."""
    if len(samples) < 3:
        return 0.0
    times_s, values = np.array(samples).T
    slope, _ = np.polyfit(times_s / 60.0, values, 1)
    return float(slope)


def growth_of_lives(lives: Sequence[Sequence[tuple[float, float]]], warm_s: float) -> float:
    """The same over several processes, each against its own mean, from `warm_s` of its life on."""
    times, values = [], []
    for life in lives:
        kept = [(at_s, value) for at_s, value in life if at_s - life[0][0] >= warm_s]
        if len(kept) >= 3:
            at_s, value = np.array(kept).T
            times.append((at_s - at_s.mean()) / 60.0)
            values.append(value - value.mean())
    if not times:
        return 0.0
    x, y = np.concatenate(times), np.concatenate(values)
    return float((x * y).sum() / max(1e-9, float((x * x).sum())))
