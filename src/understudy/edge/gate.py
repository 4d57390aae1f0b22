"""One port for everything: looks at a connection's first bytes and hands its socket on.

`GET /v1/stream` and `GET /v1/link` go to picows, which relays audio at a fraction of an ASGI
server's cost; everything else goes to uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import resource
import socket
from email.utils import formatdate
from functools import partial
from typing import Any, Final

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

from understudy.core.errors import ConfigError, LinkError, Overloaded, TooMany
from understudy.edge.door import MOST_INSIDE, Door, Visit
from understudy.edge.edge import Edge
from understudy.edge.http1 import Http, plain
from understudy.edge.joining import Machines
from understudy.edge.websocket import Peer
from understudy.seams import Clock

log = logging.getLogger(__name__)

FIRST_BYTES_S: Final = 5.0
HANDSHAKE_S: Final = 5.0
HELLO_S: Final = 5.0  # for who dials in as a worker to say who it is
MAX_STRANGER_BYTES: Final = 64 * 1024  # ... and as much as that may take
# Larger ones are cut before they are read.
MAX_FRAME_BYTES: Final = 128 * 1024
MAX_LINK_FRAME_BYTES: Final = 16 * 1024 * 1024
PING_S: Final = 10.0
OWN_DESCRIPTORS: Final = 256  # for the store, workers' pipes, files, and one to say no with
_STREAM: Final = b"GET /v1/stream"
_LINK: Final = b"GET /v1/link"


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


class _Stream(WSProtocol):  # type: ignore[misc]  # it is not in picows's stubs
    """picows's protocol of one connection, which tells when that is over."""

    visit: Visit

    def connection_lost(self, exc: Exception | None) -> None:
        self.visit.leave()
        super().connection_lost(exc)


class _Link(_Stream):
    """A worker's, perhaps: until it has said who it is, little is kept of what it sends."""

    _bytes = 0

    def buffer_updated(self, nbytes: int) -> None:
        peer = self.listener
        if isinstance(peer, Peer) and not peer.introduced:
            self._bytes += nbytes
            if self._bytes > MAX_STRANGER_BYTES:
                self.visit.erred(LinkError("it sends much and says no hello"))
                self.transport.underlying_transport.abort()
                return
        super().buffer_updated(nbytes)


class Gate:
    """Accepts connections on the public port for as long as `run` runs."""

    def __init__(
        self,
        sock: socket.socket,
        edge: Edge,
        app: Starlette,
        door: Door,
        clock: Clock,
        machines: Machines | None = None,
    ) -> None:
        """`machines`: those that may join here."""
        self._machines = machines
        self._clock = clock
        self._sock = sock
        self._edge = edge
        self._door = door
        door.most = min(door.most, _descriptors() - OWN_DESCRIPTORS)
        self._config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,  # whom to believe is the door's to say
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
        failing = False
        try:
            while True:
                try:
                    connection, peer = await loop.sock_accept(self._sock)
                    failing = False
                except OSError as error:  # out of file descriptors: serve those we have
                    if not failing:
                        log.error("cannot accept connections: %s", error)
                    failing = True
                    await self._clock.sleep(0.1)
                    continue
                try:
                    visit = self._door.enter(peer[0])
                except TooMany as error:
                    _turn_away(connection, error)
                    continue
                task = loop.create_task(self._hand_on(connection, visit))
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

    async def _hand_on(self, connection: socket.socket, visit: Visit) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = await asyncio.wait_for(_peek(connection, self._clock), FIRST_BYTES_S)
            if not first:
                connection.close()
                visit.leave()
                return
            protocol = self._http
            if first.startswith(_STREAM):
                protocol = self._stream
            elif first.startswith(_LINK):
                protocol = self._link
            await loop.connect_accepted_socket(partial(protocol, visit), connection)
        except (OSError, TimeoutError):
            connection.close()
            visit.leave()

    def _http(self, visit: Visit) -> asyncio.BaseProtocol:
        return Http(visit, config=self._config, server_state=self._server_state, app_state={})

    def _stream(self, visit: Visit) -> asyncio.BaseProtocol:
        return self._websocket(_Stream, visit, MAX_FRAME_BYTES)

    def _link(self, visit: Visit) -> asyncio.BaseProtocol:
        return self._websocket(_Link, visit, MAX_LINK_FRAME_BYTES)

    def _websocket(self, kind: type[_Stream], visit: Visit, most: int) -> asyncio.BaseProtocol:
        # What picows's ws_create_server passes to loop.create_server.
        protocol: Any = kind(
            None,
            None,
            False,
            partial(self._route, visit),
            logging.getLogger("picows.server"),
            True,
            HANDSHAKE_S,
            True,
            PING_S,
            PING_S,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            True,
            most,
            None,
            16 * 1024,
        )
        protocol.visit = visit
        return protocol  # type: ignore[no-any-return]

    def _route(
        self, visit: Visit, request: WSUpgradeRequest
    ) -> WSListener | WSUpgradeResponseWithListener:
        headers = request.headers
        path = request.path.split(b"?")[0]
        origin = headers.get("Origin")
        try:
            self._door.connect(visit, headers.getall("X-Forwarded-For", ()))
            # A worker knows us by any name, but is no page.
            if (not path.startswith(b"/v1/link") or origin) and (
                reason := self._door.hosts.refusal(headers.get("Host"), origin)
            ):
                return _refusal(403, reason)
            if headers.get("Upgrade", "").lower() != "websocket":
                return _refusal(426, "this address speaks WebSocket; see docs/protocol.md")
            if path == b"/v1/link":
                return self._introduce(self._edge.roster.new_link(), visit)
            if path == b"/v1/link/machine" and self._machines is not None:
                return self._introduce(self._machines.new_link(), visit)
            if path != b"/v1/stream":
                return _refusal(404, "there is no such address")
            self._edge.check_room()
        except TooMany as error:
            return _refusal(429, error.message, {"Retry-After": _seconds(error)})
        except Overloaded as error:
            return _refusal(503, error.message)
        client = self._edge.new_client()
        client.visit = visit
        return client

    def _introduce(self, link: Peer, visit: Visit) -> WSListener:
        """What is left is for it to say who it is."""
        link.visit = visit
        asyncio.get_running_loop().call_later(HELLO_S, _expect_hello, link)
        return link


def _descriptors() -> int:
    """How many files and sockets this process may have open, once it has asked for all it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_INSIDE + OWN_DESCRIPTORS
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(soft, 2 * OWN_DESCRIPTORS)


def _expect_hello(link: Peer) -> None:
    if not link.introduced:
        link.refuse(LinkError(f"it said no hello within {HELLO_S:.0f} s"))


def _seconds(error: TooMany) -> str:
    return str(math.ceil(error.wait_s))


def _turn_away(connection: socket.socket, error: TooMany) -> None:
    """Answers whatever was asked, be it HTTP or an upgrade, without waiting for it."""
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.send(plain(429, error.message, f"retry-after: {_seconds(error)}"))
        connection.recv(16 * 1024)  # closed over unread bytes, it would take the answer along


def _refusal(
    status: int, reason: str, headers: dict[str, str] | None = None
) -> WSUpgradeResponseWithListener:
    body = reason.encode() + b"\n"
    response = WSUpgradeResponse.create_error_response(status, body, headers)
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
            ours = _STREAM.startswith(first) or _LINK.startswith(first)
            if enough or not first or not ours:
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
