"""A user's connection: from `start` to the close, and the pace of its audio."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from understudy.core import wire
from understudy.core.errors import (
    AudioBeforeStart,
    BadMessage,
    BadParams,
    Internal,
    MessageTooBig,
    StartTimeout,
    UnderstudyError,
)
from understudy.core.session import DEADLINES, Event, State
from understudy.edge.session import Session
from understudy.edge.websocket import Peer
from understudy.seams import Clock

log = logging.getLogger(__name__)

AHEAD_S: Final = 1.0  # how far a client may run ahead of the pace of speech
PACE: Final = 1.02  # refill a little faster than real time: clocks differ
MAX_UNSENT_BYTES: Final = 1024 * 1024
TEXTS_PER_S: Final = 100.0  # a slider makes fewer; so many at once, too
MAX_EARLY_TEXTS: Final = 100


class Admitting(Protocol):
    """What a connection needs of the edge."""

    async def admit(self, client: ClientConnection, start: wire.Start) -> Session: ...

    def check_params(self, session: Session, wish: wire.Params) -> None: ...

    def forget(self, client: ClientConnection) -> None: ...


class ClientConnection(Peer):
    """One WebSocket of `GET /v1/stream`."""

    max_message_bytes = wire.MAX_TEXT_BYTES

    def __init__(self, edge: Admitting, clock: Clock, session_id: str) -> None:
        super().__init__()
        self._edge = edge
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.id = session_id
        self._session: Session | None = None
        self._admission: asyncio.Task[None] | None = None
        self._early: list[bytes | wire.ClientMessage] = []  # came while `start` was worked on
        self._early_texts = 0
        self._max_audio_bytes = 0
        self._bytes_per_s = 0
        self._since_s = clock.now()
        self._taken_s = 0.0  # seconds of audio taken since `_since_s`
        self._texts_s = self._since_s  # when the texts so far would have come at their pace
        self._paused = False

    # picows's side

    def on_text(self, text: str) -> None:
        self._pace_text()
        message = wire.decode_client(text)
        if isinstance(message, wire.Ping):
            self.send_event(wire.Pong(self.id, message.id))
        elif isinstance(message, wire.Start):
            if self._admission is not None:
                raise BadMessage("this stream has started; open another connection")
            self._bytes_per_s = message.sample_rate * wire.BYTES_PER_SAMPLE
            # One odd byte more: a message may end in half a sample.
            self._max_audio_bytes = round(self._bytes_per_s * wire.MAX_AUDIO_S) + 1
            self._admission = self._loop.create_task(self._admit(message))
        elif self._admission is None:
            raise BadMessage("the first message of a stream is start")
        elif self._session is None:
            self._early_texts += 1
            if self._early_texts > MAX_EARLY_TEXTS:
                raise BadMessage("wait for live before more messages are sent")
            self._early.append(message)
        else:
            self._command(self._session, message)

    def on_audio(self, data: bytes) -> None:
        if self._admission is None:
            raise AudioBeforeStart('send {"type": "start", …} before audio')
        if len(data) > self._max_audio_bytes:
            raise MessageTooBig(
                f"an audio message may last at most {wire.MAX_AUDIO_S * 1e3:.0f} ms, "
                f"here {self._max_audio_bytes - 1} bytes; this one has {len(data)}"
            )
        self._pace(len(data))
        if self._session is None:
            self._early.append(data)
        else:
            self._session.feed(data)

    def on_lost(self) -> None:
        self._edge.forget(self)
        if self._session is not None:
            self._session.client_lost(self)

    def refuse(self, error: UnderstudyError) -> None:
        if self._session is not None:
            self._session.fail(error)
            return
        self.send_event(wire.Error.of(self.id, error))
        self.send_event(wire.Ended(self.id, "error", 0.0, 0.0))
        self.close(error.close_code, error.code)

    # the session's side (session.Client)

    def send_event(self, event: wire.ServerEvent) -> None:
        self.send_text(wire.encode_event(event))

    def tick(self, now: float) -> None:
        if self._admission is None and now - self._since_s > DEADLINES[State.NEW]:
            self.refuse(StartTimeout(f"no start came within {DEADLINES[State.NEW]:.0f} s"))
        elif self.unsent_bytes > MAX_UNSENT_BYTES and self.transport is not None:
            log.warning("session %s: the client does not read; its connection is cut", self.id)
            self.transport.disconnect(False)

    def _pace(self, nbytes: int) -> None:
        """Holds a client that runs ahead by leaving its next messages in its socket."""
        now = self._clock.now()
        self._taken_s += nbytes / self._bytes_per_s
        passed_s = (now - self._since_s) * PACE
        if self._taken_s < passed_s:  # what was not sent in time is no credit for later
            self._since_s, self._taken_s = now, 0.0
        self._hold(self._taken_s - passed_s - AHEAD_S)

    def _pace_text(self) -> None:
        """Holds a client that says more than anybody has to say."""
        now = self._clock.now()
        self._texts_s = max(self._texts_s, now) + 1 / TEXTS_PER_S
        self._hold(self._texts_s - now - AHEAD_S)

    def _hold(self, ahead_s: float) -> None:
        if ahead_s > 0 and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.underlying_transport.pause_reading()
            self._loop.call_later(ahead_s + 0.01, self._go_on)

    def _go_on(self) -> None:
        self._paused = False
        if self.transport is not None:
            self.transport.underlying_transport.resume_reading()

    async def _admit(self, start: wire.Start) -> None:
        try:
            session = await self._edge.admit(self, start)
        except UnderstudyError as error:
            if self.visit is not None:
                self.visit.erred(error)
            self.refuse(error)
            return
        except Exception:
            log.exception("session %s could not start", self.id)
            self.refuse(Internal("the session could not start; the server's log says why"))
            return
        self.id = session.id
        self._session = session
        early, self._early = self._early, []
        if self.transport is None:  # it left meanwhile
            session.client_lost(self)
            return
        for item in early:
            if isinstance(item, bytes):
                session.feed(item)
            else:
                self._command(session, item)

    def _command(self, session: Session, message: wire.ClientMessage) -> None:
        if isinstance(message, wire.SetParams):
            try:
                self._edge.check_params(session, message.params)
            except BadParams as error:
                self.send_event(wire.Error.of(self.id, error))
            else:
                session.set_params(message.params)
        elif isinstance(message, wire.Stop):
            session.on(Event.STOP)
