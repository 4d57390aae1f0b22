"""What the policy learns of its traffic: how fast sessions come, and how long they stay.

Only counts go in. Both are Bayesian means of a gamma prior, so that nothing has to be
special-cased when little is known; windows fade exponentially.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, sqrt
from typing import Final

SLOW_S: Final = 300.0
FAST_S: Final = 20.0
PRIOR_S: Final = 60.0  # how much window time the equilibrium rate counts for
SURPRISE: Final = 2.5  # standard deviations beyond which the fast window is believed

LIFE_WINDOW_S: Final = 4 * 3600.0
LIFE_PRIOR_S: Final = 400.0
LIFE_PRIOR_ENDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Arrivals of one pool: counts that fade, and how much time they stand for."""

    slow: float = 0.0
    slow_s: float = 0.0
    fast: float = 0.0

    def after(self, dt_s: float, arrivals: int) -> Rate:
        slow, fast = exp(-dt_s / SLOW_S), exp(-dt_s / FAST_S)
        return Rate(
            self.slow * slow + arrivals,
            self.slow_s * slow + SLOW_S * (1.0 - slow),
            self.fast * fast + arrivals,
        )

    def per_s(self, sessions: int, mean_s: float) -> float:
        """As believed now. The prior is equilibrium: what keeps this many sessions up."""
        base = (self.slow + PRIOR_S * sessions / mean_s) / (self.slow_s + PRIOR_S)
        # A faded Poisson count of time constant T has mean rT and variance rT/2.
        expected = base * FAST_S
        surprise = self.fast - expected - SURPRISE * sqrt(expected / 2.0) - 1.0
        return base + max(0.0, surprise) / FAST_S


@dataclass(frozen=True, slots=True)
class Life:
    """How long sessions stay, over all pools: ends, and the session-seconds they came out of."""

    ends: float = LIFE_PRIOR_ENDS
    exposure_s: float = LIFE_PRIOR_ENDS * LIFE_PRIOR_S
    at_s: float | None = None

    @property
    def mean_s(self) -> float:
        return self.exposure_s / self.ends

    def after(self, now: float, ends: int, exposure_s: float) -> Life:
        if self.at_s is None:
            return replace(self, at_s=now)
        keep = exp(-(now - self.at_s) / LIFE_WINDOW_S)
        prior = 1.0 - keep  # what fades is replaced by the prior
        return Life(
            self.ends * keep + prior * LIFE_PRIOR_ENDS + ends,
            self.exposure_s * keep + prior * LIFE_PRIOR_ENDS * self.mean_s + exposure_s,
            now,
        )
