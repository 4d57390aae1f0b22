"""A session at the edge: carries out what core.session decides, and holds the sample lock."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Callable, Mapping

from understudy.core import wire
from understudy.core.audio import SampleLock
from understudy.core.errors import Internal, ModelFailed, UnderstudyError
from understudy.core.fleet import Placement
from understudy.core.labels import Labels, as_event
from understudy.core.ledger import Interval, Meter, Role
from understudy.core.session import DEADLINES, TABLE, Effect, Event, State, advance
from understudy.core.suspicion import QUICK_S, Suspicion
from understudy.core.wire import BYTES_PER_SAMPLE
from understudy.edge.links import WorkerLink
from understudy.edge.part import Casting, Client, Part, Placing
from understudy.edge.silence import Silence
from understudy.seams import Clock

log = logging.getLogger(__name__)

USAGE_S = 1.0
# Silence without one answer, or an opening without an end: whoever has the slot is not ours.
STUCK_S = 2.0
OPENING_S = 5.0
SEQS = 1 << 20  # so many intervals each edge may write of a session, none over another's
# Bound once, for every frame passes here: a member looked up on its enum costs a call.
_LIVE, _MOVING, _FLUSHING, _ENDED = State.LIVE, State.MOVING, State.FLUSHING, State.ENDED
_WANTING = (State.WAITING, State.LEAVING, State.OPENING, State.LIVE, State.MOVING)
REASONS = {
    Event.CLIENT_LOST: "gone",
    Event.DEADLINE: "gone",
    Event.TAKEN_OVER: "taken_over",
    Event.FAIL: "error",
    Event.SHUTDOWN: "shutdown",
}


class Session:
    """One user's live stream."""

    def __init__(
        self,
        session_id: str,
        resume: str,
        start: wire.Start,
        cast: Mapping[Role, Casting],
        new_lock: Callable[[], SampleLock],
        placing: Placing,
        clock: Clock,
        client: Client,
        epoch: int = 0,
    ) -> None:
        """`epoch`: how often it was taken on from another edge."""
        self.id = session_id
        self.resume = resume
        self.user = start.user
        self.cast = cast
        self.voice = cast[Role.LEAD].voice
        self.wish: wire.Params = start.params
        self.state = State.NEW
        self.since_s = clock.now()  # when it entered its state
        self.started_s = clock.wall()
        self.won: tuple[Placement, Role] | None = None  # the slot that it was begun with
        self.reason = ""
        self.client: Client | None = client
        self._new_lock = new_lock
        self.lock = new_lock()
        self._listens = cast[Role.LEAD].card.listens
        self._labels = Labels()
        self.silence: Silence | None = None  # where its voice skips silence
        self._changes = deque([(0, self.wish)])  # (input position, the wish from there on)
        self._placing = placing
        self._clock = clock
        self.performer: Part | None = None
        self.coming: Part | None = None
        self.seating = asyncio.Lock()  # one change of its seats at a time
        self.seats_pending = 0  # changes of its seats that the store is asked for
        self.seats_changed = 0  # ... and those that are done
        self._heard_s = dict.fromkeys(Role, 0.0)  # before `_counted`, and on lost connections
        self._elsewhere_s = dict.fromkeys(Role, 0.0)  # at other edges
        self._counted = 0  # samples heard up to here are in `_heard_s`
        self._meter = Meter(self.lock.rate_hz, epoch * SEQS)
        self._answered = False  # since the last tick
        self._silent_then_s = 0.0  # when the last answer came
        self.suspicion = Suspicion(session_id)
        self._metered_part: tuple[str, str, str, Role] = ("", "", "", Role.LEAD)
        self._silent_before_s = 0.0
        self._skipped_before_s = 0.0
        # Each session at its own time within the second: those that came together (everybody,
        # after a restart) would have their usage told in one burst that delays all audio.
        self._usage_s = self.since_s - zlib.crc32(session_id.encode()) % 1000 / 1000 * USAGE_S
        self.said: wire.Queued | wire.Loading | None = None  # the last word on waiting
        self._error: UnderstudyError | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._effects: dict[Effect, Callable[[], None]] = {
            Effect.SEEK: lambda: placing.seek(self),
            Effect.OPEN: self._open,
            Effect.PROMOTE: self._promote,
            Effect.DROP: self._drop,
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
            words = ("session %s: %s, %s -> %s", self.id, event, before, self.state)
            log.debug(*words, extra={"session": self.id})
        if self.state is State.ENDED and before is not State.ENDED:
            late = before in (State.LEAVING, State.FLUSHING) and event is Event.DEADLINE
            self.reason = "stopped" if late else REASONS.get(event, "stopped")
        for effect in effects:
            self._effects[effect]()

    def fail(self, error: UnderstudyError) -> None:
        self._error = error
        self.tell(wire.Error.of(self.id, error))
        self.on(Event.FAIL)

    def offer(self, link: WorkerLink, slot: int, role: Role, why: str) -> None:
        """The store gives it this slot. Offered again and again until it is taken or released."""
        parts = [part for part in (self.performer, self.coming) if part is not None]
        if any(part.link is link and part.slot == slot for part in parts):
            return
        casting = self.cast.get(role)
        part = Part(self, link, slot, role, casting or self.cast[Role.LEAD], why)
        has_lead = any(part.role is Role.LEAD for part in parts)
        fits = link.card is not None and self.lock.fits(link.card)
        if role is Role.LEAD and not fits:
            return  # it keeps the seat, or it would be given the next such one; nobody is heard
        stays_away = self.suspicion.is_apart if role is Role.LEAD else has_lead
        if casting is None or not fits or stays_away:
            self._placing.release(self, part)
        elif self.coming is None and (self.state, Event.SLOT) in TABLE:
            self.coming = part
            self.on(Event.SLOT)

    def now(self) -> float:
        return self._clock.now()

    @property
    def has_performed(self) -> bool:
        """Whether any worker was ever heard."""
        return self._metered_part[0] != ""

    @property
    def wants_lead(self) -> bool:
        """Whether it stands in the queue for a slot of its lead's model."""
        parts = (self.performer, self.coming)
        return self.state in _WANTING and not any(p and p.role is Role.LEAD for p in parts)

    def tick(self, now: float) -> None:
        """Deadlines, overdue answers, the usage event: called a few times a second."""
        limit = DEADLINES.get(self.state)
        if limit is not None and now - self.since_s > limit:
            self.on(Event.DEADLINE)
            return
        if self.suspicion.is_over(now) and self.wants_lead:
            self._placing.seek(self)
        if self.state is _MOVING and self.lock.fading and self.lock.is_overdue(now):
            # One of the two is stuck.
            if self.lock.newcomer_is_ahead:
                self.lock.leave(now)
                self.on(Event.CROSSED)
            else:
                self.on(Event.DEADLINE)
        until = self.lock.give_up(now)
        if until is not None:
            if self.performer is not None:
                self.performer.link.say(type="shed", slot=self.performer.slot, position=until)
            self._send()
        self._check_performer(now)
        if now - self._usage_s >= USAGE_S and self.state in (_LIVE, _MOVING):
            self._usage_s = now
            self.tell(self.usage())

    def _check_performer(self, now: float) -> None:
        stuck = None
        if self._answered or self.state is not _LIVE:
            self._answered, self._silent_then_s = False, self.lock.silent_s
        elif self.lock.silent_s - self._silent_then_s > STUCK_S:
            stuck, self._silent_then_s = self.performer, self.lock.silent_s
        if self.state is State.OPENING and now - self.since_s > OPENING_S:
            stuck = self.coming
        if stuck is not None:
            words = ("session %s: worker %s does not answer", self.id, stuck.worker)
            log.warning(*words, extra={"session": self.id, "worker": stuck.worker})
            stuck.link.release(stuck.slot, stuck)
            stuck.slot_lost()

    # the client's side

    def feed(self, pcm: bytes) -> None:
        if self.state is _FLUSHING or self.state is _ENDED or self.state is State.LEAVING:
            return  # nothing counts after `stop`
        position, model_pcm = self.lock.feed(pcm, self._clock.now())
        if model_pcm:
            kept_back = self.silence is not None and self.silence.lasts
            if self.silence is not None:
                self.silence.ear.push(model_pcm)
            if self.performer is not None and not kept_back:
                self.performer.link.audio(self.performer.slot, position, model_pcm)
            if self.coming is not None:
                self.coming.link.audio(self.coming.slot, position, model_pcm)
            if self.silence is not None:
                self.silence.answer()
        self._send()

    def set_params(self, wish: wire.Params) -> None:
        """The user's numbers from here on."""
        self._forget_changes(self.lock.history.start)
        self.wish = {**self.wish, **wish}
        end = self.lock.history.end
        if self._changes[-1][0] == end:  # nothing was said since: the last one counts
            self._changes.pop()
        self._changes.append((end, self.wish))
        for part in (self.performer, self.coming):
            if part is not None:
                self._say_params(part, self.wish)

    def _say_params(self, part: Part, wish: wire.Params) -> None:
        part.link.say(type="params", slot=part.slot, params=part.casting.params(wish))

    def _forget_changes(self, position: int) -> None:
        """Drops the params that others had replaced by `position`."""
        while len(self._changes) > 1 and self._changes[1][0] <= position:
            self._changes.popleft()

    def client_lost(self, client: Client) -> None:
        if self.client is not client:
            return  # an old connection's end: the user is back on another
        self.client = None
        self.on(Event.CLIENT_LOST)

    def rejoin(self, client: Client, wish: wire.Params, new_lock: Callable[[], SampleLock]) -> None:
        """The user is back, on a new connection."""
        self.client, self.wish, self._new_lock = client, wish, new_lock
        seated = self.performer is not None or self.coming is not None
        self.on(Event.RESUME if seated else Event.RESUME_SEATLESS)

    def tell(self, event: wire.ServerEvent) -> None:
        if self.client is not None:
            self.client.send_event(event)

    def tell_waiting(self, event: wire.Queued | wire.Loading) -> None:
        """Says where the session stands, if that is news."""
        if event != self.said:
            self.said = event
            self.tell(event)

    def usage(self) -> wire.Usage:
        queue, engine = self.lock.timings()
        return wire.Usage(
            self.id,
            lead_s=round(self.heard_s(Role.LEAD) + self._elsewhere_s[Role.LEAD], 3),
            understudy_s=round(
                self.heard_s(Role.UNDERSTUDY) + self._elsewhere_s[Role.UNDERSTUDY], 3
            ),
            silent_s=round(self.silent_s, 3),
            queue_ms=queue,
            engine_ms=engine,
            skipped_s=round(self._skipped_before_s + self.lock.skipped_s, 3),
        )

    @property
    def silent_s(self) -> float:
        return self._silent_before_s + self.lock.silent_s

    def heard_s(self, role: Role) -> float:
        now = 0.0
        if role is self._metered_part[-1]:
            now = (self.lock.heard - self._counted) / self.lock.rate_hz
        return self._heard_s[role] + now

    def heard_before(self, seconds: Mapping[Role, float]) -> None:
        """What its user heard at other edges."""
        self._elsewhere_s = dict(seconds)

    def _count(self) -> None:
        """Puts what was heard so far on the account of who performed it."""
        role = self._metered_part[-1]
        self._heard_s[role] = self.heard_s(role)
        self._counted = self.lock.heard

    def metered(self, wall_s: float) -> Interval | None:
        """The ledger's interval that grew since the last call, if one did."""
        taken = self._meter.take(self.lock.heard)
        if taken is None:
            return None
        seq, samples = taken
        worker, region, model, role = self._metered_part
        return Interval(
            session=self.id,
            seq=seq,
            user=self.user,
            voice=self.voice.name,
            model=model,
            worker=worker,
            region=region,
            role=role,
            rate_hz=self._meter.rate_hz,
            samples=samples,
            at_s=wall_s,
        )

    # the workers' side

    def answer(self, part: Part, position: int, pcm: memoryview, step_s: float, now: float) -> None:
        self._answered = True
        if part is self.performer:
            self.lock.answer(position, pcm, step_s, now)
            if self.silence is not None:
                self.silence.answer()
        elif part is self.coming and self.state is _MOVING:
            self.lock.join(position, pcm, part.casting.card, step_s, now)
        else:
            return
        self._send()
        if self.state is _MOVING and not self.lock.crossing:
            self.on(Event.CROSSED)

    def hear(self, part: Part, labels: list[wire.Heard]) -> None:
        """What a listener says."""
        listened = self.lock.listened
        if listened is None:
            return
        if part is self.performer:
            self._tell_labels(self._labels.tell(labels, listened))
        elif part is self.coming:
            self._labels.hold(labels, listened)

    def _tell_labels(self, labels: list[wire.Heard]) -> None:
        ratio = self.lock.rate_hz / self.lock.model_hz
        for one in labels:
            self.tell(as_event(self.id, one, ratio, self.lock.received))

    def part_opened(self, part: Part) -> None:
        if part is self.coming:
            self.on(Event.OPENED)

    def part_lost(self, part: Part) -> None:
        now = self._clock.now()
        if part in (self.performer, self.coming) and not part.link.left:
            self._suspect(part, now)
            if self.state is _ENDED:
                return
        if part is self.coming:
            self.coming = None
            self._labels.part()
            self.lock.part(now)
            self._placing.release(self, part)
            self.on(Event.COMING_LOST)
        elif part is self.performer:
            self.performer = None
            if self.silence is not None:
                self.silence.over()
            self.lock.leave(now)
            self._placing.release(self, part)
            self.on(Event.SLOT_LOST)
            if self.coming is not None and self.coming.is_open:
                self.on(Event.OPENED)

    def lose_seats(self) -> None:
        """Somebody else may have its slots by now: it looks for others."""
        for part in (self.coming, self.performer):
            if part is not None:
                part.link.release(part.slot, part)
                part.slot_lost()

    def _suspect(self, part: Part, now: float) -> None:
        """Its worker died. Was it this session's doing?"""
        self.suspicion.died(now, part.open_s, part.link.newest_s)
        deaths = self.suspicion.deaths
        if self.suspicion.fatal:
            self.fail(
                ModelFailed(
                    f"{deaths} workers in a row died within {QUICK_S:.0f} s of taking this "
                    "session, so it is stopped; if it happens again, tell who runs the server"
                )
            )
        elif self.suspicion.suspicious:
            words = ("session %s has lost %d workers in a row", self.id, deaths)
            log.warning(*words, extra={"session": self.id})

    # effects

    def _send(self) -> None:
        pcm = self.lock.take()
        if pcm and self.client is not None and not self._listens:
            self.client.send_audio(pcm)
        if self.state is _FLUSHING and self.lock.done:
            self.on(Event.FLUSHED)

    def _open(self) -> None:
        part = self.coming
        assert part is not None
        if self.silence is not None:  # both have to hear the same
            self.silence.wake()
        if self.performer is not None:
            self.lock.meet()
        position, context = self.lock.context(part.casting.card)
        # A slider that moved within the context moves again at its place.
        self._forget_changes(self.lock.history.start)
        changes = list(self._changes)
        while len(changes) > 1 and changes[1][0] <= position:
            del changes[0]
        part.link.open(part.slot, part, position, part.casting.params(changes[0][1]))
        at = position
        for end, wish in [*changes, (self.lock.history.end, None)][1:]:
            pcm = context[(at - position) * BYTES_PER_SAMPLE : (end - position) * BYTES_PER_SAMPLE]
            if pcm:
                part.link.audio(part.slot, at, pcm)
            if wish is not None:
                self._say_params(part, wish)
            at = end

    def _promote(self) -> None:
        part, old = self.coming, self.performer
        assert part is not None
        self._placing.meter(self)
        self._meter.performer(self.lock.heard)
        self._count()
        worker = part.link.worker
        before = self._metered_part[0]
        self._metered_part = (worker.id, worker.region, worker.model, part.role)
        self.performer, self.coming = part, None
        if old is not None:
            self._give_back(old)
        self.said = None
        self.tell(
            wire.Live(
                self.id,
                role=part.role,
                voice=part.casting.voice.name,
                latency_ms=round(self.lock.latency / self.lock.rate_hz * 1e3, 3),
                latency_samples=self.lock.latency,
                resume=self.resume,
                kind=part.casting.card.kind,
            )
        )
        if self.lock.listened is not None:
            self._tell_labels(self._labels.join(self.lock.listened))
        self._placing.promoted(self, before or None, part)

    def _drop(self) -> None:
        if self.coming is not None:
            self._labels.part()
            self.lock.part(self._clock.now())
            part, self.coming = self.coming, None
            self._give_back(part)

    def _give_back(self, part: Part) -> None:
        part.link.release(part.slot, part)
        self._placing.release(self, part)

    def _flush(self) -> None:
        if self.silence is not None:
            self.silence.wake()
        position, pcm = self.lock.finish(self._clock.now())
        part = self.performer or self.coming
        if part is not None and pcm:
            part.link.audio(part.slot, position, pcm)
        self._send()

    def _abandon(self) -> None:
        self.lock.finish(self._clock.now())
        self.lock.abandon()
        self._send()

    def _rejoin(self) -> None:
        """Whoever has the session, if anybody does, opens it anew on the same slot."""
        self._placing.meter(self)
        self._meter.performer(self.lock.heard)
        self._count()
        self._silent_before_s += self.lock.silent_s
        self._skipped_before_s += self.lock.skipped_s
        self.lock = self._new_lock()
        self.silence = None if self.silence is None else self.silence.anew()
        self._labels = Labels()
        self._counted = 0
        self._changes = deque([(0, self.wish)])
        self._meter = Meter(self.lock.rate_hz, self._meter.next_seq)
        self.coming, self.performer = self.performer or self.coming, None
        if self.coming is not None:
            self.coming.is_open = False

    def _release(self) -> None:
        for part in (self.performer, self.coming):
            if part is not None:
                part.link.release(part.slot, part)  # the store frees the slots of an ended session
        self.performer = self.coming = None

    def _finish(self) -> None:
        if self.silence is not None:
            self.silence.ear.close()
        self._placing.ended(self)
        usage = self.usage()
        self.tell(usage)
        self.tell(wire.Ended(self.id, self.reason, usage.lead_s, usage.understudy_s))
        if self.client is not None:
            code = {"error": (self._error or Internal("")).close_code, "shutdown": 1001}
            self.client.close(code.get(self.reason, 1000), self.reason)
            self.client = None
