"""What a trained model is worth on a folder of recordings, as one dictionary of figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from understudy.core.errors import ConfigError
from understudy.lab import audio, metrics
from understudy.lab.data import Clip, Dataset, Features
from understudy.lab.frontend import FrontEnd
from understudy.lab.metrics import Scores
from understudy.lab.windows import place

THRESHOLDS: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
STEP_FRAMES: Final = 10
QUIET_S: Final = 1.0  # after an accept, before the next one counts
ENROLLED: Final = 3  # clips of a voiceprint
WORST: Final = 12


@dataclass(frozen=True, slots=True)
class Listener:
    """What is evaluated, wherever it came from.

    `score` takes features [batch, bands, window]; a model whose front end is its own has `hear`
    instead, of audio [batch, samples]. Either gives logits, or vectors of length 1.
    """

    kind: str
    labels: tuple[str, ...]
    frontend: FrontEnd
    window: int
    score: Callable[[Features], Scores] | None
    source: str
    data_hash: str = ""
    trained_on: tuple[str, ...] = ()  # speakers
    hear: Callable[[NDArray[np.float32]], Scores] | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A clip and what the model said: `truth` is the chance that it gave the right label."""

    clip: Clip
    said: str
    chance: float
    truth: float


def evaluate(
    listener: Listener, clips: Sequence[Clip], features: Sequence[Features]
) -> tuple[dict[str, Any], list[Judged]]:
    """The figures of `understudy evaluate --json`, and of labels the clips judged worst.

    Returns (figures, worst). Raises ConfigError where the clips do not fit the model.
    """
    if listener.kind == "embedding":
        return _of_embedding(listener, clips, features), []
    if listener.kind != "labels":
        raise ConfigError(f"{listener.source} says something for every frame, not for clips")
    return _of_labels(listener, clips, features)


def scores_of(listener: Listener, clips: Sequence[Clip], features: Sequence[Features]) -> Scores:
    """The model's output of each clip, in the middle of its window where features are taken."""
    if listener.hear is not None:
        rate_hz = listener.frontend.rate_hz
        return np.concatenate([listener.hear(audio.read(c.path, rate_hz)[None]) for c in clips])
    assert listener.score is not None
    parts = [
        listener.score(place(features[at : at + 256], listener.window, listener.frontend, 0.5))
        for at in range(0, len(features), 256)
    ]
    return np.concatenate(parts)


def _of_labels(
    listener: Listener, clips: Sequence[Clip], features: Sequence[Features]
) -> tuple[dict[str, Any], list[Judged]]:
    known = {label: at for at, label in enumerate(listener.labels)}
    truth = np.array([known.get(clip.label, -1) for clip in clips])
    strange = sorted({clip.label for clip in clips} - known.keys())
    if not (truth >= 0).any():
        raise ConfigError(
            f"{listener.source} knows none of the labels {', '.join(strange[:5])}; it knows "
            f"{', '.join(listener.labels[:5])}"
        )
    kept = [at for at, label in enumerate(truth) if label >= 0]
    truth, clips = truth[kept], [clips[at] for at in kept]
    chance = metrics.softmax(scores_of(listener, clips, [features[at] for at in kept]))
    said = chance.argmax(1)
    right = said == truth
    told = chance[np.arange(len(truth)), truth]
    figures = {
        **_about(listener, clips),
        "accuracy": metrics.accuracy(right),
        "loss": float(-np.log(np.maximum(told, 1e-12)).mean()),
        "by_label": metrics.by_group(right, [clip.label for clip in clips]),
        "by_speaker": metrics.by_group(right, [clip.speaker for clip in clips]),
        "labels": list(listener.labels),
        "confusion": metrics.confusion(truth, said, len(known)).tolist(),
        "unknown_labels": strange,
        "false_rejects": {
            str(level): float(1 - (right & (chance.max(1) >= level)).mean()) for level in THRESHOLDS
        },
    }
    order = np.argsort(told)[:WORST]
    worst = [
        Judged(clips[at], listener.labels[said[at]], float(chance[at, said[at]]), float(told[at]))
        for at in order
    ]
    return figures, worst


