"""Audio files in and out, and a file through a server at the pace of speech."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from understudy.client import Stream, Unreachable
from understudy.clock import SystemClock
from understudy.core import wire
from understudy.core.errors import ConfigError

CHUNK_S = 0.020


def read_audio(path: Path) -> tuple[NDArray[np.int16], int]:
    """(mono int16 samples, Hz) of any file soundfile reads. Raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"there is no file {path}")
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ConfigError(f"{path} is no audio file that can be read: {error}") from None
    if not wire.MIN_RATE_HZ <= rate_hz <= wire.MAX_RATE_HZ:
        raise ConfigError(
            f"{path} is at {rate_hz} Hz; convert it to {wire.MIN_RATE_HZ}-{wire.MAX_RATE_HZ} Hz"
        )
    mono = samples.mean(axis=1)
    return np.clip(np.rint(mono * 32768.0), -32768, 32767).astype(np.int16), int(rate_hz)


def write_audio(path: Path, pcm: NDArray[np.int16], rate_hz: int) -> None:
    """Writes in the format that the name's ending says. Raises ConfigError."""
    try:
        soundfile.write(path, pcm, rate_hz)
    except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be written: {error}") from None


async def stream_pcm(
    session: Stream,
    pcm: NDArray[np.int16],
    rate_hz: int,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> NDArray[np.int16]:
    """Sends `pcm` at the pace of speech; returns as many samples as were sent."""
    chunk = max(1, round(rate_hz * CHUNK_S))
    heard = bytearray()
    clock = SystemClock()
    live = asyncio.Event()

    async def speak() -> None:
        await live.wait()
        started = clock.now()
        for at in range(0, len(pcm), chunk):
            await session.send(pcm[at : at + chunk])
            progress(len(pcm[at : at + chunk]))
            due = started + (at + chunk) / rate_hz
            await clock.sleep(max(0.0, due - clock.now()))
        await session.stop()

    async with session:
        speaking = asyncio.create_task(speak())
        try:
            async for item in session:
                if isinstance(item, bytes):
                    heard += item
                elif isinstance(item, wire.Live):
                    live.set()
                    say(f"live: {item.voice} ({item.role}), latency {item.latency_ms:.0f} ms")
                elif isinstance(item, wire.Label):
                    from_s, at_s = item.from_sample / rate_hz, item.at_sample / rate_hz
                    say(f"{from_s:.2f} s: {item.label} ({item.score:.2f}, known at {at_s:.2f} s)")
                elif isinstance(item, wire.Queued | wire.Loading):
                    eta = "unknown" if item.eta_s is None else f"{item.eta_s:.0f} s"
                    say(f"{type(item).__name__.lower()}: about {eta}")
        finally:
            speaking.cancel()
    if session.ended is None:
        raise Unreachable("the connection to the server broke")
    if session.ended.reason != "stopped":
        say(f"ended: {session.ended.reason}")
    return np.frombuffer(bytes(heard), np.int16)
