"""A session at the edge: carries out what core.session decides, and holds the sample lock."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

from understudy.config import Voice
from understudy.core import wire
from understudy.core.audio import SampleLock
from understudy.core.errors import Internal, ModelFailed, UnderstudyError
from understudy.core.ledger import Interval, Meter, Role
from understudy.core.session import DEADLINES, Effect, Event, State, advance
from understudy.core.wire import BYTES_PER_SAMPLE
from understudy.edge.links import WorkerLink
from understudy.seams import Clock

log = logging.getLogger(__name__)

USAGE_S = 1.0
# Bound once, for every frame passes here: a member looked up on its enum costs a call.
_LIVE, _FLUSHING, _ENDED = State.LIVE, State.FLUSHING, State.ENDED
REASONS = {
    Event.CLIENT_LOST: "gone",
    Event.DEADLINE: "gone",
    Event.TAKEN_OVER: "taken_over",
    Event.FAIL: "error",
    Event.SHUTDOWN: "shutdown",
}


class Client(Protocol):
    """What a session needs of its user's connection."""

    def send_event(self, event: wire.ServerEvent) -> None: ...

    def send_audio(self, pcm: bytes) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...


class Placing(Protocol):
    """What a session needs of the edge."""

    def seek(self, session: Session) -> None: ...

    def meter(self, session: Session) -> None: ...

    def ended(self, session: Session) -> None: ...


