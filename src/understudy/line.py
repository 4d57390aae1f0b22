"""A WebSocket to an edge, from the client's side: opened, and read as fast as the user reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from picows.common import WSHandshakeError

from understudy.core import wire
from understudy.core.errors import UnderstudyError

DEFAULT_URL: Final = "http://127.0.0.1:8765"
MAX_QUEUED: Final = 4096


class Unreachable(UnderstudyError):
    """No server answers at that address."""

    code = "unreachable"
    retryable = True


Item = bytes | wire.ServerEvent


class Refused(UnderstudyError):
    """The server's `error`, as an exception: `code`, `retryable` and the sentence."""

    def __init__(self, error: wire.Error) -> None:
        super().__init__(error.message)
        self.code = error.code
        self.retryable = error.retryable


class Listener(WSListener):
    def __init__(self) -> None:
        self.items: asyncio.Queue[Item | None] = asyncio.Queue(MAX_QUEUED)
        self.writable = asyncio.Event()
        self.writable.set()
        self.abandoned = False  # nobody waits for it any more
        self.on_item: Callable[[Item], bool] = lambda item: True  # False: it is not for the user
        self._transport: WSTransport | None = None
        self._waiting: list[Item | None] = []

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self.abandoned:
            transport.disconnect(False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            self._take(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            self._take(wire.decode_event(frame.get_payload_as_utf8_text()))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.writable.set()
        self._put(None)

    @property
    def connected(self) -> bool:
        """Whether it ever was."""
        return self._transport is not None

    @property
    def is_full(self) -> bool:
        """Whether the reader is so slow that nothing more is read from the socket."""
        return bool(self._waiting)

    def _take(self, item: Item) -> None:
        if self.on_item(item):
            self._put(item)

    def _put(self, item: Item | None) -> None:
        """Queues an item; a reader who is too slow makes the socket wait, and loses nothing."""
        if self._waiting or self.items.full():
            if not self._waiting and self._transport is not None:
                self._transport.underlying_transport.pause_reading()
            self._waiting.append(item)
        else:
            self.items.put_nowait(item)

    def taken(self) -> None:
        while self._waiting and not self.items.full():
            self.items.put_nowait(self._waiting.pop(0))
            if not self._waiting and self._transport and not self._transport.is_disconnected:
                self._transport.underlying_transport.resume_reading()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


async def connect(url: str, listener: Listener) -> WSTransport:
    """Raises Unreachable, or Refused where a server says why it takes no line."""
    check_url(url)
    try:
        transport, _ = await ws_connect(
            lambda: listener, "ws" + url.removeprefix("http") + "/v1/stream", use_aiofastnet=False
        )
    except WSHandshakeError as error:
        if error.response is None or not error.raw_body:
            raise unreachable(url, error) from None
        status, said = error.response.status, error.raw_body.decode(errors="replace").strip()
        later = status in (429, 503)
        code = "overloaded" if later else "forbidden"
        raise Refused(wire.Error("", code, f"{said} (HTTP {status.value})", later)) from None
    except (OSError, TimeoutError) as error:
        raise unreachable(url, error) from None
    if not listener.connected:  # closed before it had answered: picows says nothing of that
        raise unreachable(url, ConnectionResetError("it closes the connection"))
    return transport


def check_url(url: str) -> None:
    """Raises Unreachable."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unreachable(f"{url} is no address; it looks like {DEFAULT_URL}")


def unreachable(url: str, error: Exception) -> Unreachable:
    reason = str(error) or "it does not answer in time"
    return Unreachable(f"no Understudy answers at {url} ({reason}); start one: understudy up")
