"""What a simulated fleet is made of, and the record of everything that happened to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from understudy.sim.traffic import Visit


@dataclass(frozen=True, slots=True)
class Setup:
    """What the machines are like."""

    boot_s: float = 10.0
    slots: int = 4
    rtt_s: float = 0.11  # between any two regions; San Francisco to Tokyo takes about that
    understudy_slots: int = 256  # of a region's CPU worker
    gpu_per_h: float = 0.40  # what a rented RTX 4090 costs (vast.ai, RunPod, 2025)
    cpu_per_h: float = 0.08  # two shared vCPUs, always on, one such worker a region
    max_nodes: int | None = None
    budget_per_h: float | None = None


@dataclass(slots=True)
class Rental:
    """A GPU worker's, as workers.csv says it."""

    worker: str
    voice: str
    region: str
    start_s: float
    ready_s: float | None = None
    stop_s: float | None = None


@dataclass(frozen=True, slots=True)
class Stay:
    """A stretch of one session on one worker, as placements.csv says it."""

    visit: int  # index in the trace
    worker: str
    role: str  # lead | understudy
    start_s: float
    end_s: float


@dataclass(slots=True)
class Record:
    """Everything that happened."""

    visits: Sequence[Visit]
    rentals: list[Rental] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    end_s: float = 0.0
    start_s: float = 0.0
    looks: int = 0
