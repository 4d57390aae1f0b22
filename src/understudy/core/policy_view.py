"""What the scaling policy sees and says: plain data that any store can fill and any loop obey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import exp, log

from understudy.core.policy_levels import GRAIN, Costs
from understudy.core.policy_rates import Life, Rate

Key = tuple[str, str]  # (model, region)


class Stage(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"  # takes no new session; its sessions move off, or finish


class Drain(StrEnum):
    """What becomes of the sessions on draining workers and on older revisions."""

    MOVE = "move"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Session:
    id: str
    connected_s: float
    region: str  # the user's


@dataclass(frozen=True, slots=True)
class Away:
    """A session whose lead is in another region, until there is room at home."""

    session: str
    worker: str


@dataclass(frozen=True, slots=True)
class Worker:
    """One GPU with one revision of one model, and the sessions whose lead it is."""

    id: str
    model: str
    revision: str
    region: str
    stage: Stage
    slots: int
    since_s: float  # when it came into this stage
    sessions: tuple[Session, ...] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """All of one model in one region. An unchanged pool should be the same object at the next
    look: the policy passes over it then."""

    model: str
    region: str
    revision: str  # the newest: what a new worker loads
    slots: int  # of a new worker
    boot_s: float  # learnt from past loads
    price_per_h: float
    workers: tuple[Worker, ...] = ()
    waiting: tuple[Session, ...] = ()  # on the understudy or queued, in the order they connected
    away: tuple[Away, ...] = ()  # of this region's sessions, those with a lead elsewhere
    arrived: int = 0  # sessions that ever connected, ...
    ended: int = 0  # ... and of those, how many are over
    drain: Drain = Drain.MOVE
    keep: int | None = None  # so many are always on: no foresight, no limits, no packing
    held: bool = False  # its loads fail: nothing is started now

    @property
    def key(self) -> Key:
        return self.model, self.region


@dataclass(frozen=True, slots=True)
class View:
    """`rtt_s`: what another region adds, for (user's region, worker's region); a pair that is
    not there is too far."""

    pools: tuple[Pool, ...]
    rtt_s: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    model: str
    region: str
    revision: str


@dataclass(frozen=True, slots=True)
class Stop:
    worker: str


@dataclass(frozen=True, slots=True)
class Move:
    """To `target`'s slot, from a worker, or from the understudy (or the queue) if None."""

    session: str
    source: str | None
    target: str


@dataclass(frozen=True, slots=True)
class Plan:
    """To be carried out in this order; what cannot be (a race was lost) is simply left out, and
    the next look finds it again. `look_again_s`: when the same view would give another plan."""

    moves: tuple[Move, ...] = ()
    stops: tuple[Stop, ...] = ()
    starts: tuple[Start, ...] = ()
    look_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator chooses.

    `patience` is the dial: how many GPU-seconds he would pay to spare a user one second of the
    understudy. What he is after is a small share of all minutes, and by the square-root law of
    staffing the same share costs a small fleet far more than a large one. So the price holds from
    `full_fleet` sessions on; in a smaller fleet, where a second is a larger share, it is larger in
    proportion, up to `most_urgent` times.
    """

    patience: float = 7.0
    full_fleet: float = 60.0
    most_urgent: float = 4.0
    far_rtt_s: float = 0.15  # up to this round trip, a far lead is better than the understudy
    max_nodes: int | None = None
    budget_per_h: float | None = None  # in the currency of the prices
    yield_s: float = 60.0  # who waits longer gets a worker of those who came later, once empty
    move_cost_s: float = 0.5  # GPU-seconds: what priming a slot takes, and the bother of it
    horizon_s: float = 600.0  # how long rates are believed to stay as they are
    look_s: float = 10.0  # how often a quiet pool is looked at, since rates fade

    def urgency(self, fleet: float) -> float:
        """What a second is worth in a fleet of that many sessions, in units of `patience`;
        rounded, so that few problems need to be solved."""
        factor = min(self.most_urgent, max(1.0, self.full_fleet / max(fleet, 1.0)))
        return exp(round(log(factor) / GRAIN) * GRAIN)

    def costs(self, pool: Pool, urgency: float) -> Costs:
        return Costs(
            slots=pool.slots,
            boot_s=float(f"{pool.boot_s:.1e}"),  # as learnt it never stands still: two digits do
            patience=self.patience * urgency,
            # By best fit, the emptiest worker is half empty.
            stop_cost=self.move_cost_s * pool.slots / 2,
            horizon_s=self.horizon_s,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A pool as it was looked at last, and what was learnt of its traffic."""

    pool: Pool
    at_s: float
    look_again_s: float
    rate: Rate
    short: bool = False  # the limits refused it something: it is looked at every time


@dataclass(frozen=True, slots=True)
class Memory:
    """What makes the policy better, and may be lost at any moment: it learns anew."""

    pools: Mapping[Key, Seen] = field(default_factory=dict)
    life: Life = field(default_factory=Life)
    yielding: frozenset[str] = frozenset()  # workers held back for users of another pool
