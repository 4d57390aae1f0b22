"""Noise that nobody has to record: coloured noise, hum, tones, clicks, chords, sirens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

KINDS: Final = ("white", "pink", "brown", "hum", "tones", "clicks", "chords", "siren", "rumble")

Audio = NDArray[np.float32]
_Maker = Callable[[int, int, np.random.Generator], NDArray[np.float64]]


def synthesise(kind: str, samples: int, rate_hz: int, chance: np.random.Generator) -> Audio:
    """`samples` of one of KINDS at a peak of 0.5; each draw of `chance` sounds different."""
    made = _MAKERS[kind](samples, rate_hz, chance)
    points, levels = _points(samples, chance)
    slow = np.interp(np.arange(samples), points, levels)
    made = made * slow
    return np.asarray(0.5 * made / max(1e-9, float(np.abs(made).max(initial=0.0))), np.float32)


def _points(
    samples: int, chance: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A loudness that drifts: noise of the same level all along is rare."""
    count = int(chance.integers(2, 8))
    return np.linspace(0, samples, count), chance.uniform(0.3, 1.0, count)


def _coloured(slope: float) -> _Maker:
    def make(samples: int, rate_hz: int, chance: np.random.Generator) -> NDArray[np.float64]:
        spectrum = np.fft.rfft(chance.standard_normal(samples))
        hz = np.maximum(np.fft.rfftfreq(samples, 1 / rate_hz), 20.0)
        return np.asarray(np.fft.irfft(spectrum * hz**-slope, samples), np.float64)

    return make


def _hum(samples: int, rate_hz: int, chance: np.random.Generator) -> NDArray[np.float64]:
    mains_hz = float(chance.choice([50.0, 60.0, 100.0, 120.0])) * chance.uniform(0.98, 1.02)
    t = np.arange(samples) / rate_hz
    out = 0.02 * chance.standard_normal(samples)
    for harmonic in range(1, 20):
        phase = chance.uniform(0, 2 * np.pi)
        out += chance.exponential() / harmonic * np.sin(2 * np.pi * mains_hz * harmonic * t + phase)
    return out


def _tones(samples: int, rate_hz: int, chance: np.random.Generator) -> NDArray[np.float64]:
    """Beeps of one to four frequencies, such as telephones and machines make."""
    t = np.arange(samples) / rate_hz
    out = np.zeros(samples)
    for _ in range(int(chance.integers(1, 5))):
        hz = np.exp(chance.uniform(np.log(150), np.log(6000)))
        period, duty = chance.uniform(0.1, 1.5), chance.uniform(0.2, 1.0)
        gate = (t % period) < duty * period
        out += chance.uniform(0.2, 1.0) * gate * np.sin(2 * np.pi * hz * t)
    return out + 0.003 * chance.standard_normal(samples)


def _clicks(samples: int, rate_hz: int, chance: np.random.Generator) -> NDArray[np.float64]:
    """Knocks, keys, drops: noise bursts that ring and die away, a few a second."""
    out = 0.002 * chance.standard_normal(samples)
    for at in chance.integers(0, samples, max(1, int(chance.uniform(1, 12) * samples / rate_hz))):
        length = int(rate_hz * chance.uniform(0.003, 0.2))
        t = np.arange(min(length, samples - at)) / rate_hz
        ring = np.sin(2 * np.pi * chance.uniform(100, 5000) * t)
        mix = chance.uniform(0, 1)
        burst = mix * ring + (1 - mix) * chance.standard_normal(len(t))
        out[at : at + len(t)] += chance.uniform(0.1, 1) * burst * np.exp(-t * 5 * rate_hz / length)
    return out


def _chords(samples: int, rate_hz: int, chance: np.random.Generator) -> NDArray[np.float64]:
    """Music-like: plucked and bowed notes with harmonics and vibrato, over a beat."""
    out = np.zeros(samples)
    beat_s = chance.uniform(0.15, 0.8)
    root = chance.uniform(80, 330)
    for start in range(0, samples, int(beat_s * rate_hz)):
        t = np.arange(min(int(2 * beat_s * rate_hz), samples - start)) / rate_hz
        for step in chance.choice([0, 2, 4, 5, 7, 9, 11, 12, 16, 19], int(chance.integers(1, 5))):
            hz = root * 2 ** (step / 12)
            vibrato = 1 + 0.004 * chance.uniform(0, 1) * np.sin(2 * np.pi * 5 * t)
            decay = np.exp(-t * chance.uniform(0.5, 8))
            for harmonic in range(1, 9):
                tone = np.sin(2 * np.pi * hz * harmonic * t * vibrato)
                out[start : start + len(t)] += decay * tone / harmonic ** chance.uniform(1, 2)
    return out


def _siren(samples: int, rate_hz: int, chance: np.random.Generator) -> NDArray[np.float64]:
    t = np.arange(samples) / rate_hz
    centre, depth = chance.uniform(300, 2500), chance.uniform(0.05, 0.6)
    hz = centre * (1 + depth * np.sin(2 * np.pi * chance.uniform(0.1, 6) * t))
    phase = 2 * np.pi * np.cumsum(hz) / rate_hz
    return np.asarray(np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.1 * np.sin(3 * phase))


def _rumble(samples: int, rate_hz: int, chance: np.random.Generator) -> NDArray[np.float64]:
    """Engines and fans: noise that pulses at a low rate."""
    t = np.arange(samples) / rate_hz
    body = _coloured(chance.uniform(0.5, 1.5))(samples, rate_hz, chance)
    pulse = 1 + chance.uniform(0.2, 1) * np.sin(2 * np.pi * chance.uniform(4, 40) * t)
    return np.asarray(body / np.abs(body).max() * pulse)


_MAKERS = {
    "white": _coloured(0.0),
    "pink": _coloured(0.5),
    "brown": _coloured(1.0),
    "hum": _hum,
    "tones": _tones,
    "clicks": _clicks,
    "chords": _chords,
    "siren": _siren,
    "rumble": _rumble,
}
