"""What the policy learns of its traffic: how fast sessions come, how long they stay, how many
there are.

Only counts go in. Rates are Bayesian means under gamma priors (a prior of c arrivals of mean r
adds c to the count and c/r to the time), so that nothing has to be special-cased when little is
known; windows fade exponentially.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, sqrt
from typing import Final

LONG_S: Final = 2 * 3600.0  # small pools have too few arrivals to learn from anything shorter
SLOW_S: Final = 300.0  # what large pools can follow
FAST_S: Final = 20.0  # two boots: what a flash mob shows up in
LONG_PRIOR: Final = 4.0  # arrivals at the equilibrium rate that the long window starts from
SLOW_PRIOR: Final = 4.0  # arrivals at the long rate that the slow window starts from: CV 50 %
EQUILIBRIUM_S: Final = 60.0  # what the present sessions say, as so much window time
SURPRISE: Final = 1.5  # standard deviations beyond which the fast window is believed
FEWEST: Final = 0.25  # sessions: an empty pool is not one that nobody will ever want

LIFE_WINDOW_S: Final = 12 * 3600.0
LIFE_PRIOR_S: Final = 400.0
LIFE_PRIOR_ENDS: Final = 10.0
FLEET_PRIOR_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Arrivals of one pool: counts that fade, and how much time they stand for."""

    long: float = 0.0
    long_s: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.0
    fast: float = 0.0

    def after(self, dt_s: float, arrivals: int) -> Rate:
        long, slow = exp(-dt_s / LONG_S), exp(-dt_s / SLOW_S)
        return Rate(
            self.long * long + arrivals,
            self.long_s * long + LONG_S * (1.0 - long),
            self.slow * slow + arrivals,
            self.slow_s * slow + SLOW_S * (1.0 - slow),
            self.fast * exp(-dt_s / FAST_S) + arrivals,
        )

    def per_s(self, live: int, mean_s: float) -> float:
        """As believed now, when `live` sessions are there that stay `mean_s` on average."""
        steady = live / mean_s  # what keeps so many up
        first = max(live, FEWEST) / mean_s
        long = (self.long + LONG_PRIOR) / (self.long_s + LONG_PRIOR / first)
        base = (self.slow + SLOW_PRIOR + EQUILIBRIUM_S * steady) / (
            self.slow_s + SLOW_PRIOR / long + EQUILIBRIUM_S
        )
        # A Poisson count that fades with time constant T has mean rT and variance rT/2.
        expected = base * FAST_S
        surprise = self.fast - expected - SURPRISE * sqrt(expected / 2.0) - 1.0
        return base + max(0.0, surprise) / FAST_S


@dataclass(frozen=True, slots=True)
class Life:
    """Over all pools: how many sessions ended, the session-seconds they came out of, and the
    time that this took."""

    ends: float = 0.0
    lived_s: float = 0.0
    span_s: float = 0.0
    at_s: float | None = None

    @property
    def mean_s(self) -> float:
        """How long a session stays: the maximum likelihood under censoring, with a prior."""
        return (self.lived_s + LIFE_PRIOR_ENDS * LIFE_PRIOR_S) / (self.ends + LIFE_PRIOR_ENDS)

    def fleet(self, live: int) -> float:
        """How many sessions there usually are, when `live` are there now."""
        return (self.lived_s + FLEET_PRIOR_S * live) / (self.span_s + FLEET_PRIOR_S)

    def after(self, now: float, ends: int, lived_s: float) -> Life:
        if self.at_s is None:
            return replace(self, at_s=now)
        dt_s = max(0.0, now - self.at_s)
        keep = exp(-dt_s / LIFE_WINDOW_S)
        return Life(
            self.ends * keep + ends,
            self.lived_s * keep + lived_s,
            self.span_s * keep + LIFE_WINDOW_S * (1.0 - keep),
            now,
        )
