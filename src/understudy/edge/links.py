"""The edge's end of the links: one connection a worker, all of its sessions on it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from picows import WSMsgType

from understudy.core.errors import LinkError, UnderstudyError
from understudy.core.fleet import Worker, WorkerState
from understudy.core.wire import Card, Heard, decode_labels, decode_records, encode_header
from understudy.edge.websocket import Peer
from understudy.seams import Clock

log = logging.getLogger(__name__)

# A ready worker that says nothing for this long is taken for dead: three heartbeats and a step
# between them where users wait for it, longer where nobody does.
SILENCE_S: Final = 0.75
IDLE_SILENCE_S: Final = 3.0
PING_S: Final = 1.0  # how often the round trip is measured
PINGS: Final = 8  # the shortest of so many counts: the others had to wait somewhere


class Performing(Protocol):
    """What a link needs of a session."""

    def answer(self, position: int, pcm: memoryview, step_s: float, now: float) -> None: ...

    def heard(self, labels: list[Heard]) -> None: ...

    @property
    def open_s(self) -> float | None: ...

    def opened(self) -> None: ...

    def slot_lost(self) -> None: ...

    def refused(self, message: str) -> None: ...


class Workers(Protocol):
    """What a link needs of the edge."""

    def admits(self, node: str, secret: str) -> bool: ...

    def knows(self, worker: Worker) -> bool: ...

    def worker_hello(self, link: WorkerLink) -> None: ...

    def worker_changed(self, link: WorkerLink) -> None: ...

    def load_failed(self, link: WorkerLink, message: str) -> None: ...

    def load_lost(self, link: WorkerLink) -> None: ...


class WorkerLink(Peer):
    """One worker, as the edge knows it."""

    max_message_bytes = 16 * 1024 * 1024

    def __init__(self, workers: Workers, clock: Clock) -> None:
        super().__init__()
        self._workers = workers
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[int, Performing] = {}
        self._opening: set[int] = set()  # slots whose `opened` has not come yet
        self._opens = 0
        self._numbers: dict[
            int, int
        ] = {}  # of each slot's last `open`: an answer to another is old
        self._outgoing: list[bytes] = []  # audio on its way: one message a turn of the loop
        self.worker = Worker("", "", "", "", 0, WorkerState.LOADING, clock.wall())
        self.card: Card | None = None
        self.newest_s = 0.0  # when the last of its sessions was opened, once it is lost
        self.left = False  # the worker itself said that it goes
        self._rtts_s: deque[float] = deque(maxlen=PINGS)
        self._pinged_s = -PING_S
        self.busy_s = 0.0  # the worker has spent in steps, by its own count
        self.heard_s = clock.now()

    @property
    def introduced(self) -> bool:
        return self.worker.id != ""

    # sessions

    def open(
        self,
        slot: int,
        session: Performing,
        position: int,
        params: Mapping[str, float],
    ) -> None:
        """Gives a slot to a session, whose input goes on (or is primed) at `position`."""
        before = self._sessions.get(slot)
        self._sessions[slot] = session
        if before is not None and before is not session:  # the store gave its slot away
            before.slot_lost()
        self._opening.add(slot)
        self._opens += 1
        self._numbers[slot] = self._opens
        self.say(type="open", slot=slot, n=self._opens, position=position, params=dict(params))

    def release(self, slot: int, session: Performing) -> None:
        if self._sessions.get(slot) is session:
            del self._sessions[slot]
            self._opening.discard(slot)
            self.say(type="close", slot=slot)

    def audio(self, slot: int, position: int, pcm: bytes) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += (encode_header(slot, position, len(pcm)), pcm)

    def say(self, **message: Any) -> None:
        self._flush()  # what is said about a slot comes after the audio before it
        self.send_text(json.dumps(message))

    def _flush(self) -> None:
        if self._outgoing:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            if self.transport is not None:
                self.transport.send(WSMsgType.BINARY, data)

    # what the worker says

    def on_audio(self, data: bytes) -> None:
        now = self.heard_s = self._clock.now()
        sessions, opening = self._sessions, self._opening
        for slot, position, pcm, step_s in decode_records(data):
            session = sessions.get(slot)
            # Before `opened` it is still the slot's last tenant that is heard.
            if session is not None and slot not in opening:
                session.answer(position, pcm, step_s, now)

    def on_text(self, text: str) -> None:
        self.heard_s = self._clock.now()
        try:
            self._hear(json.loads(text))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LinkError(f"a message that makes no sense: {error!r}") from None

    def _hear(self, message: Mapping[str, Any]) -> None:
        kind = message.get("type")
        if not self.worker.id and kind != "hello":
            raise LinkError("a worker says hello first")
        match kind:
            case "hello":
                worker = Worker(
                    id=str(message["node"]),
                    model=str(message["model"]),
                    revision=str(message["revision"]),
                    region=str(message["region"]),
                    slots=int(message["slots"]),
                    state=WorkerState.LOADING,
                    started_s=self.worker.started_s,
                )
                if not self._workers.admits(worker.id, str(message["secret"])):
                    raise LinkError("this edge did not ask for this worker")
                if not self._workers.knows(worker):
                    # Asked for a moment ago, or given up: it may try again.
                    self.close(1013, "not known here, yet or any more")
                    return
                self.worker = worker
                self._workers.worker_hello(self)
                self._ping()
            case "ready":
                self.card = Card.parse(message["card"])
                self._show()
            case "pong":
                self._rtts_s.append(self.heard_s - float(message["t"]))
                self._show()
            case "leaving":
                self.left = True
                self._become(WorkerState.GONE, reason="given back")
            case "failed":
                self.left = True
                self._fail(str(message["message"]))
            case "opened" | "refused" if message["n"] != self._numbers.get(message["slot"]):
                pass  # meant for the slot's last tenant
            case "opened":
                self._opening.discard(message["slot"])
                if session := self._sessions.get(message["slot"]):
                    session.opened()
            case "taken":  # by another edge: the store gave it there
                if message["n"] == self._numbers.get(message["slot"]) and (
                    session := self._sessions.pop(message["slot"], None)
                ):
                    session.slot_lost()
            case "refused":
                if session := self._sessions.pop(message["slot"], None):
                    session.refused(str(message["message"]))
            case "labels":
                labels, slot = decode_labels(message), message["slot"]
                if (session := self._sessions.get(slot)) and slot not in self._opening:
                    session.heard(labels)
            case "stats":
                self.busy_s = float(message["busy_s"])
            case other:
                log.warning(
                    "worker %s says %r, which this edge does not know", self.worker.id, other
                )

    def _show(self) -> None:
        """It is of use once it has loaded, and it is known how far it is."""
        if self.worker.state is WorkerState.LOADING and self.card is not None and self._rtts_s:
            self._become(WorkerState.READY)

    @property
    def rtt_s(self) -> float:
        """The round trip to the worker, as far as it was measured."""
        return min(self._rtts_s, default=0.0)

    def _ping(self) -> None:
        self._pinged_s = self._clock.now()
        self.say(type="ping", t=self._pinged_s)

    def _become(self, state: WorkerState, **changes: Any) -> None:
        self.worker = replace(self.worker, state=state, **changes)
        self._workers.worker_changed(self)

    def _fail(self, message: str) -> None:
        """The worker says that it cannot go on, or was lost before it was ready."""
        loading = self.worker.state is WorkerState.LOADING
        self._become(WorkerState.GONE, reason=message)
        if loading:
            self._workers.load_failed(self, message)

    def on_lost(self) -> None:
        sessions, self._sessions = list(self._sessions.values()), {}
        if self.worker.state is WorkerState.LOADING and self.worker.id:
            self._become(WorkerState.GONE, reason="its link was lost while it was loading")
            self._workers.load_lost(self)
        elif self.worker.state is not WorkerState.GONE:
            self._become(WorkerState.GONE, reason="its link was lost")
        now = self._clock.now()
        self.newest_s = max((now if s.open_s is None else s.open_s for s in sessions), default=now)
        for session in sessions:
            session.slot_lost()

    def refuse(self, error: UnderstudyError) -> None:
        log.error("the link of worker %s is closed: %s", self.worker.id or "(unknown)", error)
        self.close(error.close_code, str(error))

    def cut(self) -> None:
        """Ends the link at once, whatever the worker says."""
        if self.transport is not None:
            self.transport.disconnect(False)

    def check(self, now: float) -> None:
        """Gives a worker up that is connected but silent: frozen, or its machine is gone."""
        if self.worker.id and now - self._pinged_s >= PING_S:
            self._ping()
        silence_s = now - self.heard_s
        limit_s = SILENCE_S if self._sessions else IDLE_SILENCE_S
        if self.worker.state is WorkerState.READY and silence_s > limit_s:
            log.error("worker %s is silent for %.2f s and given up", self.worker.id, silence_s)
            self.cut()
