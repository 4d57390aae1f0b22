"""Owns what an exported file says of itself, so that it can be served without anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from understudy.core.errors import ConfigError
from understudy.lab.frontend import FrontEnd

PREFIX: Final = "understudy."
FORMAT: Final = 1
KINDS: Final = ("labels", "embedding", "frames")


@dataclass(frozen=True, slots=True)
class Metadata:
    """The `metadata_props` of an exported ONNX file, each a JSON value under `understudy.NAME`.

    `labels`: names of the output's entries, in order (of an embedding: of the training voices).
    `window_frames`: the frames of a training clip; a shorter one is heard amid silence. 0: any.
    `caches`: of a streaming graph, name to shape without the axis of slots; each starts as zeros.
    `parity`: the largest differences found at export, of scores; see docs/lab.md.
    `measured`: for a quantised file, what its accuracy and speed were, beside the float one's.
    """

    kind: str
    labels: tuple[str, ...]
    frontend: FrontEnd
    inside: bool  # the front end is in the graph, whose input is then `audio`
    net: Mapping[str, Any]  # lab.nets.build's arguments
    window_frames: int
    min_frames: int
    data_hash: str
    caches: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    precision: str = "fp32"
    parity: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def streaming(self) -> bool:
        return bool(self.caches)

    @property
    def output(self) -> str:
        return "embedding" if self.net["embedding"] else "logits"

    def as_props(self) -> dict[str, str]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["frontend"] = self.frontend.as_metadata()
        props = {f"{PREFIX}{name}": json.dumps(_plain(value)) for name, value in values.items()}
        return {f"{PREFIX}format": str(FORMAT), **props}

    @classmethod
    def from_props(cls, props: Mapping[str, str], path: object) -> Metadata:
        """Raises ConfigError where a file was not made by `understudy export`."""
        own = {k.removeprefix(PREFIX): v for k, v in props.items() if k.startswith(PREFIX)}
        try:
            if (version := own.pop("format")) != str(FORMAT):
                raise ConfigError(
                    f"{path} has format {version}, this version reads {FORMAT}; export it again"
                )
            values = {name: json.loads(value) for name, value in own.items()}
            values["frontend"] = FrontEnd.from_metadata(values["frontend"])
            values["labels"] = tuple(values["labels"])
            values["caches"] = {name: tuple(shape) for name, shape in values["caches"].items()}
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path} does not say what it hears ({error!r}); make it with `understudy export`"
            ) from None


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
