"""Owns the front end: audio to normalised log-mel features, the same in training and in serving.

NumPy and SciPy only. What is computed, frame by frame:

1. Causal framing: frame t is the `fft` samples that end at (t + 1)·hop, zeros before the start.
   So nothing waits for audio to come, and a stream has the frames that the file has.
2. A periodic Hann window, the power spectrum |X|² of a real FFT in float32.
3. `bands` triangular filters of height 1, evenly spaced on the HTK mel scale,
   m = 2595·log10(1 + f/700) (S. Young et al., The HTK Book, version 3.4, section 5.4).
4. The natural logarithm of power + `floor`, then (x - mean) / std with fixed statistics:
   normalising each utterance by itself needs its end, which a stream does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from scipy.fft import rfft
from scipy.sparse import csr_array

from understudy.core.errors import ConfigError

Floats = NDArray[np.float32]

HTK_SCALE: Final = 2595.0
HTK_CORNER_HZ: Final = 700.0


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """The constants of one front end. A model is good only with the one it was trained with.

    `mean` and `std` are of the log-mel features over the training data (`statistics`); the
    defaults are near those of recorded speech.
    """

    rate_hz: int = 16000
    fft: int = 400  # samples: window and transform
    hop: int = 160  # samples
    bands: int = 64
    low_hz: float = 60.0
    high_hz: float = 7800.0
    floor: float = 1e-6  # power; a full-scale sine has fft²/16, 16-bit rounding 1e-8
    mean: float = -6.0
    std: float = 4.5

    def __post_init__(self) -> None:
        if self.fft % 2 or not 0 < self.hop <= self.fft:
            raise ConfigError(
                f"fft is {self.fft} and hop {self.hop}; fft must be even, hop 1 to fft"
            )
        if not 0 <= self.low_hz < self.high_hz <= self.rate_hz / 2:
            raise ConfigError(
                f"low_hz and high_hz are {self.low_hz:g} and {self.high_hz:g}; "
                f"they must rise and lie within 0 and {self.rate_hz / 2:g}"
            )
        if self.bands < 1 or self.floor <= 0 or self.std <= 0:
            raise ConfigError("bands, floor and std must be above zero")

    def frames(self, samples: int) -> int:
        """How many frames that many samples have: every full hop is one."""
        return samples // self.hop

    def features(self, audio: Floats) -> Floats:
        """float32[samples] in -1..1 -> float32[bands, frames]."""
        rows = self.batch(audio[None])
        one: Floats = rows[0]
        return one

    def batch(self, audio: Floats) -> Floats:
        """float32[batch, samples] -> float32[batch, bands, frames]."""
        rows, samples = audio.shape
        frames, lead = self.frames(samples), self.fft - self.hop
        padded = np.empty((rows, lead + frames * self.hop), np.float32)
        padded[:, :lead] = 0.0
        padded[:, lead:] = audio[:, : frames * self.hop]
        return _log_mel(self, padded, frames)

    def log_mel(self, audio: Floats) -> Floats:
        """`features` before normalisation: what `mean` and `std` are statistics of."""
        found: Floats = self.features(audio) * np.float32(self.std) + np.float32(self.mean)
        return found

    def as_metadata(self) -> dict[str, int | float]:
        """The constants, as JSON knows them."""
        return asdict(self)

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> FrontEnd:
        """Of `as_metadata`. Raises ConfigError where a constant is missing or unknown."""
        known: dict[str, Any] = {
            field.name: int if field.type == "int" else float for field in fields(cls)
        }
        if odd := known.keys() ^ values.keys():
            raise ConfigError(f"a front end has exactly {', '.join(known)}; check {sorted(odd)}")
        return cls(**{name: kind(values[name]) for name, kind in known.items()})


class Streaming:
    """The front end of live streams, one per slot: a hop of samples in, a frame out.

    Its frames are those of `FrontEnd.features` on the whole of a slot's audio.
    """

    def __init__(self, frontend: FrontEnd, slots: int = 1) -> None:
        self.frontend = frontend
        self._lead = frontend.fft - frontend.hop
        self._kept = np.zeros((slots, self._lead), np.float32)
        self._room = np.zeros((slots, frontend.fft), np.float32)

    def reset(self, slot: int) -> None:
        """The slot's stream starts anew."""
        self._kept[slot] = 0.0

    def step(self, audio: Floats, active: NDArray[np.bool_] | None = None) -> Floats:
        """audio [slots, n·hop] -> features [slots, bands, n].

        A slot that is not active keeps its past; its rows of the result mean nothing.
        """
        samples = audio.shape[1]
        frames = samples // self.frontend.hop
        if active is not None and not active.all():
            rows = np.flatnonzero(active)
            some = np.concatenate([self._kept[rows], audio[rows]], axis=1)
            self._kept[rows] = some[:, samples:]
            out = np.zeros((len(audio), self.frontend.bands, frames), np.float32)
            out[rows] = _log_mel(self.frontend, some, frames)
            return out
        lead, room = self._lead, self._room
        if room.shape[1] != lead + samples:
            room = self._room = np.empty((len(audio), lead + samples), np.float32)
        room[:, :lead] = self._kept
        room[:, lead:] = audio
        self._kept[:] = room[:, samples:]
        return _log_mel(self.frontend, room, frames)


