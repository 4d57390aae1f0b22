"""From a folder of recordings to a checkpoint and a report: what `understudy train listen` does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from understudy.core.errors import ConfigError
from understudy.lab import audio, checkpoint, data, evaluation, listen, loop, noise, report
from understudy.lab.augment import Augmentation
from understudy.lab.checkpoint import Checkpoint
from understudy.lab.data import Clip, Dataset, Features, Progress, Split
from understudy.lab.frontend import FrontEnd
from understudy.lab.loop import Epoch, Plan
from understudy.lab.windows import window_of

REPORT: Final = "report.html"
EVALUATION: Final = "evaluation.json"
SYNTHETIC_CLIPS: Final = 45
SYNTHETIC_S: Final = 4.0
MANY_VOICES: Final = 8
STRONG_MIXUP: Final = 0.2


@dataclass(frozen=True, slots=True)
class Course:
    """What is to be learned from what. `validate`: speakers kept for validation.

    `strength`: "light", "strong" or "none" augmentation, "auto" by the number of voices, "own":
    as `recipe` has it. `noise` and `foreign` (speech that holds none of the labels) are folders:
    half of each is trained with, the other half counts false accepts.
    """

    folder: Path
    out: Path
    names: str | None = None
    csv: Path | None = None
    split: str = "auto"
    validate: tuple[str, ...] = ()
    noise: Path | None = None
    foreign: Path | None = None
    start: Path | None = None
    teacher: Path | None = None
    recipe: listen.Recipe = field(default_factory=listen.Recipe)
    strength: str = "own"
    plan: Plan = field(default_factory=Plan)
    resume: bool = False
    tensorboard: bool = False
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """Where a training tells how it goes: a bar, warnings, what is left out, an epoch."""

    progress: Progress = lambda what, done, of: None
    warn: Callable[[str], None] = lambda words: None
    tell: Callable[[str], None] = lambda words: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


def train(course: Course, said: Said | None = None) -> dict[str, Any]:
    """Trains, and writes checkpoints, evaluation.json and report.html. Raises ConfigError.

    Returns the figures of the best epoch's weights on the clips of validation.
    """
    said = said or Said()
    if (course.out / loop.STATE).exists() and not course.resume:
        raise ConfigError(
            f"{course.out} holds a training already; --resume goes on with it, another --out "
            "begins anew"
        )
    dataset = data.scan(course.folder, course.names, course.csv, progress=said.progress)
    _tell_rejects(dataset, said)
    halves = data.split(
        dataset,
        speakers=course.validate,
        by="speaker" if course.recipe.embedding else course.split,
        seed=course.plan.seed,
    )
    for words in halves.warnings:
        said.warn(words)
    said.tell(_in_words(dataset, halves))
    course = replace(course, recipe=_strengthened(course, halves))
    prepared = _prepare(course, halves, said)
    history = loop.fit(
        prepared.task,
        course.plan,
        course.out,
        resume=course.resume,
        say=said.epoch,
        tensorboard=course.tensorboard,
    )
    return _finish(course, dataset, halves, prepared, history, said)


def _strengthened(course: Course, halves: Split) -> listen.Recipe:
    strength = course.strength
    if strength == "auto":
        voices = {clip.speaker for clip in halves.train}
        strength = "strong" if len(voices) < MANY_VOICES else "light"
    if strength == "strong":
        return replace(course.recipe, augmentation=Augmentation.strong(), mixup=STRONG_MIXUP)
    if strength == "light":
        return replace(course.recipe, augmentation=Augmentation(), mixup=0.0)
    if strength == "none":
        return replace(course.recipe, augmentation=Augmentation.none(), mixup=0.0)
    return course.recipe


@dataclass(frozen=True, slots=True)
class _Prepared:
    task: listen.ListenTask
    frontend: FrontEnd
    validation: list[Features]
    judging: dict[str, list[Path]]  # background that was not trained with


def _prepare(course: Course, halves: Split, said: Said) -> _Prepared:
    base = FrontEnd()
    raw = data.features(halves.train, base, cache=course.cache, progress=said.progress)
    held = data.features(halves.validation, base, cache=course.cache, progress=said.progress)
    start, teacher = _loaded(course.start), _loaded(course.teacher)
    source = start or teacher
    frontend = source.frontend if source else _statistics(base, raw)
    train = [_renormalised(one, base, frontend) for one in raw]
    validation = [_renormalised(one, base, frontend) for one in held]
    labels, learned, judged = _targets(course, halves)
    learning, judging = _background(course)
    mixed = _features_of(learning.get("noise", []), frontend, course.plan.seed)
    quiet = [mixed, *_read_all(learning.get("foreign", []), frontend)]
    speakers = sorted({c.speaker for c in halves.train if c.speaker is not None})
    told = {
        "split": halves.by,
        "train_speakers": speakers,
        "validation_speakers": sorted({c.speaker for c in halves.validation if c.speaker}),
        "epochs": course.plan.epochs,
        "learning_rate": course.plan.learning_rate,
        "weight_decay": course.plan.weight_decay,
        "seed": course.plan.seed,
    }
    task = listen.ListenTask(
        listen.Half(train, learned),
        listen.Half(validation, judged),
        labels,
        frontend,
        course.recipe,
        window=source.window_frames if source else window_of(train),
        data_hash=Dataset(course.folder, halves.train + halves.validation, (), "").hash,
        seed=course.plan.seed,
        noise=mixed,
        background=np.concatenate(quiet, axis=1),
        start=start,
        teacher=teacher,
        settings=told,
    )
    return _Prepared(task, frontend, validation, judging)


def _targets(
    course: Course, halves: Split
) -> tuple[tuple[str, ...], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(labels, training's, validation's): of an embedding, validation has speakers of its own."""

    def name(clip: Clip) -> str:
        return str(clip.speaker) if course.recipe.embedding else clip.label

    labels = tuple(sorted({name(clip) for clip in halves.train}))
    if len(labels) < 2:
        raise ConfigError(f"{course.folder} has one label only ({labels[0]}); give two or more")
    known = {label: at for at, label in enumerate(labels)}
    if course.recipe.embedding:
        others = {n: at for at, n in enumerate(sorted({name(c) for c in halves.validation}))}
        if len(others) < 2:
            raise ConfigError("an embedding is validated between two speakers or more: name them")
    else:
        others = known
    learned = np.array([known[name(clip)] for clip in halves.train], np.int64)
    judged = np.array([others.get(name(clip), -1) for clip in halves.validation], np.int64)
    return labels, learned, judged


