"""Owns made-up speech: deterministic, free of licences, with f0 and formants that are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.ndimage
import scipy.signal
from numpy.typing import NDArray

VOWELS: Final[dict[str, tuple[float, float, float, float]]] = {
    "a": (730.0, 1090.0, 2440.0, 3400.0),
    "e": (530.0, 1840.0, 2480.0, 3500.0),
    "i": (300.0, 2200.0, 2950.0, 3600.0),
    "o": (570.0, 840.0, 2410.0, 3300.0),
    "u": (320.0, 900.0, 2240.0, 3300.0),
}
"""Formants in Hz, after Peterson & Barney 1952 (men); the fourth is our choice."""

_BANDWIDTHS_HZ: Final = (60.0, 90.0, 120.0, 175.0)
_OVERSAMPLE: Final = 4
_BLOCK_S: Final = 0.005
_SENTENCE: Final = (
    # sound, seconds, f0 relative to the speaker's at the start and at the end
    ("pause", 0.15, 1.0, 1.0),
    ("a", 0.22, 0.95, 1.15),
    ("s", 0.12, 1.0, 1.0),
    ("i", 0.20, 1.15, 1.05),
    ("u", 0.15, 1.05, 1.00),
    ("pause", 0.06, 1.0, 1.0),
    ("t", 0.03, 1.0, 1.0),
    ("o", 0.25, 1.20, 0.95),
    ("sh", 0.11, 1.0, 1.0),
    ("e", 0.20, 1.0, 1.1),
    ("a", 0.18, 1.1, 0.85),
    ("pause", 0.25, 1.0, 1.0),
)
_NOISE_HZ: Final = {"s": (4000.0, 7500.0), "sh": (2000.0, 5000.0), "t": (1500.0, 6500.0)}


@dataclass(frozen=True, slots=True)
class Speech:
    """Samples [n] at sample_rate, and what was said: f0 and the kind of sound at each sample."""

    samples: NDArray[np.float32]
    sample_rate: int
    f0_hz: NDArray[np.float32]  # [n], 0 where not voiced
    noisy: NDArray[np.bool_]  # [n], where there is a consonant's noise


def vowel(name: str, f0_hz: float, duration_s: float, sample_rate: int) -> NDArray[np.float32]:
    """A steady vowel, [duration_s * sample_rate] samples, with VOWELS[name] as its formants."""
    count = round(duration_s * sample_rate)
    pulses = _pulses(np.full(count, f0_hz), sample_rate)
    return _level(_resonate(pulses, np.array([VOWELS[name]]), count, sample_rate))


def speech(
    sample_rate: int, *, seconds: float = 4.0, f0_hz: float = 120.0, seed: int = 0
) -> Speech:
    """A speaker of this mean f0 saying nothing in particular; the same for the same arguments."""
    random = np.random.default_rng(seed)
    count = round(seconds * sample_rate)
    f0 = np.zeros(count)
    loud = np.zeros(count)
    noise = np.zeros(count)
    noisy = np.zeros(count, np.bool_)
    formants = np.full((-(-count // _block(sample_rate)), 4), VOWELS["a"])
    at = 0
    while at < count:
        for name, duration_s, start, end in _SENTENCE:
            to = min(count, at + round(duration_s * sample_rate))
            n = to - at
            if n <= 0:
                break
            if name in VOWELS:
                f0[at:to] = f0_hz * np.linspace(start, end, n)
                loud[at:to] = 1.0
                block = _block(sample_rate)
                formants[at // block : -(-to // block)] = VOWELS[name]
            elif name in _NOISE_HZ:
                noisy[at:to] = True
                noise[at:to] = _hiss(name, n, sample_rate, random)
            at = to
    f0 *= 1 + 0.01 * np.sin(2 * np.pi * 5.0 * np.arange(count) / sample_rate)
    edge = scipy.signal.windows.hann(round(0.02 * sample_rate))
    loud = np.convolve(loud, edge / edge.sum(), "same")
    smooth = scipy.ndimage.uniform_filter1d(formants, 9, axis=0)
    held = np.where(f0 > 0, f0, f0_hz)
    voice = _resonate(_pulses(held, sample_rate), smooth, count, sample_rate)
    mixed = _level(voice * loud) + noise.astype(np.float32)
    mixed += (1e-4 * random.standard_normal(count)).astype(np.float32)
    voiced = np.where(loud > 0.5, held, 0.0)
    return Speech(mixed.astype(np.float32), sample_rate, voiced.astype(np.float32), noisy)


def _block(sample_rate: int) -> int:
    return round(_BLOCK_S * sample_rate)


def _pulses(f0_hz: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """The glottal flow's derivative (Rosenberg 1971, pulse B), made at four times the rate."""
    fast = np.repeat(f0_hz, _OVERSAMPLE) / (sample_rate * _OVERSAMPLE)
    phase = np.cumsum(fast) % 1.0
    opening, closing = 0.4, 0.16
    rise = phase / opening
    fall = (phase - opening) / closing
    flow = np.where(
        phase < opening,
        3 * rise**2 - 2 * rise**3,
        np.where(phase < opening + closing, 1 - fall**2, 0.0),
    )
    flow = scipy.signal.resample_poly(flow, 1, _OVERSAMPLE)[: f0_hz.size]
    return np.diff(flow, prepend=flow[:1])


def _resonate(
    source: NDArray[np.float64],
    formants_hz: NDArray[np.float64],
    count: int,
    sample_rate: int,
) -> NDArray[np.float64]:
    """A cascade of two-pole resonators (Klatt 1980), its formants [blocks, 4] set every 5 ms."""
    out = source
    block = _block(sample_rate)
    for n, width in enumerate(_BANDWIDTHS_HZ):
        state = np.zeros(2)
        done = np.empty(count)
        radius = np.exp(-np.pi * width / sample_rate)
        for at in range(0, count, block):
            hz = formants_hz[min(at // block, len(formants_hz) - 1), n]
            if hz > 0.45 * sample_rate:
                done[at : at + block] = out[at : at + block]
                continue
            b = -2 * radius * np.cos(2 * np.pi * hz / sample_rate)
            filtered, state = scipy.signal.lfilter(
                [1 + b + radius**2], [1, b, radius**2], out[at : at + block], zi=state
            )
            done[at : at + block] = filtered
        out = done
    return out


def _hiss(
    name: str, count: int, sample_rate: int, random: np.random.Generator
) -> NDArray[np.float64]:
    low, high = (min(hz, 0.47 * sample_rate) for hz in _NOISE_HZ[name])
    low = min(low, 0.6 * high)
    taps = scipy.signal.butter(2, (low, high), "bandpass", fs=sample_rate, output="sos")
    hiss = scipy.signal.sosfilt(taps, random.standard_normal(count))
    ramp = np.minimum(1.0, np.arange(count) / (0.01 * sample_rate))
    shape = np.minimum(ramp, ramp[::-1])
    if name == "t":  # a burst: all at once, then less and less
        shape = np.exp(-np.arange(count) / (0.008 * sample_rate))
    return np.asarray(0.08 * hiss / (np.std(hiss) + 1e-9) * shape)


def _level(signal: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(0.35 * signal / (np.max(np.abs(signal)) + 1e-9), np.float32)
