"""Owns how the benchmark listens: f0, formants, delay, difference and clicks of signals.

Speech f0 is read by WORLD (pyworld: dio, refined by stonemask; voiced only where D4C's love train
says so too) in input and output. Frames that count: dio and harvest agree on the input within half
a semitone, at most 30 dB under the utterance's loudest frame, and voiced in the output. The frames
that are lost by the last condition are reported as `heard_share`. Formants are the poles of a
12th order all-pole model of WORLD's CheapTrick envelope below 5.5 kHz, whose harmonics are smoothed
away at the frame's own f0; a formant counts if a pole of the output is nearest to it, and it is
that pole's nearest.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import scipy.linalg
import scipy.signal
import soxr
from numpy.typing import NDArray

Signal = NDArray[np.float32]


def snr_db(wanted: Signal, got: Signal) -> float:
    """Signal to difference; 200 where they are the same."""
    noise = float(np.sum((wanted.astype(np.float64) - got) ** 2))
    power = float(np.sum(wanted.astype(np.float64) ** 2))
    return min(200.0, 10 * np.log10(max(power, 1e-30) / noise)) if noise else 200.0


def tone_error_cents(out: Signal, rate: int, want_hz: float) -> list[float]:
    """Error of the strongest bin near the wanted f0, in 100 ms Hann windows every 10 ms."""
    size, hop, nfft = rate // 10, rate // 100, 4 * rate
    window = np.hanning(size)
    low = int(want_hz * 0.9 * nfft / rate)
    errors = []
    step = np.exp(
        -2j
        * np.pi
        * np.outer(np.arange(low, int(want_hz * 1.1 * nfft / rate)), np.arange(size))
        / nfft
    )
    for at in range(rate // 5, len(out) - size - rate // 5, hop * 5):
        level = np.log(np.abs(step @ (window * out[at : at + size])) + 1e-12)
        peak = int(np.clip(level.argmax(), 1, len(level) - 2))
        left, top, right = level[peak - 1 : peak + 2]
        place = low + peak + 0.5 * (left - right) / (left - 2 * top + right - 1e-12)
        errors.append(1200 * float(np.log2(place * rate / nfft / want_hz)))
    return errors


def f0_of(signal: Signal, rate: int) -> NDArray[np.float64]:
    """f0 in Hz every 5 ms, 0 where WORLD calls the frame unvoiced."""
    world = importlib.import_module("pyworld")
    x = signal.astype(np.float64)
    f0, at = world.dio(x, rate, f0_floor=60.0, f0_ceil=700.0)
    f0 = world.stonemask(x, f0, at, rate)
    if not f0.any():
        return np.asarray(f0)
    return np.asarray(f0 * (world.d4c(x, f0, at, rate)[:, 0] < 0.99))


def trusted_f0_of(signal: Signal, rate: int) -> NDArray[np.float64]:
    """f0_of, where harvest says the same and the frame is loud enough; 0 elsewhere."""
    world = importlib.import_module("pyworld")
    f0 = f0_of(signal, rate)
    x = signal.astype(np.float64)
    other, at = world.harvest(x, rate, f0_floor=60.0, f0_ceil=700.0)
    n = min(len(f0), len(other))
    power = np.convolve(x**2, np.ones(rate // 40), "same")
    power = power[np.minimum((at[:n] * rate).astype(int), len(x) - 1)]
    apart = np.abs(np.log2(np.maximum(f0[:n], 1) / np.maximum(other[:n], 1)))
    return np.where((f0[:n] > 0) & (apart < 0.5 / 12) & (power > 1e-3 * power.max()), f0[:n], 0.0)


def speech_error(
    truth: Sequence[NDArray[np.float64]], outputs: Sequence[Signal], rate: int, semitones: float
) -> dict[str, float]:
    """Median error in cents, percent of frames off by over a semitone, share of frames heard."""
    errors = []
    wanted = 0
    for f0, out in zip(truth, outputs, strict=True):
        got = f0_of(out, rate)
        n = min(len(f0), len(got))
        both = (f0[:n] > 0) & (got[:n] > 0)
        wanted += int((f0[:n] > 0).sum())
        errors.append(1200 * np.log2(got[:n][both] / f0[:n][both]) - 100 * semitones)
    off = np.abs(np.concatenate(errors))
    return {
        "median_cents": float(np.median(off)),
        "off_percent": float(100 * np.mean(off > 100)),
        "heard_share": len(off) / max(1, wanted),
    }


def formants_of(signal: Signal, rate: int) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Poles in Hz of the smoothed envelope below 5.5 kHz, and f0, every 5 ms; none if unvoiced."""
    world = importlib.import_module("pyworld")
    x = soxr.resample(signal, rate, 11000).astype(np.float64)
    f0 = f0_of(signal, rate)
    envelope = world.cheaptrick(x, f0, np.arange(len(f0)) * 0.005, 11000)
    hz = np.arange(envelope.shape[1]) * 5500 / (envelope.shape[1] - 1)
    envelope = envelope * (1 + (hz / 300) ** 2)  # undo the glottal slope
    poles = []
    for frame, voiced in zip(envelope, f0 > 0, strict=True):
        if not voiced:
            poles.append(np.zeros(0))
            continue
        acf = np.fft.irfft(frame)[:13]
        acf[0] *= 1 + 1e-6
        roots = np.roots(np.r_[1, -scipy.linalg.solve_toeplitz(acf[:-1], acf[1:])])
        width = -np.log(np.abs(roots) + 1e-12) * 11000 / np.pi
        found = np.angle(roots) * 11000 / (2 * np.pi)
        poles.append(np.sort(found[(found > 200) & (found < 4000) & (width < 500)]))
    return poles, f0


