"""Users who speak for long, on whatever line carries them, and what they heard: counted as it
comes, so that an hour of many costs no memory to speak of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from understudy.bench.recordings import load_pcm
from understudy.bench.server import CHUNK, PATIENCE_S, RATE_HZ, Pcm
from understudy.client import Stream
from understudy.core import wire

CHUNK_S: Final = CHUNK / RATE_HZ
GAP_S: Final = CHUNK_S + 0.060  # between two sounds: a listener keeps 60 ms in store
SPEECH_S: Final = 20.0
SPEECHES: Final = 8
BEGINS_S: Final = 1.0  # what a fault takes away is gone by then
STOP_S: Final = 20.0


@cache
def never_zero(audio: Path | None) -> tuple[Pcm, ...]:
    """Speeches without a sample that is zero: each zero that is heard is silence in its place.

    Reading them takes a while in which nobody is heard here: to be called before anybody speaks.
    """
    found = []
    for number in range(SPEECHES):
        spoken = load_pcm(audio, RATE_HZ, SPEECH_S, first=3 * number).copy()
        spoken[spoken == 0] = 1
        found.append(spoken)
    return tuple(found)


class Caller:
    """Says a recording over and over, at the pace of speech: 20 ms at a time."""

    def __init__(self, user: str, stream: Stream, pcm: Pcm) -> None:
        self.user = user
        self.stream = stream
        self.began_s = time.perf_counter()
        self.sounds: list[float] = []  # when audio came that is no silence
        self.heard = 0  # samples that are no silence
        self.delays: list[tuple[float, float]] = []  # (when, how long after it was due to be said)
        self.told: list[tuple[float, wire.ServerEvent]] = []  # but for `usage`
        self.late_s: list[float] = []  # how long after its time each chunk was sent
        self.said = 0
        self.session = ""  # its id, which it keeps wherever it goes on
        self._came = 0  # samples, on the first line
        self._pcm = pcm[: len(pcm) // CHUNK * CHUNK].tobytes()
        self._news = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())
        self._speaking = asyncio.create_task(self._speak())

    async def _speak(self) -> None:
        size = CHUNK * wire.BYTES_PER_SAMPLE
        while True:
            due_s = self.began_s + (self.said + CHUNK) / RATE_HZ
            left_s = due_s - time.perf_counter()
            if left_s > 0:
                await asyncio.sleep(max(left_s, 0.001))
                continue
            self.late_s.append(-left_s)
            at = self.said * wire.BYTES_PER_SAMPLE % len(self._pcm)
            await self.stream.send(self._pcm[at : at + size])
            self.said += CHUNK

    async def _listen(self) -> None:
        try:
            async for item in self.stream:
                now = time.perf_counter()
                if isinstance(item, bytes):
                    self._hear(item, now)
                elif not isinstance(item, wire.Usage):
                    self.told.append((now, item))
                    self.session = item.session or self.session
                self._news.set()
        finally:
            self._news.set()

    def _hear(self, pcm: bytes, now: float) -> None:
        loud = int(np.count_nonzero(np.frombuffer(pcm, "<i2")))
        self.heard += loud
        if loud:
            self.sounds.append(now)
        if not self.stream.resumes:  # positions begin anew on another line
            self._came += len(pcm) // wire.BYTES_PER_SAMPLE
            self.delays.append((now, now - self.began_s - self._came / RATE_HZ))

    async def until(self, holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Raises TimeoutError, or why the stream is over."""
        async with asyncio.timeout(seconds):
            while not holds():
                self._news.clear()
                if self._listening.done():
                    self._listening.result()
                    raise RuntimeError(f"the stream of {self.user} is over: {self.stream.ended}")
                await self._news.wait()

    def is_led(self) -> bool:
        return self.stream.live is not None and self.stream.live.role == "lead"

    @property
    def heard_s(self) -> float:
        return self.heard / RATE_HZ

    async def leave(self, *, sounds_within_s: float | None = None) -> str:
        """Ends the stream. Why it was lost; empty: it was not. `sounds_within_s`: who has heard
        nothing for longer is lost, too."""
        silent_s = time.perf_counter() - (self.sounds[-1] if self.sounds else self.began_s)
        ended = self.stream.ended if self._listening.done() else None
        self._speaking.cancel()
        await asyncio.gather(self._speaking, return_exceptions=True)
        try:
            if not self._listening.done():
                await self.stream.stop()
            async with asyncio.timeout(STOP_S):
                await self._listening
        except Exception as error:
            self._listening.cancel()
            return f"{self.user}: {error!r}"
        last = self.stream.ended
        if ended is not None or last is None or last.reason != "stopped":
            return f"{self.user}: {last.reason if last else 'no word'}"
        if sounds_within_s is not None and silent_s > sounds_within_s:
            return f"{self.user}: silent for {silent_s:.1f} s"
        return ""


def gaps(sounds: Sequence[float], start_s: float, end_s: float) -> list[tuple[float, float]]:
    """The times without a sound between two moments: (when, how long)."""
    within = [start_s, *(at_s for at_s in sounds if start_s < at_s < end_s), end_s]
    lengths = np.diff(within)
    return [
        (within[int(at)], float(lengths[at]) - CHUNK_S) for at in np.flatnonzero(lengths > GAP_S)
    ]


def again_s(
    sounds: Sequence[float], at_s: float, until_s: float, within_s: float = BEGINS_S
) -> float:
    """From a moment to the end of the longest time without a sound that began soon after it (and
    so because of it: what begins later has other reasons); 0: there was none."""
    found = [gap for gap in gaps(sounds, at_s, until_s) if gap[0] <= at_s + within_s]
    if not found:
        return 0.0
    start_s, length_s = max(found, key=lambda gap: gap[1])
    return start_s + length_s + CHUNK_S - at_s