class Session:
    """One user's live stream."""

    def __init__(
        self,
        session_id: str,
        resume: str,
        start: wire.Start,
        voice: Voice,
        params: dict[str, float],
        new_lock: Callable[[], SampleLock],
        placing: Placing,
        clock: Clock,
        client: Client,
    ) -> None:
        self.id = session_id
        self.resume = resume
        self.user = start.user
        self.voice = voice
        self.params = params
        self.state = State.NEW
        self.since_s = clock.now()  # when it entered its state
        self.reason = ""
        self.client: Client | None = client
        self._new_lock = new_lock
        self.lock = new_lock()
        self._changes = deque([(0, params)])  # (input position, params from there on)
        self._placing = placing
        self._clock = clock
        self._link: WorkerLink | None = None
        self._slot = -1
        self._heard_before_s = 0.0  # on connections that were lost
        self._meter = Meter(self.lock.rate_hz)
        self._performer = ("", "")  # (worker, region) that the meter runs for
        self._silent_before_s = 0.0
        # Each session at its own time within the second: those that came together (everybody,
        # after a restart) would have their usage told in one burst that delays all audio.
        self._usage_s = self.since_s - zlib.crc32(session_id.encode()) % 1000 / 1000 * USAGE_S
        self._said: wire.ServerEvent | None = None  # the last word on waiting
        self._error: UnderstudyError | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._effects: dict[Effect, Callable[[], None]] = {
            Effect.SEEK: lambda: placing.seek(self),
            Effect.OPEN: self._open,
            Effect.GO_LIVE: self._go_live,
            Effect.FLUSH: self._flush,
            Effect.ABANDON: self._abandon,
            Effect.REJOIN: self._rejoin,
            Effect.RELEASE: self._release,
            Effect.FINISH: self._finish,
        }

    # events

    def on(self, event: Event) -> None:
        """The one way a session changes."""
        before = self.state
        self.state, effects = advance(before, event)
        if self.state is not before:
            self.since_s = self._clock.now()
            log.debug("session %s: %s, %s -> %s", self.id, event, before, self.state)
        if self.state is State.ENDED and before is not State.ENDED:
            late = before in (State.LEAVING, State.FLUSHING) and event is Event.DEADLINE
            self.reason = "stopped" if late else REASONS.get(event, "stopped")
        for effect in effects:
            self._effects[effect]()

    def fail(self, error: UnderstudyError) -> None:
        self._error = error
        self.tell(wire.Error.of(self.id, error))
        self.on(Event.FAIL)

    def slot_found(self, link: WorkerLink, slot: int) -> None:
        self._link, self._slot = link, slot
        self.on(Event.SLOT)

    def tick(self, now: float) -> None:
        """Deadlines, overdue answers, the usage event: called a few times a second."""
        limit = DEADLINES.get(self.state)
        if limit is not None and now - self.since_s > limit:
            self.on(Event.DEADLINE)
            return
        until = self.lock.give_up(now)
        if until is not None:
            if self._link is not None:
                self._link.say(type="shed", slot=self._slot, position=until)
            self._send()
        if self.state is _LIVE and now - self._usage_s >= USAGE_S:
            self._usage_s = now
            self.tell(self.usage())

    # the client's side

    def feed(self, pcm: bytes) -> None:
        if self.state is _FLUSHING or self.state is _ENDED or self.state is State.LEAVING:
            return  # nothing counts after `stop`
        position, model_pcm = self.lock.feed(pcm, self._clock.now())
        if model_pcm and self._link is not None:
            self._link.audio(self._slot, position, model_pcm)
        self._send()

    def set_params(self, params: dict[str, float]) -> None:
        self._forget_changes(self.lock.history.start)
        self.params = params
        end = self.lock.history.end
        if self._changes[-1][0] == end:  # nothing was said since: the last one counts
            self._changes.pop()
        self._changes.append((end, params))
        if self._link is not None:
            self._link.say(type="params", slot=self._slot, params=params)

    def _forget_changes(self, position: int) -> None:
        """Drops the params that others had replaced by `position`."""
        while len(self._changes) > 1 and self._changes[1][0] <= position:
            self._changes.popleft()

    def client_lost(self) -> None:
        self.client = None
        self.on(Event.CLIENT_LOST)

    def rejoin(
        self, client: Client, params: dict[str, float], new_lock: Callable[[], SampleLock]
    ) -> None:
        """The user is back, on a new connection."""
        self.client, self.params, self._new_lock = client, params, new_lock
        self.on(Event.RESUME)

    def tell(self, event: wire.ServerEvent) -> None:
        if self.client is not None:
            self.client.send_event(event)

    def tell_waiting(self, event: wire.Queued | wire.Loading) -> None:
        """Says where the session stands, if that is news."""
        if event != self._said:
            self._said = event
            self.tell(event)

    def usage(self) -> wire.Usage:
        queue, engine = self.lock.timings()
        return wire.Usage(
            self.id,
            lead_s=round(self.heard_s, 3),
            understudy_s=0.0,
            silent_s=round(self._silent_before_s + self.lock.silent_s, 3),
            queue_ms=queue,
            engine_ms=engine,
        )

    @property
    def heard_s(self) -> float:
        return self._heard_before_s + self.lock.heard / self.lock.rate_hz

    def metered(self, wall_s: float) -> Interval | None:
        """The ledger's interval that grew since the last call, if one did."""
        taken = self._meter.take(self.lock.heard)
        if taken is None:
            return None
        seq, samples = taken
        worker, region = self._performer
        return Interval(
            session=self.id,
            seq=seq,
            user=self.user,
            voice=self.voice.name,
            model=self.voice.model,
            worker=worker,
            region=region,
            role=Role.LEAD,
            rate_hz=self._meter.rate_hz,
            samples=samples,
            at_s=wall_s,
        )

    @property
    def worker(self) -> str | None:
        return self._link.worker.id if self._link else None

    # the worker's side (links.Performing)

    def answer(self, position: int, pcm: memoryview, step_s: float, now: float) -> None:
        self.lock.answer(position, pcm, step_s, now)
        self._send()

    def opened(self) -> None:
        self.on(Event.OPENED)

    def slot_lost(self) -> None:
        self._link = None
        self.on(Event.SLOT_LOST)

    def refused(self, message: str) -> None:
        self.fail(ModelFailed(f"{self.voice.name}: {message}"))

    # effects

    def _send(self) -> None:
        pcm = self.lock.take()
        if pcm and self.client is not None:
            self.client.send_audio(pcm)
        if self.state is _FLUSHING and self.lock.done:
            self.on(Event.FLUSHED)

    def _open(self) -> None:
        assert self._link is not None
        position, context = self.lock.context()
        # A slider that moved within the context moves again at its place.
        self._forget_changes(position)
        self._link.open(self._slot, self, position, self._changes[0][1])
        at = position
        for end, params in [*self._changes, (self.lock.history.end, None)][1:]:
            pcm = context[(at - position) * BYTES_PER_SAMPLE : (end - position) * BYTES_PER_SAMPLE]
            if pcm:
                self._link.audio(self._slot, at, pcm)
            if params is not None:
                self._link.say(type="params", slot=self._slot, params=params)
            at = end

    def _go_live(self) -> None:
        assert self._link is not None
        self._placing.meter(self)
        self._meter.performer(self.lock.heard)
        self._performer = (self._link.worker.id, self._link.worker.region)
        self.tell(
            wire.Live(
                self.id,
                role="lead",
                voice=self.voice.name,
                latency_ms=round(self.lock.latency / self.lock.rate_hz * 1e3, 3),
                latency_samples=self.lock.latency,
                resume=self.resume,
            )
        )

    def _flush(self) -> None:
        position, pcm = self.lock.finish(self._clock.now())
        if self._link is not None and pcm:
            self._link.audio(self._slot, position, pcm)
        self._send()

    def _abandon(self) -> None:
        self.lock.finish(self._clock.now())
        self.lock.abandon()
        self._send()

    def _rejoin(self) -> None:
        self._placing.meter(self)
        self._meter.performer(self.lock.heard)
        self._heard_before_s = self.heard_s
        self._silent_before_s += self.lock.silent_s
        self.lock = self._new_lock()
        self._changes = deque([(0, self.params)])
        self._meter = Meter(self.lock.rate_hz, self._meter.next_seq)

    def _release(self) -> None:
        if self._link is not None:
            self._link.release(self._slot, self)
            self._link = None

    def _finish(self) -> None:
        self._placing.ended(self)
        self.tell(self.usage())
        self.tell(wire.Ended(self.id, self.reason, lead_s=round(self.heard_s, 3), understudy_s=0.0))
        if self.client is not None:
            code = {"error": (self._error or Internal("")).close_code, "shutdown": 1001}
            self.client.close(code.get(self.reason, 1000), self.reason)
            self.client = None
