"""Owns the grains of the pitch engine: cutting, resampling, windowing and overlap-adding them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.models.pitch_tracker import Rows

_TAPS: Final = 24  # of the 2x interpolator; its look-ahead is half of them
_ONE, _HALF, _THIRD, _SIXTH, _PI = (np.float32(v) for v in (1, 1 / 2, 1 / 3, 1 / 6, np.pi))


@dataclass(frozen=True, slots=True)
class Grain:
    """Input about `source`, `half` to either side, laid about the output time `centre`.

    Times in samples, relative to the end of the input; it is read `ratio` times as fast and
    multiplied by `gain`.
    """

    slot: int
    centre: float
    source: float
    half: float
    ratio: float
    gain: float


class Grains:
    """Per-slot stores of input at twice the rate, and of output that still grows.

    Times are samples at the stream's rate, relative to the end of the input read so far: all
    of them are negative, and none depends on how long the stream has run.
    """

    def __init__(self, slots: int, hop: int, latency: int, left_max: int) -> None:
        """All sizes in samples; left_max: the longest rising half of a grain in the output."""
        self._hop, self._latency, self._left_max = hop, latency, left_max
        self._keep = 2 * 12 * hop  # 60 ms of input at twice the rate
        self._up = np.zeros((slots, self._keep), np.float32)
        self._taps = np.zeros((slots, _TAPS, 2), np.float32)
        self._sum = np.zeros((slots, latency + 4 * hop), np.float32)
        self._recent = np.zeros((slots, hop + _TAPS - 1), np.float32)
        self._windows = np.lib.stride_tricks.sliding_window_view(self._recent, _TAPS, axis=1)
        self._step = np.arange(latency + 4 * hop, dtype=np.float32)
        self._room = 4.0 * hop - 2  # the latest time a grain may reach
        self._newest = -(_TAPS // 2) - 1.0  # the time of the last even sample in _up
        for slot in range(slots):
            self.set_formant(slot, 1.0)

    def open(self, slot: int) -> None:
        """Forget what the slot heard."""
        self._up[slot] = 0
        self._sum[slot] = 0

    def set_formant(self, slot: int, ratio: float) -> None:
        """Band-limit what is stored from now on so that reading it `ratio` faster aliases not."""
        at = np.arange(_TAPS) - (_TAPS // 2 - 1)
        distance = np.stack([at, at - 0.5], axis=1)
        cut = min(1.0, 1.0 / ratio)
        window = np.cos(np.pi * distance / (_TAPS + 1)) ** 2
        taps = cut * np.sinc(cut * distance) * window
        self._taps[slot] = taps / taps.sum(axis=0)

    def read(self, rows: Rows, recent: NDArray[np.float32]) -> None:
        """Take in one hop; recent: [slots, >= hop + 23], the newest input of every slot.

        All slots are filtered whatever the rows, so that a stream's last bit does not depend
        on its neighbours.
        """
        self._recent[:] = recent[:, -self._recent.shape[1] :]
        new = np.matmul(self._windows, self._taps).reshape(self._taps.shape[0], 2 * self._hop)
        size = 2 * self._hop
        self._up[rows, :-size] = self._up[rows, size:]
        self._up[rows, -size:] = new[rows]

    def add(self, grains: list[Grain]) -> None:
        """Read each grain out of its slot's store and add it to its slot's output.

        A half that is not there yet, or whose place has been sent already, is made shorter.
        """
        cut = []
        columns = []
        for grain in grains:
            ratio = grain.ratio
            left = min(grain.half / ratio, self._left_max)
            right = min(grain.half, self._newest - 1.0 - grain.source) / ratio
            right = max(min(right, self._room - grain.centre), 1.0)
            first = math.ceil(grain.centre - left)
            lead = first - grain.centre
            # Where in the store it starts: whole part apart, or float32 would be too short.
            place = (grain.source + lead * ratio - self._newest) * 2 + (self._keep - 2)
            whole = math.floor(place)
            size = math.floor(grain.centre + right) - first + 1
            cut.append((grain.slot, first + self._latency, size, whole + grain.slot * self._keep))
            columns.append(
                (2 * ratio, place - whole, lead, math.pi / right, -math.pi / left, grain.gain / 2)
            )
        speed, part, lead_in, fall, rise, gain = np.array(columns, np.float32).T[:, :, None]
        start = np.array([one[3] - 1 for one in cut])[:, None]
        step = self._step[: max(one[2] for one in cut)]
        f = step * speed
        f += part
        index = f.astype(np.intp)
        f -= index
        index += start
        flat = self._up.reshape(-1)
        before = flat.take(index, mode="clip")
        index += 1
        here = flat.take(index, mode="clip")
        index += 1
        after = flat.take(index, mode="clip")
        index += 1
        later = flat.take(index, mode="clip")
        # Four-point Lagrange interpolation in Horner's form, with d the differences to `here`.
        before -= here
        after -= here
        later -= here
        curve = before + after
        curve *= _HALF
        samples = later - before
        samples *= _SIXTH
        slope = after * _HALF
        samples -= slope
        slope += slope
        before *= _THIRD
        slope -= before
        later *= _SIXTH
        slope -= later
        samples *= f
        samples += curve
        samples *= f
        samples += slope
        samples *= f
        samples += here
        offset = step + lead_in
        turn = offset * fall
        offset *= rise
        np.maximum(turn, offset, out=turn)
        np.minimum(turn, _PI, out=turn)
        np.cos(turn, out=turn)
        turn += _ONE
        turn *= gain
        samples *= turn
        for one, (slot, at, size, _) in zip(samples, cut, strict=True):
            self._sum[slot, at : at + size] += one[:size]

    def take(self, rows: Rows) -> NDArray[np.float32]:
        """The oldest hop of the sums, [rows, hop], which no later grain can reach."""
        hop = self._hop
        out = self._sum[rows, :hop].copy()
        self._sum[rows, :-hop] = self._sum[rows, hop:]
        self._sum[rows, -hop:] = 0
        return out
