"""The seams, on one page: what can be swapped without touching the roles.

Each seam has one behavioural contract suite in tests/contract that every adapter passes.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from understudy.core.fleet import (
    Deployment,
    EdgeRow,
    Fleet,
    Link,
    Machine,
    Node,
    Order,
    Placement,
    Request,
    Seat,
    SessionRow,
    Worker,
)
from understudy.core.ledger import Interval, Role
from understudy.core.wire import Card, Control, Heard


class Clock(Protocol):
    """Time as an argument. `now` is monotonic, `wall` is Unix time; both in seconds."""

    def now(self) -> float: ...

    def wall(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


@runtime_checkable
class Model(Protocol):
    """A streaming model of the kind *convert* (audio to audio), batched over slots.

    Output sample k of a slot answers its input sample k - `latency_samples`. `step` must do
    for every active slot what it would do for that slot alone, and leave the others untouched.
    """

    sample_rate: int  # Hz; 0: whatever rate a session has
    frame: int  # samples; a step takes a whole number of frames
    burst: int  # frames a step may take at once, at most (1 for most)
    slots: int
    latency_samples: int  # the model's own lookahead
    context_s: float  # seconds of recent input that rebuild a slot's state
    alignment_samples: int  # ... exactly, if they start at a multiple of this
    controls: Mapping[str, Control]  # what `params` may change

    def load(self, device: str) -> None: ...

    def open(self, slot: int, params: Mapping[str, float]) -> None: ...

    def set_params(self, slot: int, params: Mapping[str, float]) -> None: ...

    def step(self, frames: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """frames [slots, n·frame] in -1..1, active [slots] -> [slots, n·frame], n <= burst."""
        ...


@runtime_checkable
class Listening(Model, Protocol):
    """A model of the kind *listen* (audio to labels): it says what it hears beside its steps.

    `step` returns its frames as they are and `latency_samples` is 0, so that all that holds for
    an audio stream (its lock on samples, its moves, its bill) holds for labels, too.
    """

    labels: Sequence[str]  # all that it can say

    def events(self) -> Sequence[Heard]:
        """What the last step heard in its active slots, in order; samples count from the step's
        first one. A slot that was primed with `context_s` says what one that stayed would."""
        ...


class Store(Protocol):
    """The only shared truth. Every method is one transaction; audio never comes here.

    While its database is away, methods raise StoreAway within seconds, and work again after.
    """

    async def open(self) -> None:
        """Raises ConfigError if there is no such database, or none that can be used."""
        ...

    async def close(self) -> None: ...

    async def is_leader(self) -> bool:
        """Whether this store's process is the one active controller, now: of all that ask, one is
        until it closes, dies or cannot reach the database. Never raises StoreAway."""
        ...

    # the fleet

    async def look(self) -> Fleet:
        """Everything that is up and live, at one instant."""
        ...

    async def rent(self, worker: Worker) -> None:
        """Records a worker before its node is asked for, so that none is ever forgotten."""
        ...

    async def ready(self, worker: str, at_s: float) -> None:
        """The worker has loaded its model. Unless it is gone, or being given back."""
        ...

    async def drain(self, worker: str, on: bool) -> bool:
        """Whether there is such a worker; if so it takes nobody new, or does again."""
        ...

    async def retire(self, worker: str) -> bool:
        """Marks a worker without seats as stopping; False: somebody sits there."""
        ...

    async def gone(self, worker: str, at_s: float | None, reason: str) -> None:
        """The worker is no more, and neither are its seats. Idempotent: the first counts. Where
        nobody knows when that was (None), it is when it was last heard of."""
        ...

    async def history(self, from_s: float) -> tuple[Sequence[Worker], Sequence[SessionRow]]:
        """The workers and sessions that were not over at `from_s`, those that are now included."""
        ...

    async def loaded(self) -> Collection[tuple[str, str]]:
        """The (model, revision)s that some worker has ever loaded."""
        ...

    # edges, and which workers they reach

    async def beat(self, edge: EdgeRow) -> None:
        """The edge lives; said again and again."""
        ...

    async def lose(self, edge: str, at_s: float, beat: int | None = None) -> int:
        """The edge is no more (or begins anew), unless it has beaten since `beat`: its links are
        gone, and each session is an orphan until an edge adopts it. Returns how many those are."""
        ...

    async def link(self, link: Link) -> bool:
        """The edge reaches the worker, and how far it is; False: the worker counts as gone."""
        ...

    async def unlink(self, worker: str, edge: str) -> None:
        """The edge reaches the worker no more; what its sessions had there is free."""
        ...

    # sessions and their seats

    async def begin(self, row: SessionRow, seat: Seat | None = None) -> bool:
        """Records a live session, and seats it there if that slot is still free: whether it was.
        Raises AlreadyLive if the user has one. On a network, one round trip."""
        ...

    async def take(self, seat: Seat, edge: str) -> bool:
        """Gives a session of the edge this very seat, if the slot is still free; whether it was.
        On a network, one round trip."""
        ...

    async def place(self, request: Request) -> Placement | None:
        """Gives a live session a slot by `policy.place`, or None: no slot is free, or others
        wait for one. Asked again: the slot that it has in that role."""
        ...

    async def move(self, session: str, source: str | None, target: str, why: str) -> bool:
        """Takes a second seat on `target` for a live session that was last seated on `source`
        (None: on no worker of that model); False: that is not so any more, or nothing is free."""
        ...

    async def release(self, session: str, worker: str, slot: int, edge: str) -> None:
        """The seat is free again, if it is this session's, and that this edge's. Idempotent."""
        ...

    async def end(self, session: str, reason: str, at_s: float, edge: str) -> None:
        """The session is over and its seats free, if it is this edge's. Idempotent: the first end
        counts."""
        ...

    async def evict(self, session: str, reason: str) -> None:
        """Asks the edge that has a session to end it."""
        ...

    async def adopt(
        self, user: str, resume: str, edge: str, region: str, *, orphan: bool = False
    ) -> SessionRow | None:
        """Takes on the user's live session whose token has this hash, whoever had it (`orphan`:
        only if nobody does); it has no seat then. One that has ended for want of an edge comes
        back to life. None: there is no such session (any more)."""
        ...

    async def expire(self, before_s: float) -> int:
        """Ends the sessions that have been orphans since before; returns how many."""
        ...

    # machines that joined, and what each is to run

    async def offer(self, machine: Machine) -> None:
        """The machine is there; said again and again by the edge that it has dialled."""
        ...

    async def withdraw(self, machine: str) -> None:
        """The machine is there no more: what it ran counts as exited."""
        ...

    async def machines(self) -> Sequence[Machine]: ...

    async def orders(self, machine: str | None = None) -> Sequence[Order]:
        """What one machine, or all, are to run and to stop."""
        ...

    async def order(self, node: Node, *, light: bool) -> str | None:
        """Asks a machine of the node's region to run it, on a GPU or (`light`) on its CPUs: the
        emptiest one. None: none has room. Idempotent."""
        ...

    async def cancel(self, node: str) -> bool:
        """The node is to be stopped; whether there still is something to stop."""
        ...

    async def report(self, machine: str, exited: Mapping[str, str], stopped: Sequence[str]) -> None:
        """What a machine says: nodes that exited by themselves (and why), and those that it has
        stopped as it was told."""
        ...

    # what is learnt and shipped

    async def save_card(self, model: str, revision: str, card: Card) -> None: ...

    async def cards(self) -> Mapping[tuple[str, str], Card]:
        """By (model, revision)."""
        ...

    async def deploy(self, deployment: Deployment) -> None: ...

    async def deployments(self) -> Sequence[Deployment]:
        """All there ever were, the oldest first."""
        ...

    async def fail(self, model: str, revision: str, reason: str) -> None:
        """The revision does not load: every deployment of it counts no more."""
        ...

    async def save_bundle(self, revision: str, parts: Iterable[bytes]) -> None:
        """Keeps the archive of a bundle's files, whose parts (1 MiB at most) may be read from a
        disk. Idempotent; until it returns there is no such bundle."""
        ...

    async def bundle_size(self, revision: str) -> int | None:
        """The bytes of a bundle's archive; None: it is not here, or not whole."""
        ...

    def bundle(self, revision: str) -> AsyncIterator[bytes]:
        """The parts of a bundle's archive, in order; none if it is not here."""
        ...

    # the ledger

    async def meter(self, intervals: Sequence[Interval]) -> None:
        """Writes intervals of the ledger; one written before grows, and never shrinks."""
        ...

    async def ledger(
        self, *, user: str | None = None, from_s: float = 0.0, to_s: float = math.inf
    ) -> Sequence[Interval]:
        """The intervals last counted at from_s <= at_s < to_s, in that order."""
        ...

    async def heard(self, from_s: float, session: str | None = None) -> Mapping[Role, float]:
        """Seconds heard, by role, in all or by a session, of the intervals last counted at `from_s`
        or later."""
        ...


class Provider(Protocol):
    """Where nodes come from. A node starts one worker, which dials in to the edge."""

    name: str

    def refusal(self, node: Node, ahead: Iterable[Node] = ()) -> str | None:
        """Why such a node is not to be had now, in a sentence, where that is known without asking
        for it, as of the last `nodes`; None: it may be asked for. `ahead`: asked for meanwhile."""
        ...

    async def start(self, node: Node) -> None:
        """Rents what was asked for; its id is the asker's."""
        ...

    async def stop(self, node: str) -> None:
        """Returns a node. Idempotent; waits until it is gone."""
        ...

    async def nodes(self) -> Sequence[Node]:
        """All that was started and not stopped, those that exited by themselves included."""
        ...

    async def close(self) -> None:
        """Returns every node."""
        ...

    async def leave(self) -> None:
        """Leaves the nodes to the next controller, as far as they outlive this process."""
        ...
