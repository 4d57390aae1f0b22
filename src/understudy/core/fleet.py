"""What the fleet looks like at one instant: plain data for the policy and the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class WorkerState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Worker:
    """A process on a node with one model loaded (or loading). `taken`: slots in use."""

    id: str
    node: str
    model: str
    region: str
    slots: int
    state: WorkerState
    taken: int = 0
    progress: float = 0.0
    boot_s: float | None = None  # how long it took from start to ready
    reason: str = ""  # why it is gone, where that is known


@dataclass(frozen=True, slots=True)
class Node:
    """What a provider runs for us: one rented GPU, or a subprocess on a laptop.

    `exited`: None while it runs, else why it stopped, in a sentence.
    """

    id: str
    model: str
    region: str
    exited: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What the controller sees: the store's workers, the providers' nodes, the configured wish."""

    workers: tuple[Worker, ...]
    nodes: tuple[Node, ...]
    wanted: Mapping[str, int]  # model -> workers to keep up


@dataclass(frozen=True, slots=True)
class Start:
    model: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Return a node: it has exited, or nobody wants it."""

    node: str


@dataclass(frozen=True, slots=True)
class Plan:
    start: tuple[Start, ...] = ()
    discard: tuple[Discard, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A session that needs a slot."""

    session: str
    model: str
    region: str


@dataclass(frozen=True, slots=True)
class Placement:
    worker: str
    slot: int


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often a model's nodes died in a row, and when the last one did (s)."""

    count: int = 0
    last_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What the policy must remember between two looks."""

    crashes: Mapping[str, Crashes] = field(default_factory=dict)
    served: frozenset[str] = frozenset()  # nodes whose worker has dialled in
