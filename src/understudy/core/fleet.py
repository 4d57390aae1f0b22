"""What the store keeps of the fleet: plain records, read at one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from understudy.core.ledger import Role


class WorkerState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"  # empty, and being given back: nobody is seated any more
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Worker:
    """A process on a node with one revision of one model loaded (or loading); its id is the
    node's. Times are Unix times; it is paid for from `started_s` to `stopped_s`."""

    id: str
    model: str
    revision: str
    region: str
    slots: int
    state: WorkerState
    started_s: float
    price_per_h: float = 0.0
    ready_s: float | None = None
    stopped_s: float | None = None
    draining: bool = False  # the operator's wish: takes nobody new, and goes when empty
    taken: int = 0  # slots in use
    reason: str = ""  # why it is gone, where that is known
    linked: bool = False  # to some edge: if not, nobody can be seated there


@dataclass(frozen=True, slots=True)
class Node:
    """What a provider runs for us: one rented GPU, or a subprocess on a laptop.

    `exited`: None while it runs, else why it stopped, in a sentence. `leaving`: it is to be taken
    away soon, so whoever is there had better be moved.
    """

    id: str
    model: str
    revision: str
    region: str
    exited: str | None = None
    started_s: float | None = None  # Unix time, where it is known
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """A box that has joined: so many GPUs, and room for so many light workers on its CPUs; none at
    all once it is about to leave. `beat` changes for as long as it is in touch with some edge."""

    name: str
    region: str
    gpus: int
    cpus: int
    price_per_h: float = 0.0  # of a GPU
    beat: int = 0

    @property
    def is_leaving(self) -> bool:
        return self.gpus + self.cpus == 0


@dataclass(frozen=True, slots=True)
class Order:
    """A node that a machine is to run, or to stop (`wanted`); `exited`: as the machine said."""

    node: Node
    machine: str
    light: bool  # runs on a CPU
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as the store keeps it. `ended_s` is None while it lives."""

    id: str
    user: str
    voice: str
    model: str
    understudy: str  # the model that covers for it, or ""
    region: str
    edge: str
    started_s: float
    ended_s: float | None = None
    reason: str = ""  # why it ended; while it lives: why its edge is to end it
    resume: str = ""  # hash of the token that another edge may take it on with
    epoch: int = 0  # how often another edge did
    orphaned_s: float | None = None  # since when it is no edge's, until one takes it on


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """An edge that serves. `url`: where users and workers reach it; `via`: where those of another
    region do, if elsewhere. `beat` changes for as long as it lives."""

    name: str
    region: str
    url: str
    via: Mapping[str, str] = field(default_factory=dict)
    beat: int = 0

    def url_from(self, region: str) -> str:
        return self.via.get(region, self.url)


@dataclass(frozen=True, slots=True)
class Link:
    """A worker that is ready has dialled this edge; `rtt_s` is the round trip between them."""

    worker: str
    edge: str
    rtt_s: float


@dataclass(frozen=True, slots=True)
class Seat:
    """A slot that a session has. While it moves it has two: the later `turn` is where it goes."""

    session: str
    worker: str
    slot: int
    role: Role
    turn: int
    why: str  # in a word or two


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything at one instant: workers that are not gone, live sessions in the order in which
    they came, and their seats in the order of their turns."""

    workers: tuple[Worker, ...] = ()
    sessions: tuple[SessionRow, ...] = ()
    seats: tuple[Seat, ...] = ()
    boot_s: Mapping[str, float] = field(default_factory=dict)  # by model: of the last loads
    edges: tuple[EdgeRow, ...] = ()
    links: tuple[Link, ...] = ()

    def rtt_s(self) -> dict[tuple[str, str], float]:
        """The shortest round trips that were measured, for (users' region, workers' region)."""
        edges = {edge.name: edge.region for edge in self.edges}
        workers = {worker.id: worker.region for worker in self.workers}
        found: dict[tuple[str, str], float] = {}
        for link in self.links:
            if link.edge in edges and link.worker in workers:
                pair = (edges[link.edge], workers[link.worker])
                found[pair] = min(link.rtt_s, found.get(pair, link.rtt_s))
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """A session of `edge` that wants a slot of a model, now. `revision`: the newest one;
    `misfits`: those whose rate or latency is not the session's."""

    session: str
    model: str
    region: str
    revision: str = ""
    misfits: frozenset[str] = frozenset()
    role: Role = Role.LEAD
    why: str = "connect"
    edge: str = ""
    apart: bool = False  # best on a worker of its own: several died soon after they took it


@dataclass(frozen=True, slots=True)
class Placement:
    worker: str
    slot: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """One `understudy deploy` (or rollback): from `at_s` on, the model is this revision.

    `spec`: the bundle as the configuration has it, as JSON. `failed`: why it does not load.
    """

    model: str
    revision: str
    at_s: float
    spec: str
    failed: str = ""


def link_url(url: str) -> str:
    """Where workers and machines dial an edge that users reach at `url`."""
    return f"{url.replace('http', 'ws', 1).rstrip('/')}/v1/link"
