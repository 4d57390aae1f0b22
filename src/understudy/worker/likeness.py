"""Sound for trying a model, and how far two outputs are from each other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.int16]

NOISE_AT_S = 0.75  # in every second
_HARMONICS = 20
_FORMANTS_HZ = (700.0, 1200.0, 2500.0)


def speech_like(rate_hz: int, seconds: float, seed: int) -> Signal:
    """In every second two gliding syllables, a pause of digital silence and full-scale noise."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    f0_hz = 120.0 + 10.0 * (seed % 8) + 25.0 * np.sin(2 * np.pi * 0.9 * t + seed)
    turns = 2 * np.pi * np.cumsum(f0_hz) / rate_hz
    voice = np.zeros_like(t)
    for k in range(1, _HARMONICS + 1):
        near = [((k * f0_hz - formant) / 250.0) ** 2 for formant in _FORMANTS_HZ]
        voice += np.sin(k * turns) / k * (0.2 + sum(1 / (1 + one) for one in near))
    into = t % 1.0
    loud = np.where(into < 0.55, np.sin(np.pi * into / 0.275) ** 2, 0.0)
    mixed = 0.4 * voice / max(1e-9, float(np.abs(voice).max())) * loud
    noise = np.random.default_rng(seed).uniform(-1.0, 1.0, len(t))
    return np.asarray(32767 * np.where(into >= NOISE_AT_S, noise, mixed), np.int16)


def furthest(one: Signal, two: Signal) -> int:
    """The largest difference of two samples, of 32768."""
    return int(np.abs(one.astype(np.int32) - two).max(initial=0))


def alike_db(wanted: Signal, got: Signal) -> float:
    """How far their difference lies below `wanted`; infinite if only the rounding differs."""
    n = min(len(wanted), len(got))
    if furthest(wanted[:n], got[:n]) <= 1:
        return math.inf
    difference = wanted[:n].astype(np.float64) - got[:n]
    signal = max(1.0, float(np.sum(wanted[:n].astype(np.float64) ** 2)))
    return 10 * math.log10(signal / float(np.sum(difference**2)))


def late_samples(said: Signal, heard: Signal, hop: int) -> int:
    """How much later (or earlier, if negative) `heard` is loud where `said` is, in steps of
    `hop`; 0 where their loudness is too unlike to tell."""
    one, two = _loudness(said, hop), _loudness(heard, hop)
    size = math.sqrt(float(one @ one) * float(two @ two))
    if len(one) < 20 or not size:
        return 0
    likeness = np.correlate(two, one, "full") / size
    sure = likeness.max() > 0.7
    return (int(likeness.argmax()) - (len(one) - 1)) * hop if sure else 0


def _loudness(signal: Signal, hop: int) -> NDArray[np.float64]:
    """[hops], its mean taken off."""
    whole = signal[: len(signal) // hop * hop].reshape(-1, hop).astype(np.float64)
    loud = np.sqrt((whole**2).mean(axis=1))
    return np.asarray(loud - loud.mean() if len(loud) else loud)
