"""A TCP relay that holds every byte back: distance, for tests and for `up --regions`."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final

LIMIT_BYTES: Final = 4 * 1024 * 1024  # on the way, a direction


class Relay:
    """Listens on a port of its own on this machine, and passes on to another."""

    def __init__(self, host: str, port: int, delay_s: float) -> None:
        """`delay_s`: one way."""
        self._host = host
        self._port = port
        self.delay_s = delay_s
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()

    async def open(self) -> int:
        """Returns the port that it listens on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Near(self), "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Ends every connection at once."""
        for transport in list(self._open):
            transport.abort()

    async def connect(self, near: _Near) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Far(near), self._host, self._port)
        except OSError:
            near.abort()


class _End(asyncio.Protocol):
    """One of the two connections of a pair. What arrives here leaves at `other`, later."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.relay._open.add(transport)

    def data_received(self, data: bytes) -> None:
        self._waiting.append((self._loop.time() + self.relay.delay_s, data))
        self._bytes += len(data)
        if self._bytes > LIMIT_BYTES and self.transport is not None:
            self.transport.pause_reading()
        self._wait()

    def _wait(self) -> None:
        if self._timer is None and self._waiting and self.other is not None:
            self._timer = self._loop.call_at(self._waiting[0][0], self._pass_on)

    def _pass_on(self) -> None:
        self._timer = None
        now = self._loop.time() + 1e-4
        out = self.other.transport if self.other is not None else None
        while self._waiting and self._waiting[0][0] <= now:
            _, data = self._waiting.popleft()
            self._bytes -= len(data)
            if out is not None and not out.is_closing():
                out.write(data)
        if self.transport is not None and self._bytes <= LIMIT_BYTES:
            with contextlib.suppress(RuntimeError):
                self.transport.resume_reading()
        self._wait()

    def joined(self, other: _End) -> None:
        self.other = other
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self.relay._open.discard(self.transport)
        self._loop.call_later(self.relay.delay_s + 0.001, self._end_other)

    def _end_other(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Near(_End):
    """Towards who has dialled the relay."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._dial = self._loop.create_task(self.relay.connect(self))


class _Far(_End):
    """Towards where it passes on to."""

    def __init__(self, near: _Near) -> None:
        super().__init__(near.relay)
        self._near = near

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.joined(self._near)
        self._near.joined(self)
