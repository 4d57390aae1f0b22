"""A model of any form, opened to be evaluated: a checkpoint, or an exported ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.lab.evaluation import Listener
from understudy.lab.metrics import Scores

SMALLEST = 1e-12


def open_model(path: Path, threads: int = 1) -> Listener:
    """Raises ConfigError where it is neither."""
    if path.suffix == ".onnx":
        return _open_onnx(path, threads)
    from understudy.lab import checkpoint, listen

    return listen.listener_of(checkpoint.load(path), str(path))


def _open_onnx(path: Path, threads: int) -> Listener:
    from understudy.lab.runtime import Listener as Exported

    found = Exported(path, threads)
    about = found.metadata

    def hear(audio: NDArray[np.float32]) -> Scores:
        scores: Scores = found.label_batch(audio)
        return scores if about.kind == "embedding" else np.log(np.maximum(scores, SMALLEST))

    return Listener(
        about.kind,
        about.labels,
        about.frontend,
        about.window_frames,
        None,
        str(path),
        about.data_hash,
        hear=hear,
    )
