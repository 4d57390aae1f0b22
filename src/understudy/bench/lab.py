"""The lab's figures: trains listeners on recorded speech and says how often they are right.

The figure of each training is that of its last epoch, of a schedule that was fixed before: no
epoch is chosen by the clips that are reported. How the recipe was chosen: docs/lab.md.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from understudy.core.errors import ConfigError

COMMANDS_TARGET: Final = 0.90
DIGITS_TARGET: Final = 0.85
LARGEST_BYTES: Final = 200_000
LONGEST_S: Final = 20 * 60.0
HELD_SPEAKERS: Final = 6  # of commands, the last by name
EPOCHS: Final = 30
DIGIT_EPOCHS: Final = 40
QUICK_EPOCHS: Final = 5
DIGITS: Final = "{label}_{speaker}_{n}"

Say = Callable[[str], None]


def run(audio: Path | None, *, quick: bool = False, progress: Say | None = None) -> dict[str, Any]:
    """{"checks": [{name, value, target, met}], "commands", "digits", "voice_activity"}.

    $UNDERSTUDY_LAB_THREADS: CPU threads, else all cores. Raises ConfigError without recordings.
    """
    from understudy.lab.extra import check_extra

    check_extra()
    from understudy.bench import lab_vad
    from understudy.lab.training import set_threads

    threads = int(os.environ.get("UNDERSTUDY_LAB_THREADS", "0")) or None
    set_threads(threads)
    if audio is None or not any((audio / name).is_dir() for name in ("commands", "fsdd")):
        raise ConfigError(
            "this bench learns from recorded speech: pass --audio a folder with commands/ "
            "(WORD/SPEAKER_TAKE.flac) or fsdd/ (DIGIT_SPEAKER_N.wav)"
        )
    say = progress or (lambda _: None)
    epochs = QUICK_EPOCHS if quick else EPOCHS
    result: dict[str, Any] = {"epochs": epochs, "quick": quick, "threads": threads}
    with tempfile.TemporaryDirectory() as room:
        if (audio / "commands").is_dir():
            result["commands"] = _commands(audio, Path(room), epochs, say)
        if (audio / "fsdd").is_dir():
            result["digits"] = _digits(
                audio, Path(room), QUICK_EPOCHS if quick else DIGIT_EPOCHS, say
            )
    result["voice_activity"] = lab_vad.compare(audio, quick=quick, progress=say)
    return {"checks": _checks(result), **result}


def _commands(audio: Path, room: Path, epochs: int, say: Say) -> dict[str, Any]:
    from understudy.lab import data

    speakers = data.scan(audio / "commands").speakers
    return {
        model: _train(
            audio / "commands", room / model, speakers[-HELD_SPEAKERS:], epochs, say, model=model
        )
        for model in ("stream", "small")
    }


def _digits(audio: Path, room: Path, epochs: int, say: Say) -> dict[str, Any]:
    from understudy.lab import data

    speakers = data.scan(audio / "fsdd", DIGITS).speakers
    folds = {}
    for at in range(0, len(speakers) - 1, 2):
        held = speakers[at : at + 2]
        out = room / f"digits{at}"
        folds["+".join(held)] = _train(audio / "fsdd", out, held, epochs, say, names=DIGITS)
    mean = sum(fold["accuracy"] for fold in folds.values()) / len(folds)
    return {"mean": mean, "folds": folds}


def _train(
    folder: Path,
    out: Path,
    held: tuple[str, ...],
    epochs: int,
    say: Say,
    *,
    model: str = "stream",
    names: str | None = None,
) -> dict[str, Any]:
    from understudy.lab import training
    from understudy.lab.listen import Recipe
    from understudy.lab.loop import Plan

    say(f"{folder.name}, {model}, validated with {', '.join(held)}")
    course = training.Course(
        folder,
        out,
        names,
        validate=held,
        recipe=Recipe(model=model),
        strength="auto",
        plan=Plan(epochs=epochs),
        cache=out.parent / "features",
    )
    figures = training.train(
        course,
        training.Said(
            epoch=lambda e: (
                say(f"  epoch {e.epoch}: {e.validation['accuracy']:.4f}")
                if e.epoch % 10 == 0
                else None
            )
        ),
    )
    say(f"  {figures['last_epoch']['accuracy']:.4f} in {figures['training_s']:.0f} s")
    return {
        "accuracy": figures["last_epoch"]["accuracy"],
        "best_epoch_accuracy": figures["accuracy"],
        "best_epoch": figures["best_epoch"],
        "clips": figures["clips"],
        "speakers": list(held),
        "weights_bytes": figures["weights_bytes"],
        "training_s": figures["training_s"],
    }


def _checks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    checks = []

    def check(name: str, value: float, limit: float, *, at_least: bool) -> None:
        met = value >= limit if at_least else value <= limit
        target = f"{'>=' if at_least else '<='} {limit:g}"
        checks.append({"name": name, "value": value, "target": target, "met": met})

    if commands := result.get("commands"):
        stream = commands["stream"]
        check(
            "commands: accuracy, new speakers", stream["accuracy"], COMMANDS_TARGET, at_least=True
        )
        for model, figures in commands.items():
            size = figures["weights_bytes"]
            check(f"commands: bytes of {model}", size, LARGEST_BYTES, at_least=False)
        check("commands: seconds to train", stream["training_s"], LONGEST_S, at_least=False)
    if digits := result.get("digits"):
        check("digits: mean accuracy, new speakers", digits["mean"], DIGITS_TARGET, at_least=True)
    if result.get("voice_activity"):
        size = result["voice_activity"]["model_bytes"]
        check("voice activity: bytes", size, LARGEST_BYTES, at_least=False)
    return checks


def table(result: Mapping[str, Any]) -> str:
    lines = []
    for one in result["checks"]:
        mark = "ok  " if one["met"] else "MISS"
        lines.append(f"{mark} {one['name']:<42} {one['value']:>12.4f}   {one['target']}")
    rows = {f"commands, {name}": row for name, row in result.get("commands", {}).items()}
    rows |= {f"digits, {k}": row for k, row in result.get("digits", {}).get("folds", {}).items()}
    for name, row in rows.items():
        lines.append(
            f"{name:<28} {row['accuracy']:.2%} of {row['clips']} clips (best epoch "
            f"{row['best_epoch_accuracy']:.2%}), {row['weights_bytes'] / 1000:.0f} KB, "
            f"{row['training_s'] / 60:.1f} min"
        )
    activity = result.get("voice_activity") or {}
    for name, areas in activity.get("roc_auc", {}).items():
        told = ", ".join(f"{who} {area:.4f}" for who, area in areas.items())
        lines.append(f"voice activity, {name:<12} ROC-AUC {told}")
    return "\n".join(lines)
