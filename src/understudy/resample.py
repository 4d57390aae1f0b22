"""The resampler of every stream: soxr's variable-rate engine, which has the least delay.

soxr's constant-rate engine works on blocks of ~40 ms each way; the variable-rate one needs 5 to
30 ms, at over 110 dB. It places samples up to two away from where they belong, though, by an
amount that depends on the two rates only: measured here once for each pair, and taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Calibration:
    shift: int  # output samples by which the engine is late (cut) or early (padded)
    shortfall_s: float


class SoxrResampler:
    """int16 mono in and out; output sample k lies where input sample k·in/out did."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        calibration = calibrate(from_hz, to_hz)
        self.shortfall_s = calibration.shortfall_s
        self._cut = max(0, calibration.shift)
        self._pad = max(0, -calibration.shift)
        self._engine = _engine(from_hz, to_hz)

    def push(self, pcm: bytes) -> bytes:
        samples = np.frombuffer(pcm, np.int16).astype(np.float32)
        out = self._engine.resample_chunk(samples)
        if self._cut:
            cut = min(self._cut, len(out))
            self._cut -= cut
            out = out[cut:]
        if self._pad:
            out = np.concatenate([np.zeros(self._pad, np.float32), out])
            self._pad = 0
        whole: NDArray[np.int16] = np.clip(np.rint(out), -32768, 32767).astype(np.int16)
        return whole.tobytes()


def _engine(from_hz: int, to_hz: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="VHQ", vr=True)


@cache
def calibrate(from_hz: int, to_hz: int) -> Calibration:
    """Measures a pair of rates: where a tone's phase ends up, and how far output falls behind."""
    tone_hz = 997.0
    tone = np.sin(2 * np.pi * tone_hz * np.arange(from_hz // 2) / from_hz).astype(np.float32)
    engine = _engine(from_hz, to_hz)
    chunk = max(1, from_hz // 1000)
    behind = 0.0
    parts: list[NDArray[np.float32]] = []
    made = 0
    for at in range(0, len(tone) - chunk, chunk):
        part = engine.resample_chunk(tone[at : at + chunk])
        parts.append(part)
        made += len(part)
        behind = max(behind, (at + chunk) / from_hz - made / to_hz)
    out = np.concatenate(parts)
    settled = slice(len(out) // 3, len(out))
    angle = 2 * np.pi * tone_hz * np.arange(len(out))[settled] / to_hz
    (sine, cosine), *_ = np.linalg.lstsq(
        np.stack([np.sin(angle), np.cos(angle)], axis=1), out[settled], rcond=None
    )
    late = -np.arctan2(cosine, sine) / (2 * np.pi * tone_hz) * to_hz
    shift = round(float(late))
    # The cut samples come later still; a margin of two covers chunks that end elsewhere.
    return Calibration(shift, behind + (max(0, shift) + 2) / to_hz)
