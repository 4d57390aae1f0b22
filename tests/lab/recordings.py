"""Tiny made-up recordings: three "words" that differ in where tones go, by four "speakers"."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ: Final = 16000
WORDS: Final = {"down": (2.0, 1.0), "flat": (1.4, 1.4), "up": (1.0, 2.0)}
SPEAKERS: Final = {"ann": 300.0, "bob": 220.0, "cat": 400.0, "dan": 260.0}
TAKES: Final = 4


def word(
    label: str, speaker: str, chance: np.random.Generator, duration_s: float = 0.4
) -> NDArray[np.float32]:
    samples = int(duration_s * RATE_HZ)
    begin, end = WORDS[label]
    hz = SPEAKERS[speaker] * np.linspace(begin, end, samples) * chance.uniform(0.95, 1.05)
    phase = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    tone = sum(np.sin(n * phase) / n for n in range(1, 6)) * np.hanning(samples)
    noise = 0.01 * chance.standard_normal(samples)
    return np.asarray(0.2 * tone + noise, np.float32)


def write(path: Path, samples: NDArray[np.float32], rate_hz: int = RATE_HZ) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz)
    return path


def make(folder: Path, takes: int = TAKES, *, flat: bool = False) -> Path:
    """folder/LABEL/SPEAKER_TAKE.wav, or folder/LABEL_SPEAKER_TAKE.wav."""
    chance = np.random.default_rng(7)
    for label in WORDS:
        for speaker in SPEAKERS:
            for take in range(takes):
                name = f"{label}_{speaker}_{take}" if flat else f"{label}/{speaker}_{take}"
                write(folder / f"{name}.wav", word(label, speaker, chance))
    return folder
