"""The load generator: paced 20 ms streams on raw sockets, and the round trip of every frame."""

from __future__ import annotations

import base64
import gc
import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

RATE_HZ: Final = 24_000
PERIOD_S: Final = 0.020
FRAME_BYTES: Final = round(RATE_HZ * PERIOD_S) * 2
REPLY_BYTES: Final = FRAME_BYTES + 4  # with its WebSocket header
TICK_S: Final = 0.001  # what falls due within one is sent together: a wake-up costs two frames
SENDS_A_TURN: Final = 16  # then replies are read, lest they age in our own sockets
GIVE_UP_S: Final = 1.0  # a frame that waits longer for its echo ends the measurement
OPENING: Final = 32  # connections that may wait for `live` at a time
PATIENCE_S: Final = 20.0  # for everything that takes no time when all is well


class Overrun(Exception):
    """The other side does not keep up, or closed a stream."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One window of `streams` at 50 frames a second each way.

    Round trips in ms; CPU as shares of one core by role, of which "others" are programs that are
    none of ours. Where the other side did not keep up there is only `overrun`, the reason.
    """

    streams: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    late_p99_ms: float | None  # how late the generator itself was to send
    cpu: Mapping[str, float]
    overrun: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Something that echoes. `start`: whether it is an edge, which wants `start` and says `live`;
    `cpu_s()` is the CPU time used so far by each role, and by the whole "machine"."""

    name: str
    url: str
    start: bool
    cpu_s: Callable[[], Mapping[str, float]]


class Stream:
    """One WebSocket and the frames of it that are under way."""

    __slots__ = ("_owed", "_rest", "sent_at", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent_at: deque[float] = deque()
        self._owed = FRAME_BYTES  # audio that the oldest frame under way still waits for
        self._rest = b""  # a part of a WebSocket frame

    def hear(self, data: bytes, now: float, trips_s: list[float]) -> None:
        """Takes what the socket gave. Audio may come in messages of any size, events between."""
        if not self._rest and len(data) == REPLY_BYTES and data[0] == 0x82:
            self._take(FRAME_BYTES, now, trips_s)  # the usual case, for speed
            return
        data = self._rest + data
        at = 0
        while len(data) - at >= 2:
            length, header = data[at + 1], 2
            if length == 126:
                length, header = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif length == 127:
                length, header = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            if len(data) - at < header + length:
                break
            if data[at] == 0x82:
                self._take(length, now, trips_s)
            elif data[at] == 0x88:
                raise Overrun("a stream was closed")
            at += header + length
        self._rest = data[at:]

    def _take(self, length: int, now: float, trips_s: list[float]) -> None:
        self._owed -= length
        while self._owed <= 0:
            trips_s.append(now - self.sent_at.popleft())
            self._owed += FRAME_BYTES


class Generator:
    """Holds the open streams to one target and drives them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._streams: dict[int, Stream] = {}  # by file descriptor
        self._opened = 0
        self._sent = client_frame(0x2, os.urandom(FRAME_BYTES))

    def resize(self, count: int) -> None:
        """Opens or ends streams until there are `count`."""
        while len(self._streams) < count:
            self._open(min(OPENING, count - len(self._streams)))
        self._end(list(self._streams.values())[count:])

    def _open(self, count: int) -> None:
        fresh = [connect(self.target.url) for _ in range(count)]
        for sock in fresh if self.target.start else ():
            self._opened += 1
            user = f"{self.target.name}-{os.getpid()}-{self._opened}"
            wish = {"type": "start", "voice": "mirror", "user": user, "sample_rate": RATE_HZ}
            sock.sendall(client_frame(0x1, json.dumps(wish).encode()))
        for sock in fresh:
            stream = Stream(sock)
            if self.target.start:
                stream.hear(read_until(sock, b'"live"'), 0.0, [])
            sock.setblocking(False)
            self._streams[sock.fileno()] = stream
            if self._epoll is not None:
                self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _end(self, streams: Sequence[Stream]) -> None:
        """Ends streams in good order, so that their slots are free when it returns."""
        socks = [stream.sock for stream in streams]
        for sock in socks:
            del self._streams[sock.fileno()]
            if self._epoll is not None:
                self._epoll.unregister(sock.fileno())
            sock.settimeout(PATIENCE_S)
        try:
            for sock in socks if self.target.start else ():
                sock.sendall(client_frame(0x1, b'{"type":"stop"}'))
            for sock in socks if self.target.start else ():
                read_until(sock, b'"ended"')
        except OSError:
            pass  # the other side was faster
        finally:
            for sock in socks:
                sock.close()

    def measure(self, warm_s: float, seconds: float) -> Measured:
        """Drives all open streams, phases spread evenly, and measures after `warm_s`."""
        trips_s: list[float] = []
        late_s: list[float] = []
        gc.collect()
        gc.disable()  # a collection would be measured as the other side's
        try:
            self._drive(warm_s, [], [])
            cpu, began = self._cpu_s(), time.perf_counter()
            self._drive(seconds, trips_s, late_s)
            passed, after = time.perf_counter() - began, self._cpu_s()
        except (Overrun, OSError) as error:
            count = len(self._streams)
            self.resize(0)  # frames are under way in all of them
            return Measured(count, None, None, None, None, {}, overrun=str(error))
        finally:
            gc.enable()
        trips_s.sort()
        late_s.sort()
        return Measured(
            len(self._streams),
            p50_ms=_percentile_ms(trips_s, 0.50),
            p95_ms=_percentile_ms(trips_s, 0.95),
            p99_ms=_percentile_ms(trips_s, 0.99),
            late_p99_ms=_percentile_ms(late_s, 0.99),
            cpu=_shares({role: (after[role] - cpu[role]) / passed for role in after}),
        )

    def _cpu_s(self) -> Mapping[str, float]:
        return {**self.target.cpu_s(), "generator": time.process_time()}

    def _drive(self, seconds: float, trips_s: list[float], late_s: list[float]) -> None:
        """Sends for `seconds`, and waits for the last echo. Raises Overrun."""
        clock, frame = time.perf_counter, self._sent
        by_fd = self._streams
        streams = list(by_fd.values())
        total = round(seconds / PERIOD_S) * len(streams)
        gap_s = PERIOD_S / len(streams)
        start = clock() + 0.001
        sent = 0
        while len(trips_s) < total:
            now = clock()
            for _ in range(SENDS_A_TURN):
                due = start + sent * gap_s
                if due > now or sent == total:
                    break
                stream = streams[sent % len(streams)]
                if stream.sent_at and now - stream.sent_at[0] > GIVE_UP_S:
                    raise Overrun("no echo came")
                stream.sent_at.append(clock())
                if stream.sock.send(frame) < len(frame):
                    raise Overrun("a socket is full")
                late_s.append(now - due)
                sent += 1
            if sent < total:
                wait_s = max(0.0, start + sent * gap_s - clock())
                if wait_s:
                    wait_s = max(wait_s, TICK_S)
            else:
                wait_s = GIVE_UP_S
                if now - due > 2 * GIVE_UP_S:
                    raise Overrun("no echo came")
            for fd in self._readable(wait_s):
                stream = by_fd[fd]
                data = stream.sock.recv(65536)
                if not data:
                    raise Overrun("a stream was closed")
                stream.hear(data, clock(), trips_s)

    def _readable(self, wait_s: float) -> list[int]:
        if self._epoll is None:
            return select.select(list(self._streams), [], [], wait_s)[0]
        # epoll's own time-out is in whole milliseconds; select on its descriptor takes any.
        if wait_s:
            select.select([self._epoll], [], [], wait_s)
        return [fd for fd, _ in self._epoll.poll(0)]


def client_frame(opcode: int, payload: bytes) -> bytes:
    """A masked WebSocket frame; with a key of zeros the mask leaves the payload as it is."""
    length = len(payload)
    head = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + head + bytes(4) + payload


def connect(url: str) -> socket.socket:
    """A WebSocket whose handshake is done."""
    parts = urlsplit(url)
    assert parts.port is not None
    sock = socket.create_connection(("127.0.0.1", parts.port), timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = read_until(sock, b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"{url} answers {answer[:60]!r}")
    return sock


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """Reads up to `mark` and what came with it. Raises OSError if that never comes."""
    data = b""
    while mark not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f"closed after {data[-200:]!r}")
        data += more
    return data


def _shares(used: dict[str, float]) -> dict[str, float]:
    """Puts what is left of the machine's busy time down to others."""
    if (machine := used.pop("machine", None)) is not None:
        used["others"] = max(0.0, machine - sum(used.values()))
    return {role: round(share, 3) for role, share in used.items()}


def _percentile_ms(ordered_s: Sequence[float], share: float) -> float:
    return round(ordered_s[min(len(ordered_s) - 1, int(share * len(ordered_s)))] * 1e3, 3)
