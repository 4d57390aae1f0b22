"""A listener on the fleet: an exported ONNX file that says what it hears, batched over slots."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from understudy.core.errors import ConfigError
from understudy.core.wire import Control, Heard
from understudy.models.deciding import MEMORY_S, Changes, Deciding, Moments

if TYPE_CHECKING:
    from understudy.lab import runtime

BURST_S: Final = 1.0
BACKGROUND: Final = ("noise", "silence", "background", "unknown", "other")
# The voice activity that comes with the package; docs/lab.md says how it was made.
SHIPPED: Final = Path(__file__).parent / "vad.onnx"
SILENCE: Final = {"noise": "silence"}  # what its labels are called here


class Listener:
    """A seams.Listening of a file made by `understudy export --streaming`.

    Scores of every frame (voice activity) become what holds now, others what was said just now;
    models.deciding has the rules, and their numbers are the controls.
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        path: str | None = None,
        background: Sequence[str] = BACKGROUND,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """`path`: of the file, looked for in the bundle's folder; None: the shipped one, for
        speech or silence. `background`: the labels that mean that nothing was said. `names`:
        what else labels are to be called. Raises ConfigError."""
        self._exported = open_exported(SHIPPED if path is None else find(path))
        about = self._exported.metadata
        if about.kind == "embedding" or not about.streaming:
            raise ConfigError(
                f"{self._exported.path.name} makes {about.kind} and "
                f"{'streams' if about.streaming else 'hears whole clips'}; a listener needs "
                "labels or frames, exported with `understudy export --streaming`"
            )
        if path is None and names is None:
            names = SILENCE
        self._names = [(names or {}).get(label, label) for label in about.labels]
        self._background = [n for n, label in enumerate(about.labels) if label in background]
        self._foreground = [n for n in range(len(self._names)) if n not in self._background]
        self._spans = about.kind == "frames"
        said = (self._background if self._spans else []) + self._foreground
        self.labels = [self._names[n] for n in said]  # what lasts has the background first
        if not self._foreground or (self._spans and len(self._background) != 1):
            raise ConfigError(
                f"{self._exported.path.name} has the labels {', '.join(about.labels)}; say by the "
                "option `background` which of them mean that nothing was said"
                + (", one of them at that" if self._spans else "")
            )
        front = about.frontend
        self.slots = slots
        self.sample_rate = front.rate_hz
        self.frame = self.alignment_samples = front.hop
        self.burst = max(1, round(BURST_S * front.rate_hz / front.hop))
        self.latency_samples = 0
        past = sum(shape[-1] for shape in about.caches.values())
        self.context_s = round((past * front.hop + front.fft) / front.rate_hz + MEMORY_S, 2)
        self._frame_ms = 1e3 * front.hop / front.rate_hz
        self.controls: Mapping[str, Control] = (Changes if self._spans else Moments).CONTROLS
        self._numbers = [{name: one.default for name, one in self.controls.items()}] * slots
        self._decidings: list[Deciding] = [self._deciding() for _ in range(slots)]
        self._streams: runtime.Slots | None = None
        self._heard: list[Heard] = []

    def _deciding(self) -> Deciding:
        if self._spans:
            return Changes(self._foreground, self._background[0], self._frame_ms)
        window = int(self._exported.metadata.net["window"])
        return Moments(self._foreground, window, self._frame_ms)

    def load(self, device: str) -> None:
        """On the CPU, whatever the device: the nets are too small for another to pay."""
        self._streams = self._exported.slots(self.slots)

    def open(self, slot: int, params: Mapping[str, float]) -> None:
        assert self._streams is not None, "load comes first"
        self._streams.reset(slot)
        self._decidings[slot] = self._deciding()
        self._numbers[slot] = {name: one.default for name, one in self.controls.items()}
        self.set_params(slot, params)

    def set_params(self, slot: int, params: Mapping[str, float]) -> None:
        if odd := params.keys() - self.controls.keys():
            raise ValueError(f"{', '.join(odd)}: this listener takes {', '.join(self.controls)}")
        self._numbers[slot] = {**self._numbers[slot], **params}

    def step(self, frames: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        assert self._streams is not None, "load comes first"
        scores = self._streams.step(frames, active)
        self._heard = []
        for slot in map(int, np.flatnonzero(active)):
            before = self._decidings[slot].heard
            for one in self._decidings[slot].hear(scores[slot], self._numbers[slot]):
                start, at = ((k - before) * self.frame for k in (one.start, one.at))
                label, score = self._names[one.label], min(1.0, one.score)
                self._heard.append(Heard(slot, start, at, label, score, self._spans))
        return frames * active[:, None]

    def events(self) -> Sequence[Heard]:
        heard, self._heard = self._heard, []
        return heard


def open_exported(path: Path) -> runtime.Listener:
    """Raises ConfigError."""
    from understudy.lab import runtime

    return runtime.Listener(path)


def find(path: str) -> Path:
    """A file of the bundle: where its modules are found. Raises ConfigError."""
    for folder in ("", *sys.path):
        if (found := Path(folder) / path).is_file() and (folder or found.is_absolute()):
            return found
    raise ConfigError(f"there is no file {path}; put it beside voice.toml")
