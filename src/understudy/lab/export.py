"""Owns the way from a checkpoint to an ONNX file that serves itself, and the proof that it is
the same model: against torch, hop by hop against the whole, and front end inside against outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from torch import nn

from understudy.core.errors import ConfigError, ModelFailed
from understudy.lab import graph
from understudy.lab.checkpoint import Checkpoint
from understudy.lab.frontend import Floats, FrontEnd
from understudy.lab.metadata import Metadata
from understudy.lab.nets import StreamNet
from understudy.lab.runtime import Listener, Slots

MIN_FRAMES_SMALL: Final = 8  # its three poolings halve them
SAME: Final = 1e-4  # against torch's scores of the front end outside
SAME_STREAM: Final = 2e-5  # hop by hop against the whole
PUSHES: Final = (1, 1, 2, 1, 5, 1, 13)  # hops at once, around and around
PROOF_S: Final = 2.3
SLOTS: Final = 3


@dataclass(frozen=True, slots=True)
class Exported:
    path: Path
    metadata: Metadata
    size_bytes: int


def export(
    checkpoint: Checkpoint, out: Path, *, inside: bool = False, streaming: bool = False
) -> Exported:
    """Writes the ONNX file and proves it; one that is not the same model is not left behind.

    Raises ConfigError if the net cannot stream, ModelFailed if the file says something else than
    the checkpoint.
    """
    net: Any = checkpoint.net.eval()
    config = dict(net.config)
    weights = {k: v.detach().cpu().numpy() for k, v in net.state_dict().items()}
    if streaming:
        if not isinstance(net, StreamNet):
            raise ConfigError(
                f"{config['name']} looks at whole clips, so it cannot hear a stream hop by hop; "
                "train the net `stream`"
            )
        model, caches = graph.streaming(config, weights, checkpoint.frontend, inside)
    else:
        model, caches = graph.offline(config, weights, checkpoint.frontend, inside), {}
    metadata = Metadata(
        kind=checkpoint.kind,
        labels=checkpoint.labels,
        frontend=checkpoint.frontend,
        inside=inside,
        net=config,
        window_frames=checkpoint.window_frames,
        min_frames=MIN_FRAMES_SMALL if config["name"] == "small" else 1,
        data_hash=checkpoint.data_hash,
        caches=caches,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.new")
    try:
        write(model, metadata, fresh)
        metadata = replace(metadata, parity=prove(net, fresh))
        write(model, metadata, fresh)
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)
    return Exported(out, metadata, out.stat().st_size)


def write(model: onnx.ModelProto, metadata: Metadata, path: Path) -> None:
    onnx.helper.set_model_props(model, metadata.as_props())
    onnx.save(model, path)


def prove(net: nn.Module, path: Path) -> dict[str, float]:
    """The largest differences of scores (logits, or an embedding's entries), by what they are
    between. Raises ModelFailed where one is too large.

    Each is relative to the largest score, where that is above 1.
    """
    listener = Listener(path)
    audio = proof_audio(listener.frontend)
    features = torch.from_numpy(listener.frontend.batch(audio))
    streams = listener.metadata.streaming
    with torch.inference_mode():
        wanted = (net.sliding(features) if streams else net(features)).numpy()  # type: ignore[operator]
    whole = listener.raw(audio)
    loudest = max(1.0, float(np.abs(wanted).max()))
    found = {"torch": float(np.abs(whole - wanted).max()) / loudest}
    limits = {"torch": SAME}
    if streams:
        hops = hop_by_hop(listener, audio)
        found["stream"] = float(np.abs(hops - whole).max()) / loudest
        limits["stream"] = SAME_STREAM
    for what, limit in limits.items():
        if not found[what] <= limit:
            raise ModelFailed(
                f"the exported graph is not the checkpoint's net: {what} differs by "
                f"{found[what]:.1e}, over {limit:.0e}; please report this"
            )
    return found


def hop_by_hop(listener: Listener, audio: Floats) -> Floats:
    """Logits of a stream that gets the audio in pushes of changing length, a slot a row."""
    slots = Slots(listener, len(audio))
    pushes = [slots.raw(push) for push in _pushes(audio, listener.frontend.hop)]
    return np.concatenate(pushes, axis=2)


def _pushes(audio: Floats, hop: int) -> Iterator[Floats]:
    at, turn = 0, 0
    end = audio.shape[1] - audio.shape[1] % hop
    while at < end:
        size = min(PUSHES[turn % len(PUSHES)] * hop, end - at)
        yield np.ascontiguousarray(audio[:, at : at + size])
        at, turn = at + size, turn + 1


def proof_audio(frontend: FrontEnd) -> Floats:
    """What a proof hears: chirps under noise of changing loudness, and silence at both ends."""
    rng = np.random.default_rng(20)
    t = np.arange(int(PROOF_S * frontend.rate_hz)) / frontend.rate_hz
    rows = []
    for row in range(SLOTS):
        chirp = np.sin(2 * np.pi * (120.0 * (row + 1) + 400.0 * t) * t)
        loud = 10.0 ** (-3.0 + 2.5 * np.sin(2 * np.pi * (0.7 + 0.2 * row) * t) ** 2)
        rows.append(loud * (chirp + 0.3 * rng.standard_normal(len(t))))
    audio = np.clip(rows, -1.0, 1.0).astype(np.float32)
    audio[:, : frontend.rate_hz // 10] = 0.0
    audio[:, -frontend.rate_hz // 10 :] = 0.0
    return audio