def _finish(
    course: Course,
    dataset: Dataset,
    halves: Split,
    prepared: _Prepared,
    history: list[Epoch],
    said: Said,
) -> dict[str, Any]:
    made = checkpoint.load(course.out)
    listener = listen.listener_of(made, course.out.name)
    figures, worst = evaluation.evaluate(listener, halves.validation, prepared.validation)
    figures["warnings"] = [*halves.warnings, *figures["warnings"]]
    figures["validation"] = list(made.settings["validation_speakers"])
    figures["best_epoch"] = loop.best_of(history).epoch
    figures["last_epoch"] = dict(history[-1].validation)
    figures["training_s"] = round(sum(epoch.seconds for epoch in history), 1)
    figures["weights_bytes"] = (course.out / checkpoint.BEST).stat().st_size
    if made.kind == "labels":
        figures["false_accepts"] = {}
        for name, paths in prepared.judging.items():
            figures["false_accepts"][name] = evaluation.false_accepts(
                listener, paths, partial(_counted, said, name, len(paths))
            )
    checkpoint.write_text(course.out / EVALUATION, json.dumps(figures, indent=2) + "\n")
    page = report.render(
        f"{dataset.folder.name}: {course.recipe.model}",
        figures,
        [asdict(epoch) for epoch in history],
        worst=worst,
        warnings=figures["warnings"],
        rejects=[(str(r.path.relative_to(dataset.folder)), r.reason) for r in dataset.rejects],
        settings={"data": dataset.hash[:16], **made.settings},
        rate_hz=prepared.frontend.rate_hz,
    )
    checkpoint.write_text(course.out / REPORT, page)
    return figures


