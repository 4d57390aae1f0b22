"""Learning labels (cross-entropy) or voices (an embedding), out of clips of audio."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from understudy.core.errors import ConfigError
from understudy.lab import metrics, nets
from understudy.lab.augment import Augmentation, Augmenter, mix
from understudy.lab.checkpoint import Checkpoint
from understudy.lab.data import Features
from understudy.lab.evaluation import Listener
from understudy.lab.frontend import FrontEnd
from understudy.lab.loop import settle_norms
from understudy.lab.windows import place

MARGIN: Final = 0.2  # of AM-softmax (F. Wang et al., arXiv:1801.05599)
SCALE: Final = 30.0
SCORED_AT_ONCE: Final = 256
SETTLED_BY: Final = 2048  # training clips, at most
SETTLED_AT_ONCE: Final = 128


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a listener is taught; the loop's schedule is `loop.Plan`.

    `negatives`: extra clips of background a batch, as a share of it, of which the net is to say
    nothing in particular (D. Hendrycks et al., arXiv:1812.04606).
    """

    model: str = "stream"
    width: int | None = None
    embedding: int = 0
    batch: int = 64
    smoothing: float = 0.1
    mixup: float = 0.0
    negatives: float = 0.0
    temperature: float = 2.0  # of distillation (G. Hinton et al., arXiv:1503.02531)
    teacher_share: float = 0.7
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True, slots=True)
class Half:
    """One half of a split: features, and the index of each clip's label."""

    features: Sequence[Features]
    targets: NDArray[np.int64]