def hz_to_mel(hz: Any) -> Any:
    return HTK_SCALE * np.log10(1.0 + np.asarray(hz, np.float64) / HTK_CORNER_HZ)


def mel_to_hz(mel: Any) -> Any:
    return HTK_CORNER_HZ * (10.0 ** (np.asarray(mel, np.float64) / HTK_SCALE) - 1.0)


@lru_cache(maxsize=16)
def window(frontend: FrontEnd) -> Floats:
    """The periodic Hann window, [fft]."""
    n = np.arange(frontend.fft)
    return np.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * n / frontend.fft), np.float32)


@lru_cache(maxsize=16)
def filters(frontend: FrontEnd) -> Floats:
    """The mel filters, [bands, fft/2 + 1]: triangles over frequency in Hz."""
    bins_hz = np.arange(frontend.fft // 2 + 1) * (frontend.rate_hz / frontend.fft)
    ends = hz_to_mel([frontend.low_hz, frontend.high_hz])
    corners = mel_to_hz(np.linspace(ends[0], ends[1], frontend.bands + 2))
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (bins_hz - low) / (peak - low), (high - bins_hz) / (high - peak)
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)), np.float32)


def span(frontend: FrontEnd) -> slice:
    """The bins of the spectrum that some filter hears."""
    heard = np.flatnonzero(filters(frontend).any(axis=0))
    if not len(heard):
        raise ConfigError("no filter hears anything; widen low_hz..high_hz or lengthen fft")
    return slice(int(heard[0]), int(heard[-1]) + 1)


@lru_cache(maxsize=16)
def _constants(frontend: FrontEnd) -> tuple[Floats, slice, Any, np.float32, np.float32]:
    """(window, bins, filters over these bins, scale, shift): all that `_log_mel` needs.

    The filters are sparse, 2 of 64 weights a bin. So they take a fifth of a dense product's time,
    and no BLAS, whose threads would wait for each other while other streams need the cores.
    """
    bins = span(frontend)
    return (
        window(frontend),
        bins,
        csr_array(filters(frontend)[:, bins]),
        np.float32(1.0 / frontend.std),
        np.float32(-frontend.mean / frontend.std),
    )


def _log_mel(frontend: FrontEnd, padded: Floats, frames: int) -> Floats:
    """Rows that start fft - hop samples early, contiguous -> [rows, bands, frames]."""
    shape, bins, mel, scale, shift = _constants(frontend)
    rows, (row, sample) = len(padded), padded.strides
    if not rows * frames:
        return np.zeros((rows, frontend.bands, frames), np.float32)
    if frames == 1:  # the hop of a live stream: nothing that it does not need
        cut = padded[:, None]
    else:
        size, strides = (rows, frames, frontend.fft), (row, frontend.hop * sample, sample)
        cut = as_strided(padded, size, strides, writeable=False)
    spectrum = rfft(cut * shape, overwrite_x=True)[..., bins].reshape(rows * frames, -1)
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    out: Floats = mel @ np.ascontiguousarray(power.T)
    out += np.float32(frontend.floor)
    np.log(out, out=out)
    out *= scale
    out += shift
    return np.ascontiguousarray(out.reshape(frontend.bands, rows, frames).swapaxes(0, 1))


def statistics(frontend: FrontEnd, clips: Any) -> tuple[float, float]:
    """(mean, std) of the log-mel features over an iterable of float32[samples]."""
    count, total, squares = 0, 0.0, 0.0
    for clip in clips:
        found = frontend.log_mel(clip).astype(np.float64)
        count += found.size
        total += float(found.sum())
        squares += float(np.square(found).sum())
    if not count:
        raise ConfigError("there is no audio to take statistics of; give at least one clip")
    mean = total / count
    return mean, max(squares / count - mean * mean, 1e-12) ** 0.5