def _counted(said: Said, what: str, of: int, done: int) -> None:
    said.progress(what, done, of)


def _background(course: Course) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """(trained with, judged with): every other recording of noise, every other foreign speaker."""
    learning: dict[str, list[Path]] = {}
    judging: dict[str, list[Path]] = {}
    if course.noise is not None:
        learning["noise"], judging["noise"] = halve(audio.find(course.noise), recording_of)
    if course.foreign is not None:
        found = audio.find(course.foreign)
        few = len({path.parent for path in found}) < 2
        parts = halve(found, recording_of if few else lambda path: str(path.parent))
        learning["foreign"], judging["foreign"] = parts
    return learning, judging


def halve(paths: Sequence[Path], of: Callable[[Path], str]) -> tuple[list[Path], list[Path]]:
    """Every other one of `of` (a speaker, a recording) in each half, so that none is in both."""
    first = set(sorted({of(path) for path in paths})[0::2])
    return [p for p in paths if of(p) in first], [p for p in paths if of(p) not in first]


def recording_of(path: Path) -> str:
    """The recording a clip was cut from: its path without a last -A, -B (as in ESC-50)."""
    return re.sub(r"-[A-Z]$", "", str(path.with_suffix("")))


def _features_of(paths: Sequence[Path], frontend: FrontEnd, seed: int) -> Features:
    """Recorded noise, and as much again by synthesis: [bands, frames]."""
    chance = np.random.default_rng([seed, 1])
    samples = round(SYNTHETIC_S * frontend.rate_hz)
    made = [
        frontend.features(
            noise.synthesise(noise.KINDS[at % len(noise.KINDS)], samples, frontend.rate_hz, chance)
        )
        for at in range(SYNTHETIC_CLIPS)
    ]
    return np.concatenate([*made, *_read_all(paths, frontend)], axis=1)


def _read_all(paths: Sequence[Path], frontend: FrontEnd) -> list[Features]:
    out = []
    for path in paths:
        try:
            out.append(frontend.features(audio.read(path, frontend.rate_hz)))
        except audio.Unfit:
            continue
    return out


def _statistics(base: FrontEnd, features: Sequence[Features]) -> FrontEnd:
    """The front end with the mean and the deviation of these, which are of `base`."""
    every = np.concatenate([one.ravel() for one in features]).astype(np.float64)
    mean, std = float(every.mean()), max(float(every.std()), 1e-3)
    return replace(base, mean=round(base.mean + mean * base.std, 4), std=round(base.std * std, 4))


def _renormalised(one: Features, base: FrontEnd, frontend: FrontEnd) -> Features:
    if replace(base, mean=0.0, std=1.0) != replace(frontend, mean=0.0, std=1.0):
        raise ConfigError("the checkpoint has another front end than this version trains with")
    return np.asarray((one * base.std + (base.mean - frontend.mean)) / frontend.std, np.float32)


def _loaded(path: Path | None) -> Checkpoint | None:
    return None if path is None else checkpoint.load(path)


def _tell_rejects(dataset: Dataset, said: Said) -> None:
    if not dataset.rejects:
        return
    said.warn(f"{len(dataset.rejects)} recordings are left out:")
    for one in dataset.rejects[:20]:
        said.tell(f"  {one.path.relative_to(dataset.folder)}: {one.reason}")
    if len(dataset.rejects) > 20:
        said.tell(f"  … and {len(dataset.rejects) - 20} more; the report lists them")


def _in_words(dataset: Dataset, halves: Split) -> str:
    told = f"{len(dataset.clips)} clips, {len(dataset.labels)} labels; speakers by {dataset.source}"
    heard = {c.speaker for c in halves.validation} - {None}
    who = f" of {len(heard)} speakers" if heard else ""
    return f"{told}\n{len(halves.train)} to train, {len(halves.validation)}{who} to validate"


def set_threads(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