def formant_shift(before: Sequence[Signal], after: Sequence[Signal], rate: int) -> dict[str, float]:
    """Medians over frames of a formant's change in percent: its size, and with its sign.

    Also for F1 alone where it lies above twice both f0: below that, no two harmonics stand on its
    lower side, and where the formant is said to be follows the harmonics.
    """
    ratios: dict[str, list[float]] = {"f1": [], "f2": [], "f3": [], "f1_over_2_f0": []}
    for one, other in zip(before, after, strict=True):
        (was, f0), (now, new_f0) = formants_of(one, rate), formants_of(other, rate)
        for old, new, *pitches in zip(was, now, f0, new_f0, strict=False):
            if len(old) < 3 or not len(new):
                continue
            for k in range(3):
                near = new[np.abs(np.log(new / old[k])).argmin()]
                if np.abs(np.log(old / near)).argmin() != k:
                    continue
                ratios[f"f{k + 1}"].append(float(near / old[k]))
                if k == 0 and old[0] > 2 * max(pitches):
                    ratios["f1_over_2_f0"].append(float(near / old[0]))
    result = {}
    for name, found in ratios.items():
        result[f"{name}_off_percent"] = float(100 * np.median(np.abs(np.array(found) - 1)))
        result[f"{name}_moved_percent"] = float(100 * (np.median(found) - 1))
    return result


def nearest_formants_hz(signal: Signal, rate: int, known_hz: Sequence[float]) -> list[float]:
    """The median over voiced frames of the pole nearest to each known formant; NaN if none."""
    poles = [frame for frame in formants_of(signal, rate)[0] if len(frame)]
    if not poles:
        return [float("nan")] * len(known_hz)
    return [
        float(np.median([frame[np.abs(frame - hz).argmin()] for frame in poles])) for hz in known_hz
    ]


def lag_samples(x: Signal, y: Signal, rate: int) -> int:
    """By how much y is late, 0 to a quarter of a second: where 20 ms envelopes fit best."""
    smooth = np.hanning(rate // 50)
    loud = [np.convolve(np.abs(one), smooth, "same") for one in (x, y)]
    n = len(x)
    a, b = (one - one.mean() for one in loud)
    match = scipy.signal.correlate(b, a[:n], "full", "fft")[n - 1 : n - 1 + rate // 4]
    return int(match.argmax())


def sharpest_bend(out: Signal) -> float:
    """The largest second difference past the first eighth: how hard the wave is bent."""
    return float(np.abs(np.diff(out[len(out) // 8 :], 2)).max())
