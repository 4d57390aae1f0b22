"""One port for everything: looks at a connection's first bytes and hands its socket on.

`GET /v1/stream` and `GET /v1/link` go to picows, which relays audio at a fraction of an ASGI
server's cost; everything else goes to uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import urlsplit

import uvicorn
from picows import (
    WSAutoPingStrategy,
    WSListener,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # it is not in picows's stubs
from starlette.applications import Starlette

from understudy.core.errors import ConfigError, Overloaded
from understudy.edge.edge import Edge
from understudy.seams import Clock

log = logging.getLogger(__name__)

FIRST_BYTES_S: Final = 10.0
HANDSHAKE_S: Final = 5.0
MAX_FRAME_BYTES: Final = 32 * 1024 * 1024  # larger ones are cut before they are read
PING_S: Final = 10.0
_STREAM: Final = b"GET /v1/stream"
_LINK: Final = b"GET /v1/link"


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HostCheck:
    """Refuses what a web page of another site could make a browser send (CSRF, DNS rebinding)."""

    def __init__(self, host: str) -> None:
        self._only_loopback = is_loopback(host)

    def refusal(self, host: str | None, origin: str | None) -> str | None:
        """Why a request with these headers is refused, or None."""
        name = urlsplit(f"//{host or ''}").hostname
        if self._only_loopback and not is_loopback(name or ""):
            return "this server answers on localhost only; open http://127.0.0.1 and its port"
        if origin and origin != "null" and urlsplit(origin).netloc != host:
            return "pages of other sites may not connect; serve the page from this server"
        return "pages without an origin may not connect" if origin == "null" else None


def listen(host: str, port: int) -> socket.socket:
    """Binds the public port. Raises ConfigError with what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error}); is another server running there? "
            f"Stop it, or choose another port with --port {port + 1 if port < 65535 else 8765}"
        ) from None
    sock.listen(1024)
    sock.setblocking(False)
    return sock


class Gate:
    """Accepts connections on the public port for as long as `run` runs."""

    def __init__(
        self, sock: socket.socket, edge: Edge, app: Starlette, check: HostCheck, clock: Clock
    ) -> None:
        self._clock = clock
        self._sock = sock
        self._edge = edge
        self._check = check
        self._config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", ws="none", http="httptools"
        )
        self._config.load()
        self._server_state = uvicorn.server.ServerState()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        port: int = self._sock.getsockname()[1]
        return port

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        ticker = loop.create_task(self._http_ticks())
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._sock)
                except OSError as error:  # out of file descriptors: serve those we have
                    log.error("cannot accept a connection: %s", error)
                    await self._clock.sleep(0.1)
                    continue
                task = loop.create_task(self._hand_on(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            ticker.cancel()
            self._sock.close()
            for protocol in list(self._server_state.connections):
                protocol.shutdown()

    async def _http_ticks(self) -> None:
        """uvicorn's own server renews the Date header; embedded, that is ours to do."""
        while True:
            date = formatdate(usegmt=True).encode()
            self._server_state.default_headers = [(b"date", date)]
            await self._clock.sleep(1)

    async def _hand_on(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = await asyncio.wait_for(_peek(connection, self._clock), FIRST_BYTES_S)
            if not first:
                connection.close()
                return
            streaming = first.startswith((_STREAM, _LINK))
            await loop.connect_accepted_socket(
                self._websocket if streaming else self._http, connection
            )
        except (OSError, TimeoutError):
            connection.close()

    def _http(self) -> asyncio.Protocol:
        protocol_class: Any = self._config.http_protocol_class
        protocol: asyncio.Protocol = protocol_class(
            config=self._config, server_state=self._server_state, app_state={}
        )
        return protocol

    def _websocket(self) -> asyncio.Protocol:
        # What picows's ws_create_server passes to loop.create_server.
        protocol: asyncio.Protocol = WSProtocol(
            None,
            None,
            False,
            self._route,
            logging.getLogger("picows.server"),
            True,
            HANDSHAKE_S,
            True,
            PING_S,
            PING_S,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            True,
            MAX_FRAME_BYTES,
            None,
            16 * 1024,
        )
        return protocol

    def _route(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        headers = request.headers
        if reason := self._check.refusal(headers.get("Host"), headers.get("Origin")):
            return _refusal(403, reason)
        if headers.get("Upgrade", "").lower() != "websocket":
            return _refusal(426, "this address speaks WebSocket; see docs/protocol.md")
        path = request.path.split(b"?")[0]
        if path == b"/v1/link":
            return self._edge.new_link()
        if path != b"/v1/stream":
            return _refusal(404, "there is no such address")
        try:
            self._edge.check_room()
        except Overloaded as error:
            return _refusal(503, error.message)
        return self._edge.new_client()


def _refusal(status: int, reason: str) -> WSUpgradeResponseWithListener:
    response = WSUpgradeResponse.create_error_response(status, reason.encode() + b"\n")
    return WSUpgradeResponseWithListener(response, None)


async def _peek(connection: socket.socket, clock: Clock) -> bytes:
    """A connection's first bytes, left in the socket; empty if it closed without any."""
    loop = asyncio.get_running_loop()
    seen = -1
    while True:
        await _readable(loop, connection)
        with contextlib.suppress(BlockingIOError):
            first = connection.recv(len(_STREAM), socket.MSG_PEEK)
            enough = len(first) >= len(_STREAM) or b"\n" in first
            # A short first packet: is it a beginning of ours? Otherwise let uvicorn judge it.
            if enough or not first or not _STREAM.startswith(first) or not _LINK.startswith(first):
                return first
            if len(first) == seen:  # readable, but nothing new: do not spin
                await clock.sleep(0.01)
            seen = len(first)


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), set_ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())
