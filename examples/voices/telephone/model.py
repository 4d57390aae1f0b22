"""An old telephone: 300 to 3400 Hz, pressed together and driven hard. The model to copy.

It is causal and streams: each slot keeps its own filter state, so a sentence sounds the same
however it is cut into steps, and all active slots are computed in one call.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from understudy.core.wire import Control

THRESHOLD = 0.05  # rms above which the compressor turns down (full scale is 1)
RATIO = 3.0  # 3 dB more in, 1 dB more out
POWER_TAU_S = 0.050  # how long the compressor remembers
DRIVE_TAU_S = 0.010  # how fast a slider is followed: a jump would click


class Telephone:
    """Band-pass, compressor, soft clipping. No lookahead, so no latency of its own."""

    def __init__(self, *, slots: int = 4, sample_rate: int = 24_000) -> None:
        """`slots` comes from voice.toml, everything else from its [options]. sample_rate in Hz."""
        if not 8_000 <= sample_rate <= 48_000:
            raise ValueError(f"sample_rate is {sample_rate}: give 8000 to 48000 Hz")
        # What the server must know of the model; all of it is there before load().
        self.slots = slots
        self.sample_rate = sample_rate
        self.frame = 1  # samples; filters take any number. A network takes its own hop: 320, say
        self.burst = sample_rate // 10  # frames in one step at most: a primed slot catches up fast
        self.latency_samples = 0  # filters only look back
        # How much recent input rebuilds a slot's state. The longest memory here is POWER_TAU_S:
        # after 20 of those nothing of what was before is left in a float32.
        self.context_s = 1.0
        self.alignment_samples = 1  # there is no grid inside; a network would say its hop
        self.controls: Mapping[str, Control] = {"drive": Control(0.0, 24.0, 6.0, "dB")}

    def load(self, device: str) -> None:
        """Everything slow belongs here, not into the constructor: weights, compiling, warming up.

        Open files beside this one by Path(__file__).parent / "weights.npz".
        """
        if device != "cpu":
            raise ValueError(f"the telephone runs on 'cpu', not on {device!r}")
        self._band = scipy.signal.butter(
            3,
            (300.0, min(3400.0, 0.45 * self.sample_rate)),
            "bandpass",
            fs=self.sample_rate,
            output="sos",
        )
        # The state of all slots in one array each, slots first: rows are picked in one go.
        self._band_state = np.zeros((self.slots, len(self._band), 2))
        self._power = np.zeros(self.slots)  # mean square of what comes out of the band-pass
        self._drive = np.ones(self.slots)  # the factor now ...
        self._drive_to = np.ones(self.slots)  # ... and where the slider is

    def open(self, slot: int, params: Mapping[str, float]) -> None:
        """A new session in this slot, from silence: forget everything of the last one."""
        self._band_state[slot] = 0.0
        self._power[slot] = 0.0
        self.set_params(slot, {"drive": self.controls["drive"].default, **params})
        self._drive[slot] = self._drive_to[slot]  # nothing was heard yet, so nothing can click

    def set_params(self, slot: int, params: Mapping[str, float]) -> None:
        """Only what changes is given. ValueError: what the user may read as the reason."""
        for name, value in params.items():
            if name != "drive":
                raise ValueError(f"the telephone has no {name!r}, only 'drive'")
            self._drive_to[slot] = 10.0 ** (value / 20.0)

    def step(self, frames: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """frames: float32 [slots, n * frame] in -1..1; active: bool [slots]. As much comes back.

        Rows that are not active hold zeros; their state stays as it is, and nobody reads what
        is returned for them.
        """
        rows = np.flatnonzero(active)
        # scipy wants the state as [sections, rows, 2].
        state = self._band_state[rows].transpose(1, 0, 2)
        band, state = scipy.signal.sosfilt(self._band, frames[rows], zi=state)
        self._band_state[rows] = state.transpose(1, 0, 2)

        power = self._follow(self._power, rows, band**2, POWER_TAU_S)
        loud = np.sqrt(np.maximum(power, 0.0)) / THRESHOLD
        pressed = band * np.maximum(loud, 1.0) ** (1.0 / RATIO - 1.0)

        target = np.broadcast_to(self._drive_to[rows, None], band.shape)
        drive = self._follow(self._drive, rows, target, DRIVE_TAU_S)
        out = np.zeros_like(frames)
        out[rows] = 0.5 * np.tanh(pressed * drive)
        return out

    def _follow(
        self,
        level: NDArray[np.float64],
        rows: NDArray[np.intp],
        target: NDArray[np.float64],
        tau_s: float,
    ) -> NDArray[np.float64]:
        """A one-pole low-pass over target [rows, n]; goes on from level[rows], and leaves it
        where the last sample did. Sample by sample, so steps of any length give the same."""
        keep = np.exp(-1.0 / (tau_s * self.sample_rate))
        followed, _ = scipy.signal.lfilter(
            [1.0 - keep], [1.0, -keep], target, zi=keep * level[rows, None]
        )
        level[rows] = followed[:, -1]
        return np.asarray(followed)
