"""Speech for tests: recorded where there is some, else synthesised here."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from understudy.bench.machine import find_audio
from understudy.bench.recordings import load_pcm


@functools.cache
def speech(rate_hz: int, seconds: float = 20.0) -> NDArray[np.int16]:
    return load_pcm(find_audio(None), rate_hz, seconds)
