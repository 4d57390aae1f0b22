"""Owns the nets of the kind *listen*, in torch: normalised log-mel features to scores.

- `small`, SmallVoiceNet: a 2-D net over a clip as a picture. It looks at whole clips only.
- `stream`: a causal depthwise-separable temporal convolutional net (S. Bai, J. Z. Kolter and
  V. Koltun, arXiv:1803.01271; separable as in A. Howard et al., arXiv:1704.04861). A frame's
  output depends on that frame and on those before it, so a stream can carry it hop by hop.

How `stream` pools over time: a clip's scores are of the mean over all its frames. A live stream
has no such end; its scores at frame t are of the mean over the last `window` frames, or of all
frames where there have been fewer. So a clip of up to `window` frames (1 s) has the very scores
that a stream has at its last frame. `sliding` gives the stream's scores of a whole clip.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from understudy.core.errors import ConfigError

NAMES: Final = ("small", "stream")
DILATIONS: Final = (1, 2, 4, 8, 1, 2, 4, 8)
TAPS: Final = 5
WINDOW: Final = 100  # frames: 1 s
SMALL_WIDTH: Final = 16
STREAM_WIDTH: Final = 64


class Net(nn.Module):
    """What both nets have: the configuration that rebuilds them, and the head.

    Input [batch, bands, frames]; output logits [batch, classes], or with `embedding` > 0 vectors
    of length 1, [batch, embedding], or with `per_frame` either with a last axis of frames.
    """

    def __init__(self, config: dict[str, Any], channels: int) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Linear(channels, config["embedding"] or config["classes"])

    def finish(self, pooled: Tensor) -> Tensor:
        """[..., channels] -> scores [..., classes or embedding]."""
        scores: Tensor = self.head(pooled)
        return functional.normalize(scores, dim=-1) if self.config["embedding"] else scores


class SmallVoiceNet(Net):
    """Three blocks of 3x3 convolution, batch norm, ReLU and max-pooling; the mean; a linear head.

    With 16-32-64 channels and 40 classes 26 k parameters. Needs 8 frames or more.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        widths = [1, *(config["width"] << n for n in range(3))]
        super().__init__(config, widths[-1])
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for before, after in pairwise(widths)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, features: Tensor) -> Tensor:
        return self.finish(self.pool(self.blocks(features[:, None])).flatten(1))


class SeparableBlock(nn.Module):
    """x + ReLU(BN(pointwise(ReLU(BN(depthwise(x)))))), causal: zeros stand before the start."""

    def __init__(self, channels: int, taps: int, dilation: int) -> None:
        super().__init__()
        self.past = (taps - 1) * dilation  # frames of its input that it looks back
        self.depthwise = nn.Conv1d(
            channels, channels, taps, dilation=dilation, groups=channels, bias=False
        )
        self.norm1 = nn.BatchNorm1d(channels)
        self.pointwise = nn.Conv1d(channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.pointwise(functional.relu(self.norm1(self.filtered(x))))
        return x + functional.relu(self.norm2(inner))

    def filtered(self, x: Tensor) -> Tensor:
        """The dilated convolution, as one without dilation over interleaved rows.

        On CPUs torch has a fast kernel only for that: training takes two thirds of the time.
        """
        batch, channels, frames = x.shape
        rows = self.depthwise.dilation[0]
        padded = functional.pad(x, (self.past, -frames % rows)).view(batch, channels, -1, rows)
        padded = padded.contiguous(memory_format=torch.channels_last)
        out = functional.conv2d(padded, self.depthwise.weight[..., None], groups=channels)
        return out.reshape(batch, channels, -1)[:, :, :frames]


class StreamNet(Net):
    """A pointwise stem, then one `SeparableBlock` for each of `DILATIONS`, then pooling."""

    def __init__(self, config: dict[str, Any]) -> None:
        channels = config["width"]
        super().__init__(config, channels)
        self.stem = nn.Conv1d(config["bands"], channels, 1, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.blocks = nn.ModuleList(SeparableBlock(channels, TAPS, d) for d in DILATIONS)
        self.window: int = config["window"]

    def hidden(self, features: Tensor) -> Tensor:
        """[batch, bands, frames] -> [batch, channels, frames]."""
        x = functional.relu(self.norm(self.stem(features)))
        for block in self.blocks:
            x = block(x)
        return x

    def sliding(self, features: Tensor) -> Tensor:
        """The scores of a stream: [batch, classes or embedding, frames]."""
        hidden = self.hidden(features)
        if self.window > 1:
            sums = functional.avg_pool1d(
                functional.pad(hidden, (self.window - 1, 0)), self.window, 1
            )
            seen = torch.arange(1, hidden.shape[2] + 1, device=hidden.device)
            hidden = sums * (self.window / seen.clamp(max=self.window).to(hidden.dtype))
        return self.finish(hidden.transpose(1, 2)).transpose(1, 2)

    def forward(self, features: Tensor) -> Tensor:
        if self.config["per_frame"]:
            return self.sliding(features)
        return self.finish(self.hidden(features).mean(2))


def build(
    name: str,
    classes: int,
    *,
    bands: int = 64,
    embedding: int = 0,
    per_frame: bool = False,
    width: int | None = None,
    window: int | None = None,
) -> Net:
    """A net with fresh weights; `build(**net.config)` makes its like.

    `embedding`: vectors of that length and no classes. `per_frame` (`stream` only): scores for
    every frame, as `sliding` has them. `width`: channels (16, doubled twice, for `small`; 64 for
    `stream`). `window`: frames that a stream's scores are of, by default 100, and 1 (each frame
    for itself) with `per_frame`. Raises ConfigError.
    """
    if name not in NAMES:
        raise ConfigError(f"there is no net {name!r}; there are {' and '.join(NAMES)}")
    if classes < 1 and embedding < 1:
        raise ConfigError("a net needs one class or more, or an embedding")
    if per_frame and name == "small":
        raise ConfigError("small looks at whole clips; scores for every frame need --net stream")
    small = name == "small"
    config = {
        "name": name,
        "classes": classes,
        "bands": bands,
        "embedding": embedding,
        "per_frame": per_frame,
        "width": width or (SMALL_WIDTH if small else STREAM_WIDTH),
        "window": window or (1 if per_frame else WINDOW),
    }
    return SmallVoiceNet(config) if small else StreamNet(config)