class ListenTask:
    """A `loop.Task`. With an embedding the labels are speakers, and validation's are others.

    `noise` is mixed into clips; `background` is what to say nothing of (`Recipe.negatives`).
    """

    def __init__(
        self,
        train: Half,
        validation: Half,
        labels: tuple[str, ...],
        frontend: FrontEnd,
        recipe: Recipe,
        *,
        window: int,
        data_hash: str,
        seed: int = 0,
        noise: Features | None = None,
        background: Features | None = None,
        start: Checkpoint | None = None,
        teacher: Checkpoint | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._train, self._validation = train, validation
        self._labels, self._frontend, self._recipe = labels, frontend, recipe
        self._window, self._data_hash, self._seed = window, data_hash, seed
        self._settings = {**asdict(recipe), **(settings or {})}
        torch.manual_seed(seed)
        classes = len(labels)
        self.net = nets.build(
            recipe.model,
            classes,
            bands=frontend.bands,
            embedding=recipe.embedding,
            width=recipe.width,
            window=window if recipe.model == "stream" else None,
        )
        if start is not None:
            carry_over(start.net, self.net)
        self._voices = nn.Linear(max(1, recipe.embedding), classes, bias=False)
        trained = [self.net, self._voices] if recipe.embedding else [self.net]
        self.parameters = nn.ModuleList(trained)
        self._teacher = _checked_teacher(teacher, labels, recipe)
        self._background = _tensor(background, window)
        self._augment = Augmenter(recipe.augmentation, frontend, _tensor(noise, window))
        self.steps = math.ceil(len(train.features) / recipe.batch)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        chance = np.random.default_rng([self._seed, epoch])
        order = chance.permutation(len(self._train.features))
        for step in range(self.steps):
            which = order[step * self._recipe.batch : (step + 1) * self._recipe.batch]
            clips = place(
                [self._train.features[at] for at in which],
                self._window,
                self._frontend,
                chance.random(len(which)),
            )
            yield torch.from_numpy(clips), torch.from_numpy(self._train.targets[which])

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float, int]:
        clips, truth = batch
        with torch.no_grad():
            clips = self._augment(clips)
        if self._recipe.embedding:
            return self._voice_loss(clips, truth)
        classes, smoothing = len(self._labels), self._recipe.smoothing
        shares = functional.one_hot(truth, classes).float()
        shares = shares * (1 - smoothing) + smoothing / classes
        clips, shares = mix(clips, shares, self._recipe.mixup)
        count = len(clips)
        clips, shares = self._with_negatives(clips, shares)
        scores = self.net(clips)
        loss = -(shares * functional.log_softmax(scores, 1)).sum(1).mean()
        if self._teacher is not None:
            loss = self._distilled(loss, scores, clips)
        right = float((scores[:count].argmax(1) == truth).sum())
        return loss, right, count

    def settle(self) -> None:
        settle_norms(self.net, self._as_heard())

    def _as_heard(self) -> Iterator[Tensor]:
        """Some training clips, not augmented."""
        chance = np.random.default_rng([self._seed, len(self._train.features)])
        order = chance.permutation(len(self._train.features))[:SETTLED_BY]
        for part in np.array_split(order, math.ceil(len(order) / SETTLED_AT_ONCE)):
            clips = [self._train.features[at] for at in part]
            where = chance.random(len(part))
            yield torch.from_numpy(place(clips, self._window, self._frontend, where))

    def validate(self) -> dict[str, float]:
        scores = score(self.net, self._validation.features, self._window, self._frontend)
        targets = self._validation.targets
        if self._recipe.embedding:
            cosine, same = metrics.pairs(scores, [str(t) for t in targets])
            rate, _ = metrics.equal_error(cosine, same)
            rate = 0.5 if math.isnan(rate) else rate
            return {"loss": rate, "eer": rate, "score": 1 - rate}
        right = metrics.accuracy(scores.argmax(1) == targets)
        chance = metrics.softmax(scores)
        told = chance[np.arange(len(targets)), targets]
        loss = float(-np.log(np.maximum(told, 1e-12))[targets >= 0].mean())
        return {"loss": loss, "accuracy": right, "score": right - 1e-4 * min(loss, 100.0)}

    def checkpoint(self) -> Checkpoint:
        kind = "embedding" if self._recipe.embedding else "labels"
        return Checkpoint(
            self.net,
            self._labels,
            self._frontend,
            kind,
            self._data_hash,
            self._window,
            self._settings,
        )

    def _with_negatives(self, clips: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        count = round(self._recipe.negatives * len(clips))
        pool = self._background
        if pool is None or not count:
            return clips, shares
        starts = torch.randint(0, pool.shape[1] - self._window + 1, (count,)).tolist()
        quiet = torch.stack([pool[:, at : at + self._window] for at in starts])
        gain = (torch.rand(count) * 30 - 20) * math.log(10) / 10 / self._frontend.std
        classes = shares.shape[1]
        nothing = torch.full((count, classes), 1 / classes)
        return torch.cat([clips, quiet + gain[:, None, None]]), torch.cat([shares, nothing])

    def _distilled(self, loss: Tensor, scores: Tensor, clips: Tensor) -> Tensor:
        assert self._teacher is not None
        with torch.no_grad():
            taught = self._teacher(clips)
        heat, share = self._recipe.temperature, self._recipe.teacher_share
        apart = functional.kl_div(
            functional.log_softmax(scores / heat, 1),
            functional.log_softmax(taught / heat, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - share) * loss + share * heat * heat * apart

    def _voice_loss(self, clips: Tensor, truth: Tensor) -> tuple[Tensor, float, int]:
        vectors = self.net(clips)
        voices = functional.normalize(self._voices.weight, dim=1)
        cosine = vectors @ voices.T
        margin = MARGIN * functional.one_hot(truth, len(self._labels))
        loss = functional.cross_entropy(SCALE * (cosine - margin), truth)
        return loss, float((cosine.argmax(1) == truth).sum()), len(clips)


def score(
    net: nn.Module, clips: Sequence[Features], window: int, frontend: FrontEnd
) -> metrics.Scores:
    """The net's output of each clip in the middle of its window, [clips, ...]."""
    out = []
    with torch.inference_mode():
        for begin in range(0, len(clips), SCORED_AT_ONCE):
            batch = place(clips[begin : begin + SCORED_AT_ONCE], window, frontend, 0.5)
            out.append(net(torch.from_numpy(batch)).numpy())
    return np.concatenate(out)


def listener_of(made: Checkpoint, source: str) -> Listener:
    """A checkpoint as what `evaluation` takes."""

    def run(features: Features) -> metrics.Scores:
        with torch.inference_mode():
            scores: metrics.Scores = made.net(torch.from_numpy(features)).numpy()
        return scores

    heard = tuple(made.settings.get("train_speakers", ()))
    return Listener(
        made.kind,
        made.labels,
        made.frontend,
        made.window_frames,
        run,
        source,
        made.data_hash,
        heard,
    )


def carry_over(source: nn.Module, target: nn.Module) -> tuple[str, ...]:
    """Copies the weights that fit; returns the names of those that do not (a head, as a rule).

    Raises ConfigError where nothing but a head would be left of the source.
    """
    theirs, ours = source.state_dict(), target.state_dict()
    fits = {k: v for k, v in theirs.items() if k in ours and ours[k].shape == v.shape}
    fresh = tuple(sorted(ours.keys() - fits.keys()))
    if any(not name.startswith("head.") for name in fresh):
        raise ConfigError(
            "the checkpoint of --from is another net: give the --model, --width and front end "
            "that it was trained with"
        )
    target.load_state_dict({**ours, **fits})
    return fresh


def _checked_teacher(
    teacher: Checkpoint | None, labels: tuple[str, ...], recipe: Recipe
) -> nn.Module | None:
    if teacher is None:
        return None
    if recipe.embedding or teacher.kind != "labels" or teacher.labels != labels:
        raise ConfigError(
            "a teacher has to know the very labels of the data; train one on it with a larger "
            "--width first"
        )
    return teacher.net.eval().requires_grad_(False)


def _tensor(features: Features | None, window: int) -> Tensor | None:
    """As a tensor, repeated until windows can be cut from it."""
    if features is None:
        return None
    times = math.ceil(2 * window / features.shape[1])
    return torch.from_numpy(np.ascontiguousarray(np.tile(features, (1, times)), np.float32))
