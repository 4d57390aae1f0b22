"""Owns the pitch tracker of the pitch engine: period, voicing and pulse phase of short windows.

What it says of a window depends on that window and, while voicing lasts, on the period before:
after the next unvoiced window a moved session's tracker agrees with that of the one that stayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Rows = NDArray[np.intp] | slice
"""Which slots: all of them as a slice, which copies nothing, or some by number."""

F0_MIN_HZ: Final = 60.0
F0_MAX_HZ: Final = 650.0
_ACF_RATE_HZ = 16000.0  # the autocorrelation is sampled at least this finely
_BAND_HZ = (60.0, 100.0, 1500.0, 2500.0)  # fade in, pass, fade out: where voicing is sought
_OCTAVE_COST = 0.1  # per octave of period: of two equal peaks the shorter period is right
_KEEP_BONUS = 0.12  # a peak near the previous period is this much likelier
_KEEP_OCTAVES = 0.25
_VOICED_ON = 0.6  # normalised autocorrelation at the peak: 1 is perfectly periodic
_VOICED_OFF = 0.42
_FOLD_HZ = 4500.0  # the rate at which the energy's place is sought, at least
_BAND_SHARE_MIN = 0.1  # of the window's power: a consonant's noise is elsewhere
_NO_OCTAVE = -99.0
_TINY = np.float32(1e-30)
_POWER_MIN = 3e-8  # mean square in the band below which a window is silence: -75 dBFS


@dataclass(frozen=True, slots=True)
class Pitch:
    """What was heard in one window: a pulse train of this period and phase, if it is voiced."""

    voiced: bool
    period_samples: float
    phase_cycles: float  # of the pulse train at the window's centre, [0, 1); 0 is on a pulse


class Tracker:
    """Autocorrelation pitch tracker with pulse phase, over windows centred half way.

    The autocorrelation of a Hann-windowed frame divided by that of the window (Boersma 1993,
    "Accurate short-term analysis of the fundamental frequency..."), band-limited in the
    spectrum, which costs no delay. The pulse phase is the angle of the first Fourier
    coefficient, at the found period, of the squared positive half wave: the circular centre of
    gravity of the energy within a period (after Stylianou 2001, "Removing linear phase
    mismatches in concatenative speech synthesis"), which needs no peak picking and no memory.
    """

    def __init__(self, slots: int, sample_rate: int, window: int, hop: int) -> None:
        """sample_rate in Hz; window and hop in samples, the window a multiple of the hop."""
        self.window = window
        lag_max = int(np.ceil(sample_rate / F0_MIN_HZ)) + 2
        nfft = scipy.fft.next_fast_len(window + lag_max, real=True)
        short = nfft
        if sample_rate > _ACF_RATE_HZ:
            short = scipy.fft.next_fast_len(int(np.ceil(nfft * _ACF_RATE_HZ / sample_rate)), True)
        self._nfft, self._short = nfft, short
        self._lag_samples = nfft / short  # input samples per step of the autocorrelation
        hann = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
        self._hann = hann.astype(np.float32)
        hz = np.arange(short // 2 + 1) * sample_rate / nfft
        band = np.interp(hz, _BAND_HZ, (0.0, 1.0, 1.0, 0.0))
        self._band = (band**2).astype(np.float32)
        own = scipy.fft.irfft(np.abs(scipy.fft.rfft(hann, nfft))[: short // 2 + 1] ** 2, short)
        self._first = int(np.floor(sample_rate / F0_MAX_HZ / self._lag_samples)) - 1
        self._last = int(np.ceil(sample_rate / F0_MIN_HZ / self._lag_samples)) + 2
        self._own = (own[0] / own[self._first : self._last]).astype(np.float32)
        lags = np.arange(self._first, self._last)[1:-1]
        self._octaves = np.log2(lags * self._lag_samples).astype(np.float32)
        self._cost = (_OCTAVE_COST * (self._octaves - self._octaves[0])).astype(np.float32)
        # The autocorrelation at lag 0 of a window of unit mean square, the Hann's loss undone.
        self._zero_min = _POWER_MIN * 0.375 * window * nfft / short
        self._band_share = np.float32(_BAND_SHARE_MIN * nfft / short)
        # The energy's first Fourier coefficient needs no more than a few kHz of rate.
        fold = max(d for d in range(1, hop + 1) if hop % d == 0 and sample_rate / d >= _FOLD_HZ)
        self._fold, self._fold_hop = fold, hop // fold
        count = window // fold
        at = np.arange(count) * fold + (fold - 1) / 2 - (window - 1) / 2
        self._at = at.astype(np.float32)
        self._fold_hann = hann.reshape(count, fold).mean(axis=1).astype(np.float32)
        self._fold_share = self._fold_hann / self._fold_hann.sum()
        self._energy = np.zeros((slots, count), np.float32)
        self._previous = np.full(slots, _NO_OCTAVE, np.float32)  # log2 of the period

    def open(self, slot: int) -> None:
        """Forget what the slot heard."""
        self._energy[slot] = 0
        self._previous[slot] = _NO_OCTAVE

    def analyse(self, heard: NDArray[np.float32], rows: Rows) -> list[Pitch]:
        """Measure the newest window of the chosen slots, which have moved on by one hop.

        heard: [slots, >= window]. All slots are transformed whatever the rows, since a
        transform's last bit depends on the batch, and a stream must not on its neighbours.
        """
        framed = heard[:, -self.window :] * self._hann
        spectrum = scipy.fft.rfft(framed, self._nfft)
        parts = spectrum[:, : self._band.size].view(np.float32)
        parts *= parts
        power = parts[:, ::2] + parts[:, 1::2]
        power *= self._band
        acf = scipy.fft.irfft(power, self._short)[rows]
        zero = acf[:, 0] + _TINY
        r = acf[:, self._first : self._last] * self._own
        r /= zero[:, None]
        mid = r[:, 1:-1]
        score = self._octaves - self._previous[rows, None]
        np.abs(score, out=score)
        score *= np.float32(-_KEEP_BONUS / _KEEP_OCTAVES)
        score += np.float32(_KEEP_BONUS)
        np.maximum(score, 0, out=score)
        score -= self._cost
        score += mid
        peaks = (mid >= r[:, :-2]) & (mid >= r[:, 2:])
        best = np.where(peaks, score, np.float32(-9)).argmax(axis=1)
        voiced: list[bool] = []
        periods: list[float] = []
        kept = self._previous[rows].tolist()
        whole = np.einsum("bn,bn->b", framed, framed)[rows] * self._band_share
        loud = (zero > np.maximum(whole, self._zero_min)).tolist()
        for row, at in enumerate(best.tolist()):
            left, peak, right = r[row, at : at + 3].tolist()
            bend = left - 2 * peak + right
            shift = max(-0.5, min(0.5, 0.5 * (left - right) / bend)) if bend < -1e-9 else 0.0
            periods.append((at + 1 + self._first + shift) * self._lag_samples)
            strength = peak - 0.25 * (left - right) * shift
            enough = _VOICED_ON if kept[row] == _NO_OCTAVE else _VOICED_OFF
            voiced.append(loud[row] and enough < strength and bool(peaks[row, at]))
        self._previous[rows] = [
            math.log2(period) if on else _NO_OCTAVE
            for on, period in zip(voiced, periods, strict=True)
        ]
        phases = self._phases(heard, rows, periods)
        return [Pitch(*one) for one in zip(voiced, periods, phases, strict=True)]

    def _phases(self, heard: NDArray[np.float32], rows: Rows, periods: list[float]) -> list[float]:
        new = self._fold_hop
        half = np.maximum(heard[rows, -new * self._fold :], 0)
        half *= half
        energy = self._energy[rows]
        energy[:, :-new] = energy[:, new:]
        energy[:, -new:] = half.reshape(-1, new, self._fold).sum(axis=2)
        self._energy[rows] = energy
        weighed = energy * self._fold_hann
        weighed -= weighed.sum(axis=1, keepdims=True) * self._fold_share
        turn = self._at * (2 * np.pi / np.array(periods, np.float32))[:, None]
        imag = np.einsum("bn,bn->b", weighed, np.sin(turn))
        real = np.einsum("bn,bn->b", weighed, np.cos(turn, out=turn))
        # A pulse at offset d from the centre has angle 2 pi d / period; the phase of the train
        # at the centre is minus that.
        return [
            (-math.atan2(y, x) / (2 * math.pi)) % 1.0
            for y, x in zip(imag.tolist(), real.tolist(), strict=True)
        ]
