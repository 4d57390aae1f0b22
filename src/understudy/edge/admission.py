"""Who waits for a slot, in which order, and what they are told meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping

from understudy.core import wire
from understudy.core.errors import Internal
from understudy.core.fleet import Request, WorkerState
from understudy.core.session import SEEKING
from understudy.edge.links import WorkerLink
from understudy.edge.session import Session
from understudy.seams import Clock, Store

log = logging.getLogger(__name__)


class Admission:
    """First come, first served, for each model; each grant is one transaction of the store."""

    def __init__(
        self, store: Store, links: Mapping[str, WorkerLink], region: str, clock: Clock
    ) -> None:
        self._store = store
        self._links = links
        self._region = region
        self._clock = clock
        self._waiting: dict[str, deque[Session]] = {}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._boot_s: dict[str, float] = {}  # learnt from past loads
        self._lengths_s: deque[float] = deque(maxlen=100)  # of sessions that ended

    def seek(self, session: Session) -> None:
        self._waiting.setdefault(session.voice.model, deque()).append(session)
        self.pump(session.voice.model)

    def pump(self, model: str) -> None:
        """A slot may be free, or somebody new waits: try (again)."""
        self._again.add(model)
        task = self._pumps.get(model)
        if task is None or task.done():
            self._pumps[model] = asyncio.get_running_loop().create_task(self._pump(model))

    async def _pump(self, model: str) -> None:
        while model in self._again:
            self._again.discard(model)
            queue = self._waiting.get(model, deque())
            while queue:
                session = queue[0]
                if session.state not in SEEKING:  # it left while it waited
                    queue.popleft()
                    continue
                try:
                    if not await self._grant(session):
                        break
                except Exception as error:
                    log.exception("session %s: no slot could be sought", session.id)
                    session.fail(Internal(f"the store failed: {error}"))
            self.tell(model)

    async def _grant(self, session: Session) -> bool:
        """Tries to seat the head of a queue; False: no slot is free."""
        request = Request(session.id, session.voice.model, self._region)
        placement = await self._store.place(request)
        if placement is None:
            return False
        link = self._links.get(placement.worker)
        if link is None or link.worker.state is not WorkerState.READY:
            await self._store.release(session.id)  # its worker died a moment ago
            return False
        queue = self._waiting[session.voice.model]
        if session in queue:
            queue.remove(session)
        session.slot_found(link, placement.slot)  # the table ignores it if the session left
        return True

    def waiting(self, model: str) -> list[Session]:
        return [s for s in self._waiting.get(model, ()) if s.state in SEEKING]

    def drop_ended(self) -> None:
        for model, queue in self._waiting.items():
            if any(session.state not in SEEKING for session in queue):
                self._waiting[model] = deque(self.waiting(model))

    def learn_boot(self, model: str, boot_s: float) -> None:
        self._boot_s[model] = boot_s

    def learn_length(self, length_s: float) -> None:
        self._lengths_s.append(length_s)

    def tell_all(self) -> None:
        for model in self._waiting:
            self.tell(model)

    def tell(self, model: str) -> None:
        """Tells those who wait where they stand: for a loading worker's slots, or in the queue."""
        now = self._clock.now()
        links = [link for link in self._links.values() if link.worker.model == model]
        loading = sorted(
            (link for link in links if link.worker.state is WorkerState.LOADING),
            key=lambda link: link.since_s,
        )
        ready = any(link.worker.state is WorkerState.READY for link in links)
        seats = [link for link in loading for _ in range(link.worker.slots)]
        for index, session in enumerate(self.waiting(model)):
            if index < len(seats):
                passed = now - seats[index].since_s
                boot_s = self._boot_s.get(model)
                eta_s = None if boot_s is None else round(max(0.0, boot_s - passed), 1)
                progress = 0.0 if not boot_s else min(0.99, round(passed / boot_s, 2))
                session.tell_waiting(wire.Loading(session.id, eta_s, progress, session.resume))
            elif not ready and not loading:  # the controller is about to start one
                session.tell_waiting(wire.Loading(session.id, None, 0.0, session.resume))
            else:
                position = index - len(seats) + 1
                slots = sum(link.worker.slots for link in links)
                eta_s = self._queue_eta_s(position, slots)
                session.tell_waiting(wire.Queued(session.id, position, eta_s, session.resume))

    def _queue_eta_s(self, position: int, slots: int) -> float | None:
        """Mean session length over slots for each place ahead: right for memoryless sessions.

        None while fewer than five sessions have ended: no honest guess.
        """
        if len(self._lengths_s) < 5 or not slots:
            return None
        mean_s = sum(self._lengths_s) / len(self._lengths_s)
        return round(position * mean_s / slots, 1)
