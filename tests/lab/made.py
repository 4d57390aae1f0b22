"""Nets with random weights and lived-in batch norms, and audio that has loud and quiet parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.lab.checkpoint import Checkpoint
from understudy.lab.frontend import Floats, FrontEnd
from understudy.lab.nets import build

LABELS = ("yes", "no", "stop")


def checkpoint(name: str = "stream", *, window_frames: int = 0, **options: Any) -> Checkpoint:
    torch.manual_seed(11)
    net = build(name, len(LABELS), **options).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0.0, 0.3)
    kind = "embedding" if options.get("embedding") else "labels"
    kind = "frames" if options.get("per_frame") else kind
    return Checkpoint(net, LABELS, FrontEnd(), kind, "d4ta", window_frames)


def audio(seconds: float = 1.0, rows: int = 1, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 16000)) / 16000
    tones = np.sin(2 * np.pi * (200 + 300 * t) * t) * rng.uniform(0.5, 1.5, (rows, 1))
    loud = 0.3 * np.sin(2 * np.pi * 1.3 * t) ** 4
    made = loud * (tones + 0.2 * rng.standard_normal((rows, len(t))))
    return np.asarray(made, np.float32)
