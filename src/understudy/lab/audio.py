"""Any audio file as mono float32 at one rate, and what makes a recording unfit to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from understudy.core.errors import ConfigError

SUFFIXES: Final = frozenset(
    f".{name.lower()}" for name in (*soundfile.available_formats(), "oga", "opus", "aif", "mpga")
)
MIN_S: Final = 0.1
SILENT_DBFS: Final = -60.0
CLIPPED_SHARE: Final = 0.001  # of samples that lie in runs of three at the peak

Audio = NDArray[np.float32]


class Unfit(Exception):
    """A recording that is left out, with the reason."""


def read(path: Path, rate_hz: int) -> Audio:
    """Mono samples at `rate_hz` (soxr HQ), within ±1. Raises Unfit."""
    samples, from_hz = _decode(path)
    return resample(samples, from_hz, rate_hz)


def read_fit(path: Path, rate_hz: int) -> Audio:
    """As `read`, but refuses what nobody can learn from. Raises Unfit."""
    samples, from_hz = _decode(path)
    duration_s = len(samples) / from_hz
    if duration_s < MIN_S:
        raise Unfit(f"too short: {duration_s * 1000:.0f} ms, under {MIN_S * 1000:.0f} ms")
    if not np.isfinite(samples).all():
        raise Unfit("unreadable: samples that are no numbers")
    level = 10 * np.log10(float(np.mean(np.square(samples, dtype=np.float64))) + 1e-20)
    if level < SILENT_DBFS:
        raise Unfit(f"silent: {max(level, -200.0):.0f} dBFS, under {SILENT_DBFS:.0f} dBFS")
    share = clipped_share(samples)
    if share > CLIPPED_SHARE:
        raise Unfit(f"clipped: {share:.1%} of samples are cut off at the peak")
    return resample(samples, from_hz, rate_hz)


def clipped_share(samples: Audio) -> float:
    """The share of samples in runs of three or more at the peak; 0 where the peak is low."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < 0.5:
        return 0.0
    at_peak = np.abs(samples) >= 0.999 * peak
    return float(np.mean(at_peak[2:] & at_peak[1:-1] & at_peak[:-2]))


def resample(samples: Audio, from_hz: int, to_hz: int) -> Audio:
    if from_hz == to_hz:
        return samples
    return np.asarray(soxr.resample(samples, from_hz, to_hz, quality="HQ"), np.float32)


def find(folder: Path) -> list[Path]:
    """All audio files under a folder, by name, except hidden ones. Raises ConfigError."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _decode(path: Path) -> tuple[Audio, int]:
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise Unfit(f"unreadable: {error}") from None
    return np.asarray(samples.mean(axis=1), np.float32), int(rate_hz)
