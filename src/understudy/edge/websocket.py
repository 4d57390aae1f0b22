"""What every WebSocket of the edge does: whole messages from fragments, clean closes."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from understudy.core.errors import BadJson, BadMessage, Internal, MessageTooBig, UnderstudyError
from understudy.edge.door import Visit

log = logging.getLogger(__name__)

CLOSE_WAIT_S: Final = 2.0  # for the peer's half of the closing handshake
FRAGMENT_BYTES: Final = 64  # what keeping one costs besides its payload, which may be empty
# Bound once, for every frame passes here: a member looked up on its enum costs a call.
_BINARY: Final = WSMsgType.BINARY
_TEXT: Final = WSMsgType.TEXT


class Peer(WSListener):
    """A WebSocket peer. Subclasses override `on_text`, `on_audio`, `on_lost` and `refuse`."""

    max_message_bytes: int = 64 * 1024

    def __init__(self) -> None:
        self.transport: WSTransport | None = None
        self.visit: Visit | None = None  # where it comes from; the gate says so
        self._parts: list[bytes] = []  # of a fragmented message (RFC 6455, section 5.4)
        self._parts_bytes = 0
        self._parts_type: WSMsgType | None = None
        self._closing = False

    @property
    def introduced(self) -> bool:
        """Whether it has shown who it is, where that is asked first of all."""
        return True

    def on_text(self, text: str) -> None:
        raise NotImplementedError

    def on_audio(self, data: bytes) -> None:
        raise NotImplementedError

    def on_lost(self) -> None:
        raise NotImplementedError

    def refuse(self, error: UnderstudyError) -> None:
        """The peer broke the rules: say so and close."""
        raise NotImplementedError

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transport = None
        self.on_lost()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self._closing:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()
            return
        try:
            kind = frame.msg_type
            if kind == _BINARY and frame.fin:
                self.on_audio(frame.get_payload_as_bytes())
            elif kind == _TEXT and frame.fin:
                self.on_text(_text(frame.get_payload_as_bytes()))
            elif kind == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            elif kind in (_BINARY, _TEXT, WSMsgType.CONTINUATION):
                self._fragment(frame)
        except UnderstudyError as error:
            if self.visit is not None and not self.introduced:
                self.visit.erred(error)
            self.refuse(error)
        except Exception:
            log.exception("a message could not be handled")
            self.refuse(Internal("a bug on the server's side; see its log"))

    def _fragment(self, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.CONTINUATION:
            if self._parts_type is not None:
                raise BadMessage("a message began before the fragmented one had ended")
            self._parts_type = frame.msg_type
        elif self._parts_type is None:
            raise BadMessage("a continuation came with nothing to continue")
        part = frame.get_payload_as_bytes()
        self._parts.append(part)
        self._parts_bytes += len(part) + FRAGMENT_BYTES
        if self._parts_bytes > self.max_message_bytes:
            raise MessageTooBig(f"a message may have at most {self.max_message_bytes} bytes")
        if frame.fin:
            data, kind = b"".join(self._parts), self._parts_type
            self._parts, self._parts_bytes, self._parts_type = [], 0, None
            if kind == _BINARY:
                self.on_audio(data)
            else:
                self.on_text(_text(data))

    def send_text(self, text: str) -> None:
        if self.transport is not None and not self._closing:
            self.transport.send(_TEXT, text.encode())

    def send_audio(self, pcm: bytes) -> None:
        if self.transport is not None and not self._closing:
            self.transport.send(_BINARY, pcm)

    def close(self, code: int, reason: str = "") -> None:
        """Sends a close frame, waits a little for the peer's, then closes the socket."""
        transport = self.transport
        if transport is None or self._closing:
            return
        self._closing = True
        transport.send_close(WSCloseCode(code), reason.encode()[:120])
        transport.underlying_transport.resume_reading()  # its close frame is to be read
        asyncio.get_running_loop().call_later(CLOSE_WAIT_S, transport.disconnect, False)

    @property
    def unsent_bytes(self) -> int:
        if self.transport is None:
            return 0
        return self.transport.underlying_transport.get_write_buffer_size()


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise BadJson("text messages are UTF-8") from None
