"""HTTP/1.1 within limits: uvicorn's protocol takes heads of any size, at any pace."""

from __future__ import annotations

import asyncio
import http
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from understudy.edge.door import Visit

HEAD_S: Final = 5.0  # for a request's line and headers
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 64 * 1024  # no request of ours has one


class Http(HttpToolsProtocol):
    """One connection of a browser, a script or a proxy."""

    def __init__(self, visit: Visit, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._visit = visit
        self._unread_bytes = 0  # that came since the parser last got anywhere
        self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._cut = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_read()
        self._visit.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._cut:
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._timer is None:
            self._expect_head()
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes")

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._late)

    def _head_is_read(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(408, f"the request did not come within {HEAD_S:.0f} s")

    def on_headers_complete(self) -> None:
        self._head_is_read()
        self._body_bytes = self._unread_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        lengths = [value for name, value in self.headers if name == b"content-length"]
        if size > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes")
        elif any(not n.isdigit() or int(n[:20]) > MAX_BODY_BYTES for n in lengths):
            self._refuse(413, f"a request's body has at most {MAX_BODY_BYTES} bytes")
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(413, f"a request's body has at most {MAX_BODY_BYTES} bytes")
        if not self._cut:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        if not self._cut:
            super().on_message_complete()

    def _refuse(self, status: int, reason: str) -> None:
        """Says so, if nothing else is being said, and hangs up."""
        if self._cut:
            return
        self._cut = True
        self._head_is_read()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.write(plain(status, reason))
            self.transport.close()


def plain(status: int, reason: str, *headers: str) -> bytes:
    """A whole answer, after which the connection closes."""
    lines = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        "content-type: text/plain; charset=utf-8",
        f"content-length: {len(reason.encode()) + 1}",
        "connection: close",
        *headers,
    )
    return ("\r\n".join(lines) + f"\r\n\r\n{reason}\n").encode()
