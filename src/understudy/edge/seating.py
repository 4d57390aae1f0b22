"""Who sits where: asks the store for seats, offers them to sessions, tells those who wait.

The store's seats are the truth, and an order too: whoever gave a session a seat (this edge when
the user came, or the controller to move it), the session is offered it here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from understudy.config import Config
from understudy.core import wire
from understudy.core.errors import Internal, StoreAway
from understudy.core.fleet import Fleet, Placement, Request, Seat, SessionRow, WorkerState
from understudy.core.ledger import Role
from understudy.core.pools import DEFAULT_BOOT_S, last_seats, waiting_for
from understudy.core.seats import choose
from understudy.core.session import Event, State
from understudy.edge.errands import Errands
from understudy.edge.links import WorkerLink
from understudy.edge.part import Part
from understudy.edge.session import Session
from understudy.seams import Clock, Store

log = logging.getLogger(__name__)

STRANGE_S: Final = 10.0
MOST_ABLE: Final = 20
LOOK_S: Final = 0.5  # how often the store is read where nothing is said to have changed


class Seating:
    """The seats of one edge's sessions."""

    def __init__(
        self,
        store: Store,
        config: Callable[[], Config],
        links: Mapping[str, WorkerLink],
        sessions: Mapping[str, Session],
        cards: Mapping[tuple[str, str], wire.Card],
        name: str,
        region: str,
        clock: Clock,
        errands: Errands,
    ) -> None:
        self._store = store
        self._config = config
        self._links = links
        self._sessions = sessions
        self._cards = cards
        self._name = name
        self._region = region
        self._clock = clock
        self._errands = errands
        self._news = asyncio.Event()
        self._strangers: dict[str, float] = {}  # sessions that nobody here knows, since when
        self._able: set[str] = set()  # who waited at the last look although there was room
        self._lengths_s: deque[float] = deque(maxlen=100)  # of sessions that ended
        self.fleet = Fleet()
        self.changed: Callable[[], None] = lambda: None  # the controller wants to know
        self.edges_changed: Callable[[], None] = lambda: None  # the workers do
        self.reclaim: Callable[[Session], None] = lambda session: None  # it was taken for lost

    # one session

    def seek(self, session: Session) -> None:
        """Looks for a slot of the lead's model; while there is none, for one of the understudy's,
        unless somebody performs already."""
        if session.won is not None:
            (placement, role), session.won = session.won, None
            link = self._links.get(placement.worker)
            if link is not None and link.worker.state is WorkerState.READY:
                session.offer(link, placement.slot, role, "connect")
                return
        session.seats_pending += 1
        self._errands.spawn(self._seek(session))

    async def _seek(self, session: Session) -> None:
        async with session.seating:
            await self._find_seat(session)
        self.nudge()
        self.changed()

    async def _find_seat(self, session: Session) -> None:
        try:
            roles = [Role.LEAD] if session.wants_lead and not session.suspicion.is_apart else []
            if session.performer is None and Role.UNDERSTUDY in session.cast:
                roles.append(Role.UNDERSTUDY)
            for role in roles:
                placement = await self._place(session, role)
                if placement is not None:
                    break
        except StoreAway:  # it waits on, and asks again when the store is back
            await self._clock.sleep(LOOK_S)
            if session.state is not State.ENDED:
                self.seek(session)
        except Exception as error:
            words = ("session %s: no slot could be sought", session.id)
            log.exception(*words, extra={"session": session.id})
            if session.performer is None:
                session.fail(Internal(f"the store failed: {error}"))
        finally:
            session.seats_pending -= 1
            session.seats_changed += 1

    async def _place(self, session: Session, role: Role) -> Placement | None:
        request = self._request(session, role)
        placement = await self._take(session, request) or await self._store.place(request)
        if placement is None:
            return None
        link = self._links.get(placement.worker)
        if link is None or link.worker.state is not WorkerState.READY:
            # Its worker died a moment ago.
            await self._store.release(session.id, placement.worker, placement.slot, self._name)
            return None
        session.offer(link, placement.slot, role, request.why)
        return placement

    def _request(self, session: Session, role: Role) -> Request:
        model = session.cast[role].voice.model
        spec = self._config().models.get(model)
        why = "connect"
        if session.has_performed:
            why = "crash" if session.performer is None else "lead ready"
        revision = spec.revision if spec else ""
        misfits = frozenset(
            of
            for (name, of), card in self._cards.items()
            if name == model and not session.lock.fits(card)
        )
        where = (
            self._region,
            revision,
            misfits,
            role,
            why,
            self._name,
            session.suspicion.suspicious,
        )
        return Request(session.id, model, *where)

    def guess(self, session: Session, row: SessionRow) -> Seat | None:
        """The seat that a session will most likely be given, by what was last read: so that it is
        begun and seated in one go. A wrong guess costs nothing but another try."""
        for role in session.cast:
            chosen = self._choose(self._request(session, role), row)
            if chosen is not None:
                seat = Seat(row.id, chosen.worker, chosen.slot, role, 0, "connect")
                self._assume(seat)
                return seat
        return None

    def _choose(self, request: Request, row: SessionRow) -> Placement | None:
        rtt_s = {
            link.worker.id: link.rtt_s
            for link in self._links.values()
            if link.worker.state is WorkerState.READY
        }
        return choose(self.fleet, row, request, rtt_s)

    async def _take(self, session: Session, request: Request) -> Placement | None:
        """The slot that most likely is free, in one statement; None: it was not, or none is."""
        row = next((row for row in self.fleet.sessions if row.id == session.id), None)
        chosen = self._choose(request, row) if row is not None else None
        if chosen is None:
            return None
        seats = [seat for seat in self.fleet.seats if seat.session == session.id]
        if any(seat.role is request.role for seat in seats):
            return None  # it has one: where, the store says
        turns = [seat.turn for seat in seats]
        turn = max(turns, default=-1) + 1
        seat = Seat(session.id, chosen.worker, chosen.slot, request.role, turn, request.why)
        self._assume(seat)
        return chosen if await self._store.take(seat, self._name) else None

    def _assume(self, seat: Seat) -> None:
        """Until the store is read again, nobody else is guessed to get that seat."""
        fleet = self.fleet
        workers = [
            replace(worker, taken=worker.taken + 1) if worker.id == seat.worker else worker
            for worker in fleet.workers
        ]
        self.fleet = replace(fleet, workers=tuple(workers), seats=(*fleet.seats, seat))

    def release(self, session: Session, part: Part) -> None:
        session.seats_pending += 1
        self._errands.spawn(self._release(session, part))

    async def _release(self, session: Session, part: Part) -> None:
        async with session.seating:
            try:
                seat = (session.id, part.worker, part.slot, self._name)
                await self._errands.insist(lambda: self._store.release(*seat))
            finally:
                session.seats_pending -= 1
                session.seats_changed += 1
        self.nudge()
        self.changed()

    # all of them

    def nudge(self) -> None:
        """Something has changed: look soon."""
        self._news.set()

    async def run(self) -> None:
        """Looks when something changed, and now and then, for as long as the edge serves."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self.look()
            except StoreAway as away:
                log.warning("%s", away.message)
            except Exception:
                log.exception("the store could not be read; trying again")

    async def look(self) -> None:
        before = {session.id: session.seats_changed for session in self._sessions.values()}
        edges = self.fleet.edges
        self.fleet = await self._store.look()
        if [(edge.name, edge.url, edge.via) for edge in edges] != [
            (edge.name, edge.url, edge.via) for edge in self.fleet.edges
        ]:
            self.edges_changed()
        self._find_lost(before)
        self._seek_anew(before)
        # The lead before the understudy: who has the one needs no other.
        for seat in sorted(self.fleet.seats, key=lambda seat: (seat.role, seat.turn)):
            session, link = self._sessions.get(seat.session), self._links.get(seat.worker)
            if session is None or link is None or link.worker.state is not WorkerState.READY:
                continue
            # What was read may be older than what this edge has done since, or is doing.
            if not session.seats_pending and before.get(session.id) == session.seats_changed:
                session.offer(link, seat.slot, seat.role, seat.why)
        self._tell()

    def _find_lost(self, before: Mapping[str, int]) -> None:
        """Ends the sessions that are another edge's by now, or were ended by somebody else."""
        rows = {row.id: row for row in self.fleet.sessions}
        for name in before:
            session, row = self._sessions.get(name), rows.get(name)
            if session is None or session.state is State.ENDED:
                continue
            if session.seats_pending or before[name] != session.seats_changed:
                continue  # what was read may be older than what this edge has done since
            if row is None or row.orphaned_s is not None:
                session.seats_pending += 1
                self.reclaim(session)
            elif row.edge != self._name or row.reason:
                session.on(Event.TAKEN_OVER)
        # ... and those that are written as ours, but that nobody here knows: an answer was lost.
        now = self._clock.now()
        strange = {
            row.id for row in rows.values() if row.edge == self._name
        } - self._sessions.keys()
        self._strangers = {name: self._strangers.get(name, now) for name in strange}
        for name, since_s in self._strangers.items():
            if now - since_s > STRANGE_S:
                end = partial(self._store.end, name, "edge_lost", self._clock.wall(), self._name)
                self._errands.spawn(self._errands.insist(end))

    def _seek_anew(self, before: Mapping[str, int]) -> None:
        """Who waits although there is room, in two looks: the controller may be away, or mean a
        worker that this edge does not reach."""
        able: set[str] = set()
        rows = {row.id: row for row in self.fleet.sessions}
        for name in before:
            session, row = self._sessions.get(name), rows.get(name)
            if (
                session is None
                or row is None
                or session.seats_pending
                or session.suspicion.is_apart
            ):
                continue
            if not session.wants_lead or len(able) >= MOST_ABLE:
                continue
            if self._choose(self._request(session, Role.LEAD), row) is not None:
                able.add(name)
                if name in self._able:
                    self.seek(session)
        self._able = able

    # words for those who wait

    def learn_length(self, length_s: float) -> None:
        self._lengths_s.append(length_s)

    def _tell(self) -> None:
        config, seats = self._config(), last_seats(self.fleet.seats)
        models = {session.voice.model for session in self._sessions.values() if session.wants_lead}
        for model in models:
            queue = waiting_for(self.fleet.sessions, seats, model, self._region)
            self._tell_queue(model, [row for row in queue if row.model == model], config)

    def _tell_queue(self, model: str, queue: list[SessionRow], config: Config) -> None:
        """For a loading worker's slots, or in line for somebody else's."""
        now = self._clock.wall()
        workers = [worker for worker in self.fleet.workers if worker.model == model]
        ready = [worker for worker in workers if worker.state is WorkerState.READY]
        loading = [worker for worker in workers if worker.state is WorkerState.LOADING]
        # The controller is about to hand the free slots out: nothing to say to the first in line.
        free = sum(worker.slots - worker.taken for worker in ready if not worker.draining)
        queue = queue[free:]
        coming = [worker for worker in loading for _ in range(worker.slots)]
        full = self._is_full(model, config)
        ready_slots = sum(worker.slots for worker in ready)
        spec = config.models.get(model)
        guess_s = DEFAULT_BOOT_S if spec is None else spec.load_s or None
        boot_s = self.fleet.boot_s.get(model, guess_s)
        for index, row in enumerate(queue):
            session = self._sessions.get(row.id)
            if session is None or not session.wants_lead or session.seats_pending:
                continue
            event: wire.Queued | wire.Loading
            if index < len(coming) or not full:
                worker = coming[index] if index < len(coming) else None
                passed_s = 0.0 if worker is None else now - worker.started_s
                event = loading_event(session, boot_s, passed_s)
            else:
                position = index - len(coming) + 1
                eta_s = self._queue_eta_s(position, ready_slots)
                event = wire.Queued(session.id, position, eta_s, session.resume)
            session.tell_waiting(event)

    def _is_full(self, model: str, config: Config) -> bool:
        """Whether no more workers of the model will be started for now."""
        spec, rules = config.models.get(model), config.rules
        if spec is None:
            return True
        up = [worker for worker in self.fleet.workers if worker.state is not WorkerState.STOPPING]
        if spec.workers is not None:
            return sum(worker.model == model for worker in up) >= spec.workers
        rented = [worker for worker in up if config.is_rented(worker.model)]
        if rules.max_nodes is not None and len(rented) >= rules.max_nodes:
            return True
        spent = sum(worker.price_per_h for worker in rented) + spec.price_per_h
        return rules.budget_per_h is not None and spent > rules.budget_per_h + 1e-9

    def _queue_eta_s(self, position: int, slots: int) -> float | None:
        """Mean session length over slots for each place ahead: right for memoryless sessions.

        None while fewer than five sessions have ended: no honest guess.
        """
        if len(self._lengths_s) < 5 or not slots:
            return None
        mean_s = sum(self._lengths_s) / len(self._lengths_s)
        return round(position * mean_s / slots, 1)


def loading_event(session: Session, boot_s: float | None, passed_s: float) -> wire.Loading:
    eta_s = None if boot_s is None else round(max(0.0, boot_s - passed_s), 1)
    progress = 0.0 if not boot_s else min(0.99, round(passed_s / boot_s, 2))
    return wire.Loading(session.id, eta_s, progress, session.resume)
