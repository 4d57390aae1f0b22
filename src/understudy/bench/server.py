"""What benchmarks of real processes share: a server, users who talk to it, and their figures."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from understudy.bench.edge_streams import _percentile_ms
from understudy.client import Stream
from understudy.core import wire

Pcm = NDArray[np.int16]

RATE_HZ: Final = 24_000
CHUNK: Final = 480  # samples: 20 ms
FADE: Final = 240  # samples: how long a crossfade lasts
BEFORE: Final = RATE_HZ // 5  # samples: a crossfade lies so near before its `live`
LOUD: Final = 1500  # of 32767
PATIENCE_S: Final = 90.0  # what does not come about within this is a fault
LOOK_S: Final = 0.05
STOP_S: Final = 20.0
LISTENING: Final = r"listening on (http://\S+:(\d+))"
READY: Final = "Ctrl-C stops it"  # the last line of its greeting


# --- The server ---


class Server:
    """`understudy up` in a process of its own, on a data folder that outlives it."""

    process: subprocess.Popen[str]
    greeting = READY

    def __init__(
        self,
        data: Path,
        port: int = 0,
        config: str | None = None,
        options: Sequence[str] = (),
        **env: str,
    ) -> None:
        """Does not start it yet. `options`: more of the command line; `env` is added to what of
        ours has nothing to do with us."""
        self.options = tuple(options)
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        self.config = data / "understudy.toml"
        if config is not None:
            self.config.write_text(config)
        self.port = port
        self.url = ""
        self.lines: list[str] = []  # all that it has said
        self.heard_s: list[float] = []  # ... and when, by time.perf_counter
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("UNDERSTUDY_")} | env
        self._over = False
        self._news = threading.Condition()

    def start(self) -> None:
        """Returns when it listens. One that was started before comes back on its old port."""
        after, self._over = len(self.lines), False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "understudy", "up", *self._options()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env,
            start_new_session=True,  # Ctrl-C is for us: we stop it in order
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        self.wait_for(self.greeting, after=after)
        self._learn(after)

    def _options(self) -> list[str]:
        return ["--port", str(self.port), "--data", str(self.data), *self.options]

    def _learn(self, after: int) -> None:
        """Where it listens, from its greeting."""
        found = re.search(LISTENING, self.wait_for(LISTENING, after=after))
        assert found is not None
        self.url, self.port = found[1], int(found[2])

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stdout:
            for line in stdout:
                with self._news:
                    self.lines.append(line)
                    self.heard_s.append(time.perf_counter())
                    self._news.notify_all()
        with self._news:  # of an earlier start, whose workers held the pipe for longer?
            self._over = self._over or process is self.process
            self._news.notify_all()

    def wait_for(self, pattern: str, seconds: float = 60, after: int = 0) -> str:
        """The first line of its output, from line `after` on, that matches."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.lines[after:] if re.search(pattern, line)]
            return bool(found) or self._over

        with self._news:
            self._news.wait_for(look, seconds)
        if not found:
            ended = " and has ended" if self._over else ""
            raise RuntimeError(f"the server never said {pattern!r}{ended}:\n{self.log}")
        return found[0]

    def said_s(self, pattern: str) -> float | None:
        """When it first said that, by time.perf_counter; None: not yet."""
        with self._news:
            told = zip(self.lines, self.heard_s, strict=True)
            return next((at_s for line, at_s in told if re.search(pattern, line)), None)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def kill(self) -> None:
        """As a crash would: SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the server does not stop:\n{self.log}") from None

    # what it says of itself

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def fleet(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.get("/v1/fleet"))
        return state

    def metric(self, sample: str) -> float:
        """A number out of /metrics, by its name with labels; 0 if it is not there yet."""
        for line in self.get("/metrics").decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    async def seen(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The fleet, once that holds of it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                state = await asyncio.to_thread(self.fleet)
                if holds(state):
                    return state
                await asyncio.sleep(LOOK_S)

    async def knows(self, voice: str) -> None:
        """Until the voice's model has been loaded once, so that its latency is known."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                voices = json.loads(await asyncio.to_thread(self.get, "/v1/voices"))["voices"]
                if next(v for v in voices if v["name"] == voice)["sample_rate"]:
                    return
                await asyncio.sleep(LOOK_S)


@contextmanager
def serving(config: str | None = None, **env: str) -> Iterator[Server]:
    """A server on a free port with an empty data folder, gone at the end, by SIGTERM too."""
    with running(lambda data: Server(data, 0, config, (), **env)) as server:
        yield server


S = TypeVar("S", bound=Server)