def _of_embedding(
    listener: Listener, clips: Sequence[Clip], features: Sequence[Features]
) -> dict[str, Any]:
    named = [at for at, clip in enumerate(clips) if clip.speaker is not None]
    if len({clips[at].speaker for at in named}) < 2:
        raise ConfigError(
            "voices are compared between speakers: name two or more with --names "
            "'{label}_{speaker}_{n}' or --csv"
        )
    speakers = [str(clips[at].speaker) for at in named]
    vectors = scores_of(listener, [clips[at] for at in named], [features[at] for at in named])
    rate, threshold = metrics.equal_error(*metrics.pairs(vectors, speakers))
    enrolled, level = metrics.equal_error(*metrics.enrolled_pairs(vectors, speakers, ENROLLED))
    by_speaker = {}
    for name in sorted(set(speakers)):
        own = np.array([speaker == name for speaker in speakers])
        cosine = vectors @ metrics.voiceprint(vectors[own])
        by_speaker[name] = {
            "eer": metrics.equal_error(cosine, own)[0],
            "clips": int(own.sum()),
        }
    return {
        **_about(listener, [clips[at] for at in named]),
        "eer": rate,
        "threshold": threshold,
        "voiceprint_clips": ENROLLED,
        "voiceprint_eer": None if np.isnan(enrolled) else enrolled,
        "voiceprint_threshold": None if np.isnan(level) else level,
        "by_speaker": by_speaker,
    }


def _about(listener: Listener, clips: Sequence[Clip]) -> dict[str, Any]:
    heard = sorted({c.speaker for c in clips if c.speaker in set(listener.trained_on)} - {None})
    warnings = (
        [
            f"{len(heard)} of these speakers were heard in training ({', '.join(heard[:5])}), so "
            "the figures flatter; pass --speakers with others"
        ]
        if heard
        else []
    )
    return {
        "model": listener.source,
        "kind": listener.kind,
        "clips": len(clips),
        "speakers": len({clip.speaker for clip in clips} - {None}),
        "warnings": warnings,
    }


def false_accepts(
    listener: Listener, paths: Sequence[Path], progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """How often an hour a stream of background would be taken for a label, by threshold.

    The window slides in steps of 0.1 s; accepts within a second of the last one do not count.
    """
    counts = dict.fromkeys(THRESHOLDS, 0)
    heard_s = 0.0
    for done, path in enumerate(paths):
        try:
            samples = audio.read(path, listener.frontend.rate_hz)
        except audio.Unfit:
            continue
        finally:
            progress(done + 1)
        heard_s += len(samples) / listener.frontend.rate_hz
        chance = _sliding(listener, samples)
        for level in THRESHOLDS:
            counts[level] += _events(
                chance >= level, QUIET_S * listener.frontend.rate_hz / listener.frontend.hop
            )
    hours = heard_s / 3600
    return {
        "minutes": round(heard_s / 60, 2),
        "an_hour": {
            str(level): round(n / hours, 1) if hours else None for level, n in counts.items()
        },
    }


def _sliding(listener: Listener, samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """The chance of the likeliest label, for each window of a recording."""
    window, hop = listener.window, listener.frontend.hop
    starts = range(0, max(0, len(samples) // hop - window) + 1, STEP_FRAMES)
    if listener.hear is not None:
        whole = np.pad(samples, (0, max(0, window * hop - len(samples))))
        cut = np.stack([whole[at * hop : (at + window) * hop] for at in starts])
        return np.asarray(metrics.softmax(listener.hear(cut)).max(1))
    assert listener.score is not None
    features = listener.frontend.features(samples)
    windows = place(
        [features[:, at : at + window] for at in starts], window, listener.frontend, 1.0
    )
    return np.asarray(metrics.softmax(listener.score(windows)).max(1))


def _events(over: NDArray[np.bool_], quiet_frames: float) -> int:
    count, free_at = 0, 0.0
    for at in np.flatnonzero(over) * STEP_FRAMES:
        if at >= free_at:
            count, free_at = count + 1, at + quiet_frames
    return count


def of_speakers(dataset: Dataset, speakers: Sequence[str]) -> list[Clip]:
    """The clips of these speakers only; all of them where none is named. Raises ConfigError."""
    if unknown := sorted(set(speakers) - set(dataset.speakers)):
        raise ConfigError(f"there is no speaker {', '.join(unknown)} in {dataset.folder}")
    return [clip for clip in dataset.clips if not speakers or clip.speaker in speakers]
