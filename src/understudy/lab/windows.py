"""Clips of any length as windows of one: what nets are trained and evaluated on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.lab.data import Features
from understudy.lab.frontend import FrontEnd


def place(
    clips: Sequence[Features], window: int, frontend: FrontEnd, at: NDArray[np.float64] | float
) -> Features:
    """Clips in windows: [clips, bands, window]. A longer one is cut, a shorter one lies in silence.

    `at`: where, 0 (early) to 1 (late), for each.
    """
    silence = (math.log(frontend.floor) - frontend.mean) / frontend.std
    out = np.full((len(clips), frontend.bands, window), silence, np.float32)
    where = np.broadcast_to(at, len(clips))
    for row, (clip, share) in enumerate(zip(clips, where, strict=True)):
        spare = clip.shape[1] - window
        begin = round(abs(spare) * float(share))
        if spare >= 0:
            out[row] = clip[:, begin : begin + window]
        else:
            out[row, :, begin : begin + clip.shape[1]] = clip
    return out


def window_of(clips: Sequence[Features]) -> int:
    """The frames of a window that holds nearly every clip: 0.2 s to 2 s at a hop of 10 ms."""
    longest = np.quantile([clip.shape[1] for clip in clips], 0.99)
    return int(np.clip(math.ceil(longest), 20, 200))
