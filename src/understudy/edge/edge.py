"""The edge: admits users, seats them, and knows its workers and sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from understudy.config import Config, merge_params
from understudy.core import wire
from understudy.core.audio import Resampling, SampleLock
from understudy.core.errors import AlreadyLive, ModelFailed, Overloaded
from understudy.core.fleet import WorkerState
from understudy.core.ledger import Interval
from understudy.core.session import Event, State
from understudy.edge.admission import Admission
from understudy.edge.client import ClientConnection
from understudy.edge.links import WorkerLink
from understudy.edge.session import Session
from understudy.seams import Clock, SessionRow, Store

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
TELL_TICKS: Final = 10
ENDING_S: Final = 2.0  # how long a session's end may take to be written
LEDGER_S: Final = 0.5  # what a crash of this process may lose
MAX_CONNECTIONS: Final = 2000
DEFAULT_RATE_HZ: Final = 24_000  # recommended for a model that takes any rate

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
        name: str = "edge",
        region: str = "local",
    ) -> None:
        """`config()` is the configuration as of now; `admits_worker(node, secret)`."""
        self.store = store
        self.config = config
        self.name = name
        self.region = region
        self.links: dict[str, WorkerLink] = {}
        self.sessions: dict[str, Session] = {}
        self.cards: dict[str, wire.Card] = {}
        self.admits = admits_worker
        self.check_token = check_token
        self._resampling = resampling
        self._clock = clock
        self._clients: set[ClientConnection] = set()
        self._by_resume: dict[str, Session] = {}
        self._failures: dict[str, str] = {}  # model -> why it last failed to load
        self._carded: dict[str, asyncio.Event] = {}
        self._closing = False
        self._unwritten: dict[tuple[str, int], Interval] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.admission = Admission(store, self.links, region, clock)

    async def open(self) -> None:
        self.cards.update(await self.store.cards())
        ended = await self.store.recover(self.name, self._clock.wall())
        if ended:
            log.warning("%d sessions of an earlier run had not ended; they have now", ended)

    async def run(self) -> None:
        """The tick, for as long as the edge serves."""
        ticks = 0
        while True:
            await self._clock.sleep(TICK_S)
            now = self._clock.now()
            for session in list(self.sessions.values()):
                session.tick(now)
            for client in list(self._clients):
                client.tick(now)
            for link in list(self.links.values()):
                link.check(now)
            ticks += 1
            if ticks % TELL_TICKS == 0:
                self.admission.drop_ended()
                self.admission.tell_all()

    async def close(self) -> None:
        self._closing = True
        for session in list(self.sessions.values()):
            session.on(Event.SHUTDOWN)
        for client in list(self._clients):
            client.close(1001, "shutdown")
        await self.settle()

    async def settle(self) -> None:
        """Waits until all that was said to the store is written."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

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

    def new_link(self) -> WorkerLink:
        return WorkerLink(self, self._clock, _new_id())

    # sessions (client.Admitting, session.Placing)

    async def admit(self, client: ClientConnection, start: wire.Start) -> Session:
        """From `start` to a session that waits for its slot. Raises what the user is to be told."""
        self.check_token(start.token, start.user)
        voice = self.config().voice(start.voice)
        card = await self._card(client, voice.model)
        params = merge_params(voice, start.params, card.controls)

        def new_lock() -> SampleLock:
            return SampleLock(start.sample_rate, card, self._resampling)

        detached = self._by_resume.get(start.resume or "")
        if detached is not None and (detached.user, detached.voice) == (start.user, voice):
            if detached.client is not None:  # its old connection is dead but not yet gone
                detached.client.close(1001, "resumed elsewhere")
                detached.client_lost()
            if detached.state is State.DETACHED:
                detached.rejoin(client, params, new_lock)
                return detached

        session = Session(
            client.id,
            secrets.token_urlsafe(16),
            start,
            voice,
            params,
            new_lock,
            self,
            self._clock,
            client,
        )
        await self._begin(session, takeover=start.takeover)
        self.sessions[session.id] = session
        self._by_resume[session.resume] = session
        session.on(Event.START)
        return session

    async def _begin(self, session: Session, *, takeover: bool) -> None:
        row = SessionRow(
            id=session.id,
            user=session.user,
            voice=session.voice.name,
            model=session.voice.model,
            region=self.region,
            edge=self.name,
            started_s=self._clock.wall(),
        )
        until = self._clock.now() + ENDING_S
        while True:
            try:
                await self.store.begin(row)
                return
            except AlreadyLive as error:
                other = self.sessions.get(error.session)
                if other is None:  # beginning or ending at this moment
                    if self._clock.now() > until:
                        raise
                    await self._clock.sleep(0.01)
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

    async def _card(self, client: ClientConnection, model: str) -> wire.Card:
        """The card of a model; the first time ever, that waits until a worker has loaded it."""
        while (card := self.cards.get(model)) is None:
            self._raise_failure(model)
            client.send_event(wire.Loading(client.id, None, 0.0, ""))
            await self._carded.setdefault(model, asyncio.Event()).wait()
        return card

    def _raise_failure(self, model: str) -> None:
        trying = any(link.worker.model == model for link in self.links.values())
        if model in self._failures and not trying:
            raise ModelFailed(self._failures[model])

    def merge_params(self, session: Session, wish: wire.Params) -> dict[str, float]:
        merge_params(session.voice, wish, self.cards[session.voice.model].controls)
        return {**session.params, **wish}

    def seek(self, session: Session) -> None:
        try:
            self._raise_failure(session.voice.model)
        except ModelFailed as error:
            session.fail(error)
            return
        self._spawn(self._seek(session))

    async def _seek(self, session: Session) -> None:
        await self.store.release(session.id)  # the slot it may have lost
        self.admission.seek(session)

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
            except Exception:
                log.exception("the ledger is %d intervals behind the store", len(self._unwritten))

    def ended(self, session: Session) -> None:
        self.meter(session)
        self.sessions.pop(session.id, None)
        self._by_resume.pop(session.resume, None)
        log.info(
            "session %s of %s (%s) ended: %s, %.1f s heard",
            session.id,
            session.user,
            session.voice.name,
            session.reason,
            session.heard_s,
        )
        if session.heard_s > 1:
            self.admission.learn_length(session.heard_s)
        self._spawn(self._end(session))

    async def _end(self, session: Session) -> None:
        try:
            await self.store.end(session.id, session.reason, self._clock.wall())
        finally:
            session.over.set_result(None)
        self.admission.pump(session.voice.model)

    # workers (links.Workers)

    def worker_hello(self, link: WorkerLink) -> None:
        self.links[link.worker.id] = link
        self._spawn(self.store.save_worker(link.worker))
        self.admission.tell(link.worker.model)

    def worker_changed(self, link: WorkerLink) -> None:
        worker = link.worker
        if not worker.node:
            return  # it never was one of ours
        if worker.state is WorkerState.GONE:
            self.links.pop(worker.id, None)
            level = logging.INFO if self._closing else logging.WARNING
            log.log(level, "worker %s (%s) is gone: %s", worker.node, worker.model, worker.reason)
        if worker.state is WorkerState.READY and link.card is not None:
            self.cards[worker.model] = link.card
            self._failures.pop(worker.model, None)
            if worker.boot_s is not None:
                self.admission.learn_boot(worker.model, worker.boot_s)
            log.info("worker %s (%s) is ready: %d slots", worker.node, worker.model, worker.slots)
        self._spawn(self._save(link))

    async def _save(self, link: WorkerLink) -> None:
        model = link.worker.model
        if link.card is not None:
            await self.store.save_card(model, link.card)
        await self.store.save_worker(link.worker)
        if model in self.cards and (event := self._carded.pop(model, None)):
            event.set()
        self.admission.pump(model)

    def load_failed(self, link: WorkerLink, message: str) -> None:
        model = link.worker.model
        log.error("worker %s (%s): %s", link.node, model, message)
        self._failures[model] = message
        if event := self._carded.pop(model, None):
            event.set()
        if not self.ready(model):
            for session in self.admission.waiting(model):
                session.fail(ModelFailed(message))

    # what the API shows

    def failed(self, model: str) -> bool:
        """Whether the model's last load failed, and no worker has it."""
        return model in self._failures and not self.ready(model)

    def ready(self, model: str) -> bool:
        return any(
            link.worker.model == model and link.worker.state is WorkerState.READY
            for link in self.links.values()
        )

    def voices(self) -> list[dict[str, Any]]:
        return [
            describe(voice.name, self.config(), self.cards.get(voice.model))
            | {"ready": self.ready(voice.model)}
            for voice in self.config().voices.values()
        ]

    def status(self, *, names: bool) -> dict[str, Any]:
        """The state of things; `names`: with its sessions and users one by one."""
        state = self._status()
        return state if names else state | {"sessions": len(self.sessions)}

    def _status(self) -> dict[str, Any]:
        return {
            "edge": self.name,
            "region": self.region,
            "workers": [
                {
                    "id": link.worker.id,
                    "node": link.worker.node,
                    "model": link.worker.model,
                    "state": link.worker.state,
                    "slots": link.worker.slots,
                    "taken": sum(s.worker == link.worker.id for s in self.sessions.values()),
                    "boot_s": link.worker.boot_s,
                }
                for link in self.links.values()
            ],
            "sessions": [
                {
                    "session": session.id,
                    "user": session.user,
                    "voice": session.voice.name,
                    "state": session.state,
                    "worker": session.worker,
                    "heard_s": round(session.heard_s, 3),
                    "silent_s": round(session.lock.silent_s, 3),
                }
                for session in self.sessions.values()
            ],
            "waiting": sum(s.state is State.WAITING for s in self.sessions.values()),
        }

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                log.error("the store failed", exc_info=error)


def describe(name: str, config: Config, card: wire.Card | None) -> dict[str, Any]:
    """A voice as `GET /v1/voices` and `understudy voices` show it."""
    voice = config.voice(name)
    latency_ms = None
    sample_rate = None
    if card is not None:
        sample_rate = card.sample_rate or DEFAULT_RATE_HZ
        latency_ms = round((card.latency + card.frame - 1) / sample_rate * 1e3, 3)
    return {
        "name": voice.name,
        "title": voice.title,
        "model": voice.model,
        "sample_rate": sample_rate,
        "latency_ms": latency_ms,
        "params": dict(voice.params),
        "controls": {} if card is None else _controls(card.controls),
        "understudy": voice.understudy,
    }


def _controls(controls: Mapping[str, wire.Control]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "min": control.min,
            "max": control.max,
            "default": control.default,
            "unit": control.unit,
        }
        for name, control in controls.items()
    }


def _new_id() -> str:
    return secrets.token_hex(12)
