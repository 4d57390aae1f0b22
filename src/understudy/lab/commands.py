"""`understudy train …` and `understudy evaluate`: the lab on the command line."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.lab.extra import check_extra

if TYPE_CHECKING:
    from understudy.lab.data import Progress
    from understudy.lab.loop import Epoch

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
MODEL = click.Path(path_type=Path, exists=True)


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


data_options = _together(
    click.option(
        "--names",
        metavar="PATTERN",
        help="What file names tell, such as '{label}_{speaker}_{n}'; with a / of the whole path.",
    ),
    click.option(
        "--csv",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A table path,label,speaker instead.",
    ),
    click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where features are kept for the next time; else ~/.cache/understudy/features.",
    ),
    click.option("--threads", type=click.IntRange(1, 256), help="CPU threads; else all cores."),
)

learn_options = _together(
    click.option(
        "--model",
        type=click.Choice(("stream", "small")),
        default="stream",
        show_default=True,
        help="A causal TCN that carries on frame by frame, or SmallVoiceNet.",
    ),
    click.option(
        "--width", type=click.IntRange(4, 1024), help="Channels; else 64, or 16 of small."
    ),
    click.option("--epochs", type=click.IntRange(1), default=60, show_default=True),
    click.option("--batch", type=click.IntRange(2), default=64, show_default=True),
    click.option("--rate", type=click.FloatRange(1e-6, 1), default=3e-3, show_default=True),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option(
        "--patience",
        type=click.IntRange(0),
        default=20,
        show_default=True,
        help="Stop after so many epochs without a better score; 0: never.",
    ),
    click.option("--resume", is_flag=True, help="Go on with what stopped in --out."),
    click.option("--tensorboard", is_flag=True, help="Write DIR/tensorboard, too."),
    click.option("--json", "as_json", is_flag=True, help="For scripts."),
)

out_option = click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to make."
)


@click.group()
def train() -> None:
    """Make a listener (audio to labels) out of recordings. Needs `understudy[train]`."""


@train.command()
@click.argument("folder", metavar="DATA", type=FOLDER)
@out_option
@data_options
@click.option("--split", type=click.Choice(("auto", "speaker", "file")), default="auto")
@click.option("--validate", metavar="A,B", default="", help="Speakers to validate with.")
@click.option("--noise", type=FOLDER, help="Recorded noise: half to mix in, half to judge with.")
@click.option("--foreign", type=FOLDER, help="Speech without any of the labels; half and half.")
@click.option("--embedding", type=click.IntRange(0, 1024), default=0, metavar="N", help="Voices.")
@click.option("--from", "start", type=MODEL, help="Fine-tune this checkpoint on new labels.")
@click.option("--teacher", type=MODEL, help="Distil this checkpoint of the same labels.")
@click.option(
    "--augment",
    type=click.Choice(("auto", "light", "strong", "none")),
    default="auto",
    show_default=True,
    help="How much clips are changed; auto: strong for fewer than 8 voices.",
)
@learn_options
def listen(
    folder: Path,
    out: Path,
    names: str | None,
    csv: Path | None,
    cache: Path | None,
    threads: int | None,
    split: str,
    validate: str,
    noise: Path | None,
    foreign: Path | None,
    embedding: int,
    start: Path | None,
    teacher: Path | None,
    augment: str,
    as_json: bool,
    **learning: Any,
) -> None:
    """Learn the labels of DATA/LABEL/*.wav, and write checkpoints and a report into --out.

    With --embedding N, learn voices instead: vectors that are close for one speaker's clips.
    """
    check_extra()
    from understudy.lab import training
    from understudy.lab.data import cache_dir
    from understudy.lab.listen import Recipe

    training.set_threads(threads)
    recipe = Recipe(
        model=learning["model"],
        width=learning["width"],
        embedding=embedding,
        batch=learning["batch"],
        negatives=0.25 if foreign or noise else 0.0,
    )
    course = training.Course(
        folder,
        out,
        names,
        csv,
        split,
        tuple(name for name in validate.split(",") if name),
        noise,
        foreign,
        start,
        teacher,
        recipe,
        augment,
        plan_of(learning),
        resume=learning["resume"],
        tensorboard=learning["tensorboard"],
        cache=cache or cache_dir(),
    )
    with bars() as progress:
        said = training.Said(progress, _warn, _tell, _epoch)
        figures = training.train(course, said)
    click.echo(json.dumps(figures, indent=2) if as_json else summary(figures))
    _tell(f"Checkpoints and the report are in {out}: open {out / training.REPORT}")


@train.command("vad-data")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--speech", type=FOLDER, multiple=True, help="Recordings, a folder a speaker.")
@click.option("--noise", type=FOLDER, multiple=True, help="Recordings without speech.")
@click.option("--credit", multiple=True, metavar="WORDS", help="Whom the model is to name.")
@click.option("--minutes", type=click.FloatRange(1, 10000), default=60.0, show_default=True)
@click.option("--synthetic", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def vad_data(
    out: Path,
    speech: tuple[Path, ...],
    noise: tuple[Path, ...],
    credit: tuple[str, ...],
    minutes: float,
    synthetic: float,
    seed: int,
) -> None:
    """Make a data set for voice activity in OUT: speech in noise, by synthesis.

    With --speech and --noise recordings are mixed in; one speaker and one noise of three are kept
    for validation. --synthetic: the share of synthesis where there are recordings. Speech is
    synthesised by espeak-ng.
    """
    from understudy.lab import vad_data as making

    with bars() as progress:
        sources = making.Sources(speech, noise, credit, synthetic)
        count = making.build(out, sources, minutes=minutes, seed=seed, progress=progress)
    _tell(f"{count} clips are in {out}; `understudy train vad {out} --out DIR` learns from them")


@train.command()
@click.argument("folder", metavar="DATA", type=FOLDER)
@out_option
@click.option("--width", type=click.IntRange(4, 1024), help="Channels; else 64.")
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1, 256), help="CPU threads; else all cores.")
@click.option("--resume", is_flag=True, help="Go on with what stopped in --out.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def vad(
    folder: Path,
    out: Path,
    width: int | None,
    epochs: int,
    seed: int,
    threads: int | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Learn voice activity (does somebody speak?) from a folder of `understudy train vad-data`."""
    check_extra()
    from understudy.lab import training
    from understudy.lab import vad as learning
    from understudy.lab.loop import Plan

    training.set_threads(threads)
    plan = Plan(epochs=epochs, seed=seed)
    with bars() as progress:
        figures = learning.train(
            folder, out, plan, width=width, resume=resume, progress=progress, say=_epoch
        )
    told = f"ROC-AUC {figures['roc_auc']:.4f} over the frames of validation"
    click.echo(json.dumps(figures, indent=2) if as_json else told)


@click.command()
@click.argument("model", type=MODEL)
@click.argument("folder", metavar="DATA", type=FOLDER)
@data_options
@click.option("--speakers", metavar="A,B", default="", help="Only these speakers' clips.")
@click.option("--noise", type=FOLDER, help="Count false accepts on these recordings, too.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def evaluate(
    model: Path,
    folder: Path,
    names: str | None,
    csv: Path | None,
    cache: Path | None,
    threads: int | None,
    speakers: str,
    noise: Path | None,
    as_json: bool,
) -> None:
    """What MODEL (a checkpoint, or an exported .onnx) is worth on DATA/LABEL/*.wav."""
    check_extra()
    from understudy.lab import audio, data, evaluation, training
    from understudy.lab.opening import open_model

    training.set_threads(threads)
    listener = open_model(model)
    with bars() as progress:
        dataset = data.scan(folder, names, csv, progress=progress)
        clips = evaluation.of_speakers(dataset, [name for name in speakers.split(",") if name])
        features = data.features(
            clips, listener.frontend, cache=cache or data.cache_dir(), progress=progress
        )
        figures, _ = evaluation.evaluate(listener, clips, features)
        if noise is not None and listener.kind == "labels":
            figures["false_accepts"] = {
                "noise": evaluation.false_accepts(listener, audio.find(noise))
            }
    figures["rejects"] = [
        {"path": str(one.path.relative_to(folder)), "reason": one.reason} for one in dataset.rejects
    ]
    click.echo(json.dumps(figures, indent=2) if as_json else summary(figures))
    for words in figures["warnings"]:
        _warn(words)


def plan_of(learning: dict[str, Any]) -> Any:
    from understudy.lab.loop import Plan

    return Plan(
        epochs=learning["epochs"],
        learning_rate=learning["rate"],
        patience=learning["patience"],
        seed=learning["seed"],
    )


def summary(figures: dict[str, Any]) -> str:
    """The figures in a few lines."""
    who = f"{figures['clips']} clips of {figures['speakers']} speakers"
    if figures["kind"] == "embedding":
        lines = [f"{who}: equal error rate {figures['eer']:.1%}"]
        if figures["voiceprint_eer"] is not None:
            lines.append(
                f"voiceprints of {figures['voiceprint_clips']} clips: "
                f"{figures['voiceprint_eer']:.1%}"
            )
        return "\n".join(lines)
    lines = [f"{who}: {figures['accuracy']:.1%} right"]
    for what in ("by_speaker", "by_label"):
        groups = sorted(figures[what].items(), key=lambda item: item[1]["accuracy"])
        if groups:
            told = ", ".join(f"{name} {group['accuracy']:.0%}" for name, group in groups[:5])
            lines.append(f"lowest {what.replace('_', ' ')}: {told}")
    for name, found in figures.get("false_accepts", {}).items():
        rates = ", ".join(f"{rate} at {level}" for level, rate in found["an_hour"].items())
        lines.append(f"false accepts an hour on {name} ({found['minutes']} min): {rates}")
    return "\n".join(lines)


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """A bar for each stage on a terminal, nothing in a log."""
    if not sys.stderr.isatty():
        yield lambda what, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), Left())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        stages: dict[str, Any] = {}

        def update(what: str, done: int, of: int) -> None:
            if what not in stages or done == 1:
                stages[what] = shown.add_task(what, total=of)
            shown.update(stages[what], completed=done, total=of)

        yield update


def _epoch(epoch: Epoch) -> None:
    figures = epoch.validation
    told = f"EER {figures['eer']:.2%}" if "eer" in figures else f"{figures.get('accuracy', 0):.2%}"
    _tell(
        f"epoch {epoch.epoch:>3}: training loss {epoch.train_loss:.3f} ({epoch.train_accuracy:.1%})"
        f", validation loss {figures['loss']:.3f} ({told}), {epoch.seconds:.1f} s"
    )


def _warn(words: str) -> None:
    click.secho(f"warning: {words}", fg="yellow", bold=True, err=True)


def _tell(words: str) -> None:
    click.echo(words, err=True)
