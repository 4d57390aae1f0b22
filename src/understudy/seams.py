"""The seams, on one page: what can be swapped without touching the roles.

Each seam has one behavioural contract suite in tests/contract that every adapter passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from understudy.core.fleet import Node, Placement, Request, Worker
from understudy.core.ledger import Interval
from understudy.core.wire import Card, Control


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


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as the store keeps it. `ended_s` is None while it lives."""

    id: str
    user: str
    voice: str
    model: str
    region: str
    edge: str
    started_s: float
    worker: str | None = None
    slot: int | None = None
    ended_s: float | None = None
    reason: str = ""


class Store(Protocol):
    """The only shared truth. Every method is one transaction; audio never comes here."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def save_card(self, model: str, card: Card) -> None: ...

    async def cards(self) -> Mapping[str, Card]: ...

    async def save_worker(self, worker: Worker) -> None:
        """Adds or updates a worker; `taken` is ignored: it is counted from the sessions."""
        ...

    async def workers(self) -> Sequence[Worker]:
        """The workers that are not gone."""
        ...

    async def begin(self, row: SessionRow) -> None:
        """Records a live session. Raises AlreadyLive if the user has one."""
        ...

    async def place(self, request: Request) -> Placement | None:
        """Gives a live session a slot by `policy.place`, or None: no slot is free."""
        ...

    async def release(self, session: str) -> None:
        """The session's slot is free again. Idempotent."""
        ...

    async def end(self, session: str, reason: str, at_s: float) -> None:
        """The session is over and its slot free. Idempotent: the first end counts."""
        ...

    async def sessions(self, *, live: bool = True) -> Sequence[SessionRow]: ...

    async def meter(self, intervals: Sequence[Interval]) -> None:
        """Writes intervals of the ledger; one written before grows, and never shrinks."""
        ...

    async def ledger(
        self, *, user: str | None = None, from_s: float = 0.0, to_s: float = math.inf
    ) -> Sequence[Interval]:
        """The intervals last counted at from_s <= at_s < to_s, in that order."""
        ...

    async def recover(self, edge: str, at_s: float) -> int:
        """Ends what an earlier life of this edge left live, its workers too; returns how many
        sessions that were."""
        ...


class Provider(Protocol):
    """Where nodes come from. A node starts one worker, which dials in to the edge."""

    name: str

    async def start(self, model: str) -> Node: ...

    async def stop(self, node: str) -> None:
        """Returns a node. Idempotent; waits until it is gone."""
        ...

    async def nodes(self) -> Sequence[Node]:
        """All that was started and not stopped, those that exited by themselves included."""
        ...

    async def close(self) -> None:
        """Returns every node."""
        ...
