"""Speech to measure with: recorded where there is some, else made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
from numpy.typing import NDArray

from understudy.bench.speech import speech

Audio = NDArray[np.float32]


def files(audio: Path | None) -> list[Path]:
    """The recordings in a folder (or the one file), in order."""
    if audio is None:
        return []
    if audio.is_file():
        return [audio]
    folder = audio / "librispeech" if (audio / "librispeech").is_dir() else audio
    return sorted(p for p in folder.rglob("*") if p.suffix in {".flac", ".wav"})


def load(audio: Path | None, rate_hz: int, seconds: float, *, first: int = 0) -> Audio:
    """`seconds` of speech at `rate_hz`, float32 [n], full scale 1; `first`: which recording to
    begin with, so that many may say different things. Shorter where there are too few."""
    found = files(audio)
    if not found:
        made = speech(rate_hz, seconds=seconds, f0_hz=110.0 + 10.0 * (first % 9), seed=first)
        return made.samples * np.float32(0.8)
    parts: list[Audio] = []
    length = 0
    for step in range(len(found)):
        samples, rate = soundfile.read(
            found[(first + step) % len(found)], dtype="float32", always_2d=True
        )
        part = scipy.signal.resample_poly(samples[:, 0], rate_hz, rate)
        parts.append((part * (0.5 / max(1e-3, float(np.abs(part).max())))).astype(np.float32))
        length += len(part)
        if length >= seconds * rate_hz:
            break
    return np.concatenate(parts)[: round(seconds * rate_hz)]


def load_pcm(
    audio: Path | None, rate_hz: int, seconds: float, *, first: int = 0
) -> NDArray[np.int16]:
    """The same as int16."""
    return np.rint(load(audio, rate_hz, seconds, first=first) * 32767).astype("<i2")
