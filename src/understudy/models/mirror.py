"""A model that changes nothing: for measuring everything around a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from understudy.core.wire import Control


class MirrorModel:
    """Output equals input, sample for sample, with no latency of its own."""

    def __init__(self, *, slots: int = 4) -> None:
        self.slots = slots
        self.sample_rate = 0  # any
        self.frame = 1
        self.burst = 48_000
        self.latency_samples = 0
        self.context_s = 0.0
        self.alignment_samples = 1
        self.controls: Mapping[str, Control] = {}

    def load(self, device: str) -> None:
        pass

    def open(self, slot: int, params: Mapping[str, float]) -> None:
        self.set_params(slot, params)

    def set_params(self, slot: int, params: Mapping[str, float]) -> None:
        if params:
            raise ValueError("the mirror takes no params")

    def step(self, frames: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        return frames * active[:, None]
