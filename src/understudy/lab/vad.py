"""Learning voice activity: for every frame, whether somebody speaks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from understudy.lab import audio, checkpoint, loop, metrics, nets
from understudy.lab.augment import Augmentation, Augmenter
from understudy.lab.checkpoint import Checkpoint
from understudy.lab.data import Features, Progress
from understudy.lab.frontend import FrontEnd
from understudy.lab.loop import Epoch, Plan
from understudy.lab.vad_data import HOP, RATE_HZ, read_segments

LABELS: Final = ("noise", "speech")
WINDOW: Final = 400  # frames of a training crop
BATCH: Final = 32
SETTLED: Final = 20  # frames at the start of a crop of which nothing is asked
AUGMENTATION: Final = Augmentation(
    speed=0.0, tract=0.1, shift_frames=0, gain_db=10.0, noise_share=0.0, band_masks=1, frame_masks=0
)


@dataclass(frozen=True, slots=True)
class Part:
    """`speech`: for each clip, whether each frame has speech."""

    names: list[str]
    features: list[Features]
    speech: list[NDArray[np.int64]] = field(default_factory=list)


class VadTask:
    """A `loop.Task`: cross-entropy of every frame; the score is the ROC-AUC over frames."""

    def __init__(
        self,
        train: Part,
        validation: Part,
        frontend: FrontEnd,
        *,
        width: int | None,
        data_hash: str,
        seed: int,
        settings: dict[str, Any],
    ) -> None:
        torch.manual_seed(seed)
        self._train, self._validation = train, validation
        self._frontend, self._hash, self._seed = frontend, data_hash, seed
        self._settings = settings
        self.net = nets.build(
            "stream", len(LABELS), bands=frontend.bands, per_frame=True, width=width
        )
        self.parameters = self.net
        self._augment = Augmenter(AUGMENTATION, frontend)
        self.steps = math.ceil(len(train.features) / BATCH)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        chance = np.random.default_rng([self._seed, epoch])
        order = chance.permutation(len(self._train.features))
        for step in range(self.steps):
            crops, truths = [], []
            for at in order[step * BATCH : (step + 1) * BATCH]:
                one = self._train.features[at]
                begin = int(chance.integers(0, max(1, one.shape[1] - WINDOW + 1)))
                crops.append(one[:, begin : begin + WINDOW])
                truths.append(self._train.speech[at][begin : begin + WINDOW])
            yield torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(truths))

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, int]:
        clips, truth = batch
        with torch.no_grad():
            clips = self._augment(clips)
        scores = self.net(clips)[:, :, SETTLED:]
        truth = truth[:, SETTLED:]
        right = float((scores.argmax(1) == truth).float().mean()) * len(clips)
        return functional.cross_entropy(scores, truth), right, len(clips)

    def settle(self) -> None:
        """Nothing to do: the clips are mixed as they are heard, and hardly augmented."""

    def validate(self) -> dict[str, float]:
        part = self._validation
        scores = [self.net(torch.from_numpy(one[None]))[0] for one in part.features]
        truth = torch.from_numpy(np.concatenate(part.speech))
        every = torch.cat(scores, dim=1)
        loss = float(functional.cross_entropy(every.T, truth))
        chance = (every[1] - every[0]).numpy()
        area = metrics.roc_auc(chance, truth.numpy() == 1)
        right = float((every.argmax(0) == truth).float().mean())
        return {"loss": loss, "accuracy": right, "roc_auc": area, "score": area}

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.net, LABELS, self._frontend, "frames", self._hash, 0, self._settings)


def shipped() -> Path:
    """The checkpoint of the voice-activity model that comes with the package."""
    return Path(__file__).parent / "shipped" / "vad"


def train(
    folder: Path,
    out: Path,
    plan: Plan,
    *,
    width: int | None = None,
    resume: bool = False,
    progress: Progress = lambda what, done, of: None,
    say: Callable[[Epoch], None] = lambda epoch: None,
) -> dict[str, Any]:
    """Learns from a folder of `vad_data.build`; returns the figures. Raises ConfigError."""
    known = read_segments(folder)
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    base = FrontEnd(rate_hz=RATE_HZ, hop=HOP)
    train_part = read_part(folder, "train", known, base, progress)
    validation = read_part(folder, "validation", known, base, progress)
    settings = {"credits": about["credits"], "synthesis": about["synthesis"]}
    task = VadTask(
        train_part,
        validation,
        base,
        width=width,
        data_hash=_hash(folder),
        seed=plan.seed,
        settings=settings,
    )
    history = loop.fit(task, plan, out, resume=resume, say=say)
    best = loop.best_of(history)
    figures = {
        "kind": "frames",
        "best_epoch": best.epoch,
        **best.validation,
        "training_s": round(sum(epoch.seconds for epoch in history), 1),
        "weights_bytes": (out / checkpoint.BEST).stat().st_size,
    }
    checkpoint.write_text(out / "evaluation.json", json.dumps(figures, indent=2) + "\n")
    return figures


def read_part(
    folder: Path,
    part: str,
    known: dict[str, list[tuple[float, float]]],
    frontend: FrontEnd,
    progress: Progress,
) -> Part:
    paths = audio.find(folder / part)
    out = Part([], [])
    for done, path in enumerate(paths):
        name = path.relative_to(folder).as_posix()
        features = frontend.features(audio.read(path, frontend.rate_hz))
        speech = np.zeros(features.shape[1], np.int64)
        for start_s, end_s in known.get(name, []):
            at = (round(s * frontend.rate_hz / frontend.hop) for s in (start_s, end_s))
            speech[slice(*at)] = 1
        out.names.append(name)
        out.features.append(features)
        out.speech.append(speech)
        progress(part, done + 1, len(paths))
    return out


def _hash(folder: Path) -> str:
    return hashlib.sha256((folder / "segments.csv").read_bytes()).hexdigest()
