"""A checkpoint: a folder with the weights and everything that makes a listener of them.

best.safetensors   the weights of the best epoch
last.safetensors   the weights of the last one
model.json         the net's configuration, labels, front end, window, data hash, settings
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from understudy.core.errors import ConfigError
from understudy.lab import nets
from understudy.lab.frontend import FrontEnd

CARD: Final = "model.json"
BEST: Final = "best.safetensors"
LAST: Final = "last.safetensors"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained net and what it needs to hear.

    `labels`: names of the net's outputs, in order (of the training speakers, for an embedding).
    `kind`: "labels", "embedding", or "frames" (a label for every frame).
    `window_frames`: the frames of a training clip; what is heard is padded or cut to as many.
    """

    net: nets.Net
    labels: tuple[str, ...]
    frontend: FrontEnd
    kind: str
    data_hash: str
    window_frames: int
    settings: Mapping[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, name: str = BEST) -> None:
    """Writes the weights as `name` and the card beside them; neither is ever seen half written."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous() for key, value in checkpoint.net.state_dict().items()}
    write_tensors(folder / name, tensors)
    card = {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "net": dict(checkpoint.net.config),
        "labels": list(checkpoint.labels),
        "frontend": checkpoint.frontend.as_metadata(),
        "window_frames": checkpoint.window_frames,
        "data_hash": checkpoint.data_hash,
        "settings": dict(checkpoint.settings),
    }
    write_text(folder / CARD, json.dumps(card, indent=2) + "\n")


def load(path: Path) -> Checkpoint:
    """The checkpoint in a folder (its best weights, else its last), or of one .safetensors file.

    The net is in evaluation mode, on the CPU. Raises ConfigError.
    """
    folder, weights = _locate(path)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        net = nets.build(**card["net"])
        net.load_state_dict(load_file(weights))
        frontend = FrontEnd.from_metadata(card["frontend"])
        return Checkpoint(
            net.eval(),
            tuple(card["labels"]),
            frontend,
            card["kind"],
            card["data_hash"],
            int(card["window_frames"]),
            card.get("settings", {}),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"{path} is no checkpoint that can be read ({error}); train it again with "
            "`understudy train listen`"
        ) from None


def _locate(path: Path) -> tuple[Path, Path]:
    if path.suffix == ".safetensors":
        return path.parent, path
    for name in (BEST, LAST):
        if (path / name).is_file():
            return path, path / name
    raise ConfigError(f"{path} holds no {BEST}; `understudy train listen DATA --out DIR` makes one")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_bytes(serialise(dict(tensors), dict(metadata or {})))
    fresh.replace(path)


def write_text(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
