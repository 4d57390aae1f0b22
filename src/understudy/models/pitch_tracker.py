"""Owns the pitch tracker of the pitch engine: period, voicing and pulse phase of short windows.

Stateless but for the previous period, which is handed in, so that what the tracker says is a
function of the last 40 ms or so of input and a moved session agrees with the one that stayed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

F0_MIN_HZ = 60.0
F0_MAX_HZ = 650.0
_ACF_RATE_HZ = 16000.0  # the autocorrelation is sampled at least this finely
_BAND_HZ = (60.0, 100.0, 1500.0, 2500.0)  # fade in, pass, fade out: where voicing is sought
_OCTAVE_COST = 0.1  # per octave of period: of two equal peaks the shorter period is right
_KEEP_BONUS = 0.12  # a peak near the previous period is this much likelier
_KEEP_OCTAVES = 0.25
_VOICED_ON = 0.55  # normalised autocorrelation at the peak: 1 is perfectly periodic
_VOICED_OFF = 0.42
_POWER_MIN = 3e-8  # mean square in the band below which a window is silence: -75 dBFS


@dataclass(frozen=True, slots=True)
class Pitch:
    """What the tracker heard in one batch of windows. All arrays are float64 [rows]."""

    period_samples: NDArray[np.float64]
    voiced: NDArray[np.bool_]
    phase_cycles: NDArray[np.float64]  # of the pulse train at the window's centre, [0, 1)
    strength: NDArray[np.float64]


class Tracker:
    """Autocorrelation pitch tracker with pulse phase, over windows centred half way.

    The autocorrelation of a Hann-windowed frame divided by that of the window (Boersma 1993,
    "Accurate short-term analysis of the fundamental frequency..."), band-limited in the
    spectrum, which costs no delay. The pulse phase is the angle of the first Fourier
    coefficient, at the found period, of the squared positive half wave: the circular centre of
    gravity of the energy within a period (after Stylianou 2001, "Removing linear phase
    mismatches in concatenative speech synthesis"), which needs no peak picking and no memory.
    """

    def __init__(self, sample_rate: int, window: int) -> None:
        """window: samples, even; sample_rate: Hz."""
        self.window = window
        self.sample_rate = sample_rate
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
        self._power = 1.0 / (0.375 * window * nfft) * 2.0
        # The energy's first Fourier coefficient needs no more than a few kHz of rate.
        self._fold = max(1, sample_rate // 8000)
        self._fold_n = window // self._fold
        centre = (window - 1) / 2
        at = np.arange(self._fold_n) * self._fold + (self._fold - 1) / 2 - centre
        self._at = at.astype(np.float32)
        self._fold_hann = np.interp(at + centre, np.arange(window), hann).astype(np.float32)
        self._fold_share = self._fold_hann / self._fold_hann.sum()

    def analyse(
        self,
        windows: NDArray[np.float32],
        rows: NDArray[np.intp] | slice,
        previous_samples: NDArray[np.float64],
    ) -> Pitch:
        """Measure windows[rows] ([slots, window]); previous_samples [len(rows)], 0 if unvoiced.

        All slots are transformed whatever the rows, since a transform's last bit depends on
        the batch, and a stream must not depend on its neighbours.
        """
        spectrum = scipy.fft.rfft(windows * self._hann, self._nfft)
        parts = spectrum[:, : self._band.size].view(np.float32)
        parts *= parts
        power = parts[:, ::2] + parts[:, 1::2]
        power *= self._band
        acf = scipy.fft.irfft(power, self._short)[rows]
        zero = acf[:, 0].astype(np.float64) + 1e-30
        r = acf[:, self._first : self._last] * self._own
        r *= (1 / zero).astype(np.float32)[:, None]
        mid = r[:, 1:-1]
        score = mid - self._cost
        known = previous_samples > 0
        if known.any():
            near = self._octaves - np.log2(np.where(known, previous_samples, 1e-9)).astype(
                np.float32
            )[:, None]
            np.abs(near, out=near)
            near *= np.float32(-_KEEP_BONUS / _KEEP_OCTAVES)
            near += np.float32(_KEEP_BONUS)
            score += np.maximum(near, 0, out=near)
        score[(mid < r[:, :-2]) | (mid < r[:, 2:])] = -1
        best = score.argmax(axis=1)
        row = np.arange(best.size)
        left, peak, right = (r[row, best + k].astype(np.float64) for k in range(3))
        bend = left - 2 * peak + right
        shift = np.where(bend < -1e-9, 0.5 * (left - right) / np.where(bend < -1e-9, bend, 1), 0.0)
        shift = np.clip(shift, -0.5, 0.5)
        period = (best + 1 + self._first + shift) * self._lag_samples
        strength = peak - 0.25 * (left - right) * shift
        loud = zero * self._power * (self._short / self._nfft) * self._nfft > _POWER_MIN
        voiced = (strength > np.where(known, _VOICED_OFF, _VOICED_ON)) & loud
        voiced &= score[row, best] > -1
        return Pitch(period, voiced, self._phase(windows[rows], period), strength)

    def _phase(
        self, windows: NDArray[np.float32], period: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        half = np.maximum(windows, 0)
        half *= half
        if self._fold > 1:
            n = self._fold_n
            half = half[:, : n * self._fold].reshape(-1, n, self._fold).sum(axis=2)
        half *= self._fold_hann
        half -= half.sum(axis=1, keepdims=True) * self._fold_share
        turn = self._at * (2 * np.pi / period).astype(np.float32)[:, None]
        imag = np.einsum("bn,bn->b", half, np.sin(turn))
        real = np.einsum("bn,bn->b", half, np.cos(turn, out=turn))
        # A pulse at offset d from the centre has angle 2 pi d / period; the phase of the train
        # at the centre is minus that.
        return np.mod(-np.arctan2(imag, real).astype(np.float64) / (2 * np.pi), 1.0)