@contextmanager
def running(make: Callable[[Path], S]) -> Iterator[S]:
    """What `make` makes of an empty data folder, started; gone at the end, by SIGTERM too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if ours else None
    try:
        with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
            server = make(Path(folder))
            try:
                server.start()
                yield server
            finally:
                server.stop()
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def rss_mb(pid: int) -> float:
    """The memory that a process holds; 0 where it is gone."""
    size = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return round(float(size.stdout.strip() or 0) / 1024, 1)


# --- Its users ---


class Told(NamedTuple):
    """An event, when it came (time.perf_counter), and how many samples were heard before it."""

    at_s: float
    heard: int
    event: wire.ServerEvent


class Speaker:
    """Says a recording at the pace of speech, and keeps all that it says and hears.

    A chunk of 20 ms is sent when its last sample has been spoken, as a microphone gives it, and
    speech begins with the constructor: sample k is due at `began_s` + k / rate.
    """

    def __init__(self, stream: Stream, pcm: Pcm, *, once: bool = False) -> None:
        """Over and over, or `once`."""
        self.began_s = time.perf_counter()
        self.stream = stream
        self.said = bytearray()
        self.heard = bytearray()
        self.arrivals: list[tuple[float, int]] = []  # (when, how many samples by then)
        self.told: list[Told] = []
        self.late_s: list[float] = []  # how long after its time each chunk was sent
        self._news = asyncio.Event()
        self._pcm = pcm[: len(pcm) // CHUNK * CHUNK].tobytes()
        self._listening = asyncio.create_task(self._listen())
        self.speaking = asyncio.create_task(self._speak(once))

    async def _speak(self, once: bool) -> None:
        size = CHUNK * wire.BYTES_PER_SAMPLE
        while not (once and len(self.said) == len(self._pcm)):
            at = len(self.said) % len(self._pcm)
            due_s = self.began_s + (len(self.said) / wire.BYTES_PER_SAMPLE + CHUNK) / RATE_HZ
            left_s = due_s - time.perf_counter()
            if left_s > 0:
                await asyncio.sleep(max(left_s, 0.001))  # may wake up a little early
                continue
            self.late_s.append(-left_s)
            await self.stream.send(self._pcm[at : at + size])
            self.said += self._pcm[at : at + size]

    async def _listen(self) -> None:
        try:
            async for item in self.stream:
                now = time.perf_counter()
                if isinstance(item, bytes):
                    self.heard += item
                    self.arrivals.append((now, self.heard_samples))
                else:
                    self.told.append(Told(now, self.heard_samples, item))
                self._news.set()
        finally:
            self._news.set()

    @property
    def heard_samples(self) -> int:
        return len(self.heard) // wire.BYTES_PER_SAMPLE

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._news.clear()
                if self._listening.done():
                    self._listening.result()
                    raise RuntimeError(f"the stream is over: {self.stream.ended}")
                await self._news.wait()

    async def until_heard(self, seconds: float) -> None:
        """So much more."""
        goal = self.heard_samples + seconds * RATE_HZ
        await self.until(lambda: self.heard_samples >= goal)

    def lives(self, role: str | None = None) -> list[Told]:
        """Each time that a worker has taken over (in a role)."""
        return [
            told
            for told in self.told
            if isinstance(told.event, wire.Live) and role in (None, told.event.role)
        ]

    async def until_live(self, role: str | None = None, times: int = 1) -> Told:
        """The n-th time that a worker has taken over (in that role)."""
        await self.until(lambda: len(self.lives(role)) >= times)
        return self.lives(role)[times - 1]

    async def stop(self) -> None:
        """Returns when all that was said has been answered."""
        self.speaking.cancel()
        await asyncio.gather(self.speaking, return_exceptions=True)
        await self.stream.stop()
        await self._listening

    def first_sound(self) -> tuple[float, int]:
        """When the first sample came that is no silence, and its position."""
        position = int(np.flatnonzero(self.heard_pcm)[0])
        return next((at_s, position) for at_s, end in self.arrivals if end > position)

    @property
    def said_pcm(self) -> Pcm:
        return np.frombuffer(bytes(self.said), "<i2")

    @property
    def heard_pcm(self) -> Pcm:
        return np.frombuffer(bytes(self.heard), "<i2")

    @property
    def silent_s(self) -> float:
        """By the server's own count."""
        return self.stream.usage.silent_s if self.stream.usage else 0.0


@dataclass(frozen=True, slots=True)
class Handover:
    """From one voice to another: nothing up to `start` is not the one's, nothing from `end` on is
    not the other's. `end` comes first where both voices say the same (in a pause, say)."""

    start: int
    end: int

    @property
    def is_audible(self) -> bool:
        return self.end > self.start


def handover(heard: Pcm, before: Pcm, after: Pcm, live: int) -> Handover | None:
    """How what was heard passes from one stream to the other, `live` samples into it. None if it is
    anything else than the one, a crossfade, and the other."""
    if not len(heard) == len(before) == len(after):
        return None
    not_before, not_after = np.flatnonzero(heard != before), np.flatnonzero(heard != after)
    start = int(not_before[0]) if len(not_before) else len(heard)
    end = int(not_after[-1]) + 1 if len(not_after) else 0
    if start < live - BEFORE or end > live or end - start > FADE:
        return None
    return Handover(start, end)


def loud(pcm: Pcm, at: int) -> int:
    """The first loud sample from there on."""
    return at + int(np.flatnonzero(np.abs(pcm[at:].astype(np.int32)) > LOUD)[0])


# --- Their figures ---


def spread_ms(values_s: Iterable[float]) -> dict[str, float]:
    """Percentiles, in ms."""
    ordered = sorted(values_s)
    shares = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: _percentile_ms(ordered, share) for name, share in shares.items()}


def figure(
    name: str,
    value: float,
    unit: str = "",
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> dict[str, Any]:
    """One figure, with its target if it has one."""
    target, met = None, None
    if at_most is not None:
        target, met = f"<= {at_most:g}", value <= at_most
    elif at_least is not None:
        target, met = f">= {at_least:g}", value >= at_least
    return {"name": name, "value": round(value, 3), "unit": unit, "target": target, "met": met}


def all_met(figures: Iterable[Mapping[str, Any]]) -> bool:
    return all(one["met"] for one in figures if one["met"] is not None)


def as_table(head: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """The figures as text."""
    marks = {True: "met", False: "MISSED", None: ""}
    rows = [("figure", "value", "target", "")]
    for one in figures:
        value = f"{one['value']:g} {one['unit']}".strip()
        rows.append((one["name"], value, one["target"] or "", marks[one["met"]]))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([head, *(line.rstrip() for line in lines)])


def load_average() -> float:
    return round(os.getloadavg()[0], 1)
