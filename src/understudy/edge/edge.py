"""The edge: admits users, seats them, and knows its workers and sessions."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from understudy.config import Config, Voice, check_params
from understudy.core import wire
from understudy.core.audio import Resampling, SampleLock
from understudy.core.errors import AlreadyLive, ModelFailed, Overloaded, StoreAway
from understudy.core.fleet import EdgeRow, Placement, SessionRow
from understudy.core.ledger import Interval, Role
from understudy.core.session import Event, State
from understudy.edge.client import ClientConnection
from understudy.edge.errands import Errands
from understudy.edge.part import Casting, Part
from understudy.edge.roster import Roster
from understudy.edge.seating import Seating
from understudy.edge.session import Session
from understudy.edge.silence import Ears, Silence
from understudy.edge.slowness import Hearing, Watch
from understudy.seams import Clock, Store

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
BEAT_S: Final = 0.5
DISTANCES_S: Final = 1.0
NOISE_S: Final = 0.005  # by which round trips differ anyway
STALL_S: Final = 0.15  # between two ticks: then silence is our own
AWAY_S: Final = 0.5  # between two tries to write to a store that is away
TAKING_S: Final = 5.0  # ... and until another edge has given a user's other stream up
ENDING_S: Final = 2.0  # how long a session's end may take to be written
LEDGER_S: Final = 0.5  # what a crash of this process may lose
FAILED_LOADS: Final = 2  # of a revision that never loaded: then the one before is taken again
MOVES: Final = 50  # so many of the last are shown
MAX_CONNECTIONS: Final = 2000

CheckToken = Callable[[str | None, str], None]  # (token, user); raises BadToken


class Edge:
    """One edge process's sessions, connections and links."""

    def __init__(
        self,
        store: Store,
        config: Callable[[], Config],
        admits_worker: Callable[[str, str], bool],
        check_token: CheckToken,
        resampling: Resampling,
        clock: Clock,
        *,
        row: EdgeRow,
    ) -> None:
        """`config()` is the configuration as of now; `admits_worker(node, secret)`; `row`: what
        the others are told of this edge."""
        self.store = store
        self.config = config
        self.row = row
        self.name = row.name
        self.region = row.region
        self.sessions: dict[str, Session] = {}
        self.check_token = check_token
        self._resampling = resampling
        self._ears = Ears(resampling)
        self._clock = clock
        self._clients: set[ClientConnection] = set()
        self._by_resume: dict[str, Session] = {}
        self.moves: deque[dict[str, Any]] = deque(maxlen=MOVES)
        self.move_counts: Counter[str] = Counter()
        self._ended_heard_s = dict.fromkeys(Role, 0.0)
        self._ended_silent_s = 0.0
        self._unwritten: dict[tuple[str, int], Interval] = {}
        self.errands = Errands(clock)
        self.roster = Roster(store, config, admits_worker, self.errands, row, clock)
        self.refresh: Callable[[], Awaitable[None]] = self.roster.read  # reads what is deployed
        self.seating = Seating(
            store,
            config,
            self.roster.links,
            self.sessions,
            self.roster.cards,
            row.name,
            row.region,
            clock,
            self.errands,
        )
        self.seating.edges_changed = self.roster.say_edges
        self.seating.reclaim = lambda session: self.errands.spawn(self._reclaim(session))
        self.roster.changed = self._workers_changed
        self.roster.load_gave_up = self._load_gave_up
        self._handing_over = False
        self._watch = Watch()

    async def open(self) -> None:
        await self.roster.open(lambda: self.seating.fleet)
        orphans = await self.store.lose(self.name, self._clock.wall())
        if orphans:
            log.warning("%d sessions of an earlier run had not ended; they may resume", orphans)
        await self.store.beat(self.row)
        await self.seating.look()

    async def run(self) -> None:
        """The tick, for as long as the edge serves."""
        before = self._clock.now()
        stalled = False
        while True:
            await self._clock.sleep(TICK_S)
            now = self._clock.now()
            stalled = now - before > STALL_S and not stalled  # not twice in a row: time goes on
            before = now
            if stalled:  # we were away ourselves: what was said meanwhile is still to be read
                for link in self.roster.links.values():
                    link.heard_s = now
                continue
            for session in list(self.sessions.values()):
                session.tick(now)
            for client in list(self._clients):
                client.tick(now)
            for link in list(self.roster.links.values()):
                link.check(now)
            if slow := self._watch.look(now, self._hearings()):
                log.error("worker %s answers too late and is emptied", slow)
                self.errands.spawn(self.errands.insist(partial(self.roster.drain, slow)))

    def _hearings(self) -> Iterator[Hearing]:
        for session in self.sessions.values():
            if session.performer is not None and session.state is State.LIVE:
                yield Hearing(session.performer.worker, session.id, session.silent_s)

    async def run_beat(self) -> None:
        """Tells the others that it lives, for as long as the edge serves."""
        while True:
            await self._clock.sleep(BEAT_S)
            try:
                await self.store.beat(self.row)
            except StoreAway:
                pass  # it says so itself
            except Exception:
                log.exception("this edge could not say that it lives")

    async def run_distances(self) -> None:
        """Keeps what is written of the links right, for as long as the edge serves."""
        while True:
            await self._clock.sleep(DISTANCES_S)
            try:
                await self.roster.say_distances()
            except StoreAway:
                pass
            except Exception:
                log.exception("the links could not be written")

    async def close(self) -> None:
        """Ends all sessions; where there are other edges, they are left to those to go on."""
        self.errands.closing = True
        self._handing_over = len(self.seating.fleet.edges) > 1
        for session in list(self.sessions.values()):
            session.on(Event.SHUTDOWN)
        for client in list(self._clients):
            client.close(1001, "shutdown")
        await self.settle()

    async def settle(self) -> None:
        """Waits until all that was said to the store is written."""
        await self.errands.settle()
        if self.errands.closing:
            with contextlib.suppress(StoreAway):
                await self.store.lose(self.name, self._clock.wall())

    # connections

    def new_client(self) -> ClientConnection:
        client = ClientConnection(self, self._clock, _new_id())
        self._clients.add(client)
        return client

    def check_room(self) -> None:
        """Raises Overloaded."""
        if len(self._clients) >= MAX_CONNECTIONS:
            raise Overloaded("this server takes no more connections; try again in a minute")

    def forget(self, client: ClientConnection) -> None:
        self._clients.discard(client)

    # sessions (client.Admitting, session.Placing)

    async def admit(self, client: ClientConnection, start: wire.Start) -> Session:
        """From `start` to a session that waits for its slot. Raises what the user is to be told."""
        self.check_token(start.token, start.user)
        if start.voice not in self.config().voices:  # deployed a moment ago?
            await self.refresh()
        voice = self.config().voice(start.voice)
        await self._carded(client, voice.model)
        cast, cards = self._cast(voice)
        check_params(voice, start.params, cast[Role.LEAD].card.controls)

        def locks(cards: Sequence[wire.Card]) -> Callable[[], SampleLock]:
            return lambda: SampleLock(start.sample_rate, self._resampling, *cards)

        detached = self._by_resume.get(start.resume or "")
        if detached is not None and (detached.user, detached.voice.name) == (
            start.user,
            voice.name,
        ):
            if detached.client is not None:  # its old connection is dead but not yet gone
                detached.client.close(1001, "resumed elsewhere")
                detached.client_lost(detached.client)
            if detached.state is State.DETACHED:
                # Who performed for it goes on, whatever was deployed since.
                theirs = [casting.card for casting in detached.cast.values()]
                part = detached.performer or detached.coming
                if part is not None and part.link.card is not None:
                    theirs.append(part.link.card)
                detached.rejoin(client, start.params, locks(theirs))
                return detached
            if detached.state is State.ENDED:  # ... just now: its end is to be written first
                await detached.over

        adopted = await self._adopt(start)
        resume = start.resume if adopted and start.resume else secrets.token_urlsafe(16)
        name, epoch = (adopted.id, adopted.epoch) if adopted else (client.id, 0)
        session = Session(name, resume, start, cast, locks(cards), self, self._clock, client, epoch)
        if adopted is not None:
            log.info("session %s goes on here", session.id, extra={"session": session.id})
            session.started_s = adopted.started_s
            with contextlib.suppress(StoreAway):  # it only has to be shown
                session.heard_before(await self.store.heard(0.0, session.id))
        else:
            await self._begin(session, takeover=start.takeover)
        if voice.skip_silence and not cards[0].listens:
            session.silence = Silence(session, self._ears)
        self.sessions[session.id] = session
        self._by_resume[session.resume] = session
        session.on(Event.START)
        return session

    async def _adopt(self, start: wire.Start) -> SessionRow | None:
        """The session that was live at another edge, if that is what the token says."""
        if start.resume is None:
            return None
        row = await self.store.adopt(start.user, _hash(start.resume), self.name, self.region)
        if row is None or row.voice == start.voice:
            return row
        await self.store.end(row.id, "stopped", self._clock.wall(), self.name)
        return None

    async def _reclaim(self, session: Session) -> None:
        """The others took this edge for lost, and the session's seats are gone. It is not."""
        try:
            mine = (session.user, _hash(session.resume), self.name, self.region)
            if await self.store.adopt(*mine, orphan=True) is not None:
                log.warning("session %s was taken for lost", session.id)
                session.lose_seats()
            else:  # its user has gone on elsewhere, or was told to
                session.on(Event.TAKEN_OVER)
        except StoreAway:
            pass  # the next look finds it again
        finally:
            session.seats_pending -= 1
            session.seats_changed += 1

    def _cast(self, voice: Voice) -> tuple[dict[Role, Casting], list[wire.Card]]:
        """Who may perform, and the cards of all that may: those fix the latency of the session."""
        config = self.config()
        lead = self.roster.card(voice.model)
        assert lead is not None
        cast = {Role.LEAD: Casting(voice, lead)}
        cards = [lead]
        for worker in self.seating.fleet.workers:  # older revisions take sessions, too
            card = self.roster.cards.get((worker.model, worker.revision))
            like = card and (card.sample_rate, card.kind) == (lead.sample_rate, lead.kind)
            if worker.model == voice.model and card and like:
                cards.append(card)
        if not lead.listens and (cover := config.understudy_of(voice)):
            card = self.roster.card(cover.model)
            rates = {card.sample_rate, lead.sample_rate} - {0} if card else set()
            if card is None or len(rates) > 1:
                why = "its rate is another" if card else "it has not loaded yet"
                log.warning("%s cannot cover for %s: %s", cover.name, voice.name, why)
            else:
                cast[Role.UNDERSTUDY] = Casting(cover, card)
                cards.append(card)
        return cast, cards

    async def _begin(self, session: Session, *, takeover: bool) -> None:
        row = SessionRow(
            id=session.id,
            user=session.user,
            voice=session.voice.name,
            model=session.voice.model,
            understudy=cover.voice.model if (cover := session.cast.get(Role.UNDERSTUDY)) else "",
            region=self.region,
            edge=self.name,
            started_s=session.started_s,
            resume=_hash(session.resume),
        )
        seat = self.seating.guess(session, row)
        until = self._clock.now() + (TAKING_S if takeover else ENDING_S)
        while True:
            try:
                if await self.store.begin(row, seat) and seat is not None:
                    session.won = Placement(seat.worker, seat.slot), seat.role
                return
            except StoreAway:  # it may have been written all the same
                end = partial(self.store.end, row.id, "error", self._clock.wall(), self.name)
                self.errands.spawn(self.errands.insist(end))
                raise
            except AlreadyLive as error:
                other = self.sessions.get(error.session)
                if other is None:  # beginning or ending at this moment, or another edge's
                    if takeover:
                        await self.store.evict(error.session, "taken_over")
                    if self._clock.now() > until:
                        raise
                    await self._clock.sleep(0.05 if takeover else 0.01)
                elif takeover or other.state in (
                    State.DETACHED,
                    State.LEAVING,
                    State.FLUSHING,
                    State.ENDED,
                ):
                    other.on(Event.TAKEN_OVER)
                    await other.over
                else:
                    raise

    async def _carded(self, client: ClientConnection, model: str) -> None:
        """Waits, the first time ever, until a worker or the check has loaded the model once."""
        while self.roster.card(model) is None:
            self.roster.raise_failure(model)
            client.send_event(wire.Loading(client.id, None, 0.0, ""))
            await self.roster.new_card.wait()

    def check_params(self, session: Session, wish: wire.Params) -> None:
        """Raises BadParams."""
        check_params(session.voice, wish, session.cast[Role.LEAD].card.controls)

    def seek(self, session: Session) -> None:
        if Role.UNDERSTUDY not in session.cast:
            try:
                self.roster.raise_failure(session.voice.model)
            except ModelFailed as error:
                session.fail(error)
                return
        self.seating.seek(session)

    def release(self, session: Session, part: Part) -> None:
        self.seating.release(session, part)

    def promoted(self, session: Session, source: str | None, part: Part) -> None:
        self.move_counts[part.why] += 1
        move = {
            "seq": self.move_counts.total(),
            "at_s": self._clock.wall(),
            "session": session.id,
            "voice": session.voice.name,
            "source": source,
            "target": part.worker,
            "why": part.why,
        }
        self.moves.append(move)
        words = ("session %s: %s performs on %s (%s)", session.id, part.role, part.worker, part.why)
        log.info(*words, extra={"session": session.id, "worker": part.worker})
        self.seating.nudge()  # another seat may wait for it

    def meter(self, session: Session) -> None:
        """Takes what a session has heard since the last time, to be written soon."""
        if interval := session.metered(self._clock.wall()):
            self._unwritten[interval.session, interval.seq] = interval

    async def write_ledger(self) -> None:
        """Writes what has been metered. While the store is away it is kept, and written late."""
        for session in list(self.sessions.values()):
            self.meter(session)
        batch, self._unwritten = self._unwritten, {}
        if not batch:
            return
        try:
            await self.store.meter(list(batch.values()))
        except Exception:
            self._unwritten = batch | self._unwritten  # newer counts win
            raise

    async def run_ledger(self) -> None:
        """Writes the ledger, for as long as the edge serves."""
        while True:
            await self._clock.sleep(LEDGER_S)
            try:
                await self.write_ledger()
            except StoreAway:
                log.warning("the ledger is %d intervals behind the store", len(self._unwritten))
            except Exception:
                log.exception("the ledger is %d intervals behind the store", len(self._unwritten))

    def ended(self, session: Session) -> None:
        self.meter(session)
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
        for role in Role:
            self._ended_heard_s[role] += session.heard_s(role)
        self._ended_silent_s += session.silent_s
        if self._by_resume.get(session.resume) is session:
            del self._by_resume[session.resume]
        log.info(
            "session %s of %s (%s) ended: %s, %.1f s heard",
            session.id,
            session.user,
            session.voice.name,
            session.reason,
            sum(map(session.heard_s, Role)),
            extra={"session": session.id, "user": session.user, "voice": session.voice.name},
        )
        self.seating.learn_length(self._clock.wall() - session.started_s)
        self.errands.spawn(self._end(session))

    async def _end(self, session: Session) -> None:
        at_s = self._clock.wall()
        try:
            if not (self._handing_over and session.reason == "shutdown"):
                end = partial(self.store.end, session.id, session.reason, at_s, self.name)
                await self.errands.insist(end)
        finally:
            session.over.set_result(None)
        self.seating.nudge()
        self.seating.changed()

    def _workers_changed(self) -> None:
        self.seating.nudge()
        self.seating.changed()

    def _load_gave_up(self, model: str, message: str) -> None:
        """Who could only wait for it is told."""
        for session in list(self.sessions.values()):
            waits = session.state in (State.WAITING, State.LEAVING)
            if waits and session.voice.model == model and Role.UNDERSTUDY not in session.cast:
                session.fail(ModelFailed(message))

    # what the API shows

    @property
    def unwritten(self) -> int:
        """Intervals of the ledger that the store does not have yet."""
        return len(self._unwritten)

    def heard_s(self, role: Role) -> float:
        """What this edge's users have heard since it started."""
        live = sum(session.heard_s(role) for session in self.sessions.values())
        return self._ended_heard_s[role] + live

    def silent_s(self) -> float:
        return self._ended_silent_s + sum(s.silent_s for s in self.sessions.values())


def _hash(resume: str) -> str:
    """What the store has of a token: who reads the store cannot take a session."""
    return hashlib.sha256(resume.encode()).hexdigest()


def _new_id() -> str:
    return secrets.token_hex(12)
