"""`understudy export` and `understudy quantize`: from a checkpoint to a file that serves itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.core.errors import ConfigError
from understudy.lab.extra import check_extra

if TYPE_CHECKING:
    from understudy.lab.quantize import Clip, Measured, Quantized, Say

OUT = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=OUT, metavar="FILE.onnx", help="Else beside the weights.")
@click.option(
    "--frontend",
    type=click.Choice(("outside", "inside")),
    default="outside",
    show_default=True,
    help="The mel features: by SciPy before the graph (faster for clips), or in it (faster for "
    "live hops, 360 KB more).",
)
@click.option("--streaming", is_flag=True, help="For live audio, hop by hop, with its caches.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def export(
    checkpoint: Path, out: Path | None, frontend: str, streaming: bool, as_json: bool
) -> None:
    """Make an ONNX file of CHECKPOINT, proven to be the same model."""
    check_extra()
    from understudy.lab import checkpoint as checkpoints
    from understudy.lab import export as exporting

    made = checkpoints.load(checkpoint)
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    out = out or folder / ("listener.stream.onnx" if streaming else "listener.onnx")
    done = exporting.export(made, out, inside=frontend == "inside", streaming=streaming)
    if as_json:
        fields = {"path": str(done.path), "bytes": done.size_bytes}
        click.echo(json.dumps({**fields, "parity": dict(done.metadata.parity)}, indent=2))
        return
    about = done.metadata
    what = f"{len(about.labels)} labels" if about.kind != "embedding" else "an embedding"
    click.echo(f"{done.path}: {what}, {done.size_bytes / 1000:.0f} KB, front end {frontend}")
    click.echo(f"scores differ from the checkpoint's by {about.parity['torch']:.1e} at most")
    if streaming:
        click.echo(f"hop by hop, from the whole at once, by {about.parity['stream']:.1e} at most")


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--calibrate",
    "folder",
    required=True,
    metavar="DATA",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Recordings as for training: one half calibrates, the other is scored.",
)
@click.option("--names", metavar="PATTERN", help="As for `train listen`.")
@click.option("--csv", type=OUT, help="As for `train listen`.")
@click.option("--out", type=OUT, metavar="FILE.onnx", help="Else MODEL.int8.onnx.")
@click.option(
    "--max-loss",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="Points of accuracy that int8 may lose.",
)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def quantize(
    model: Path,
    folder: Path,
    names: str | None,
    csv: Path | None,
    out: Path | None,
    max_loss: float,
    as_json: bool,
) -> None:
    """Make an int8 file of MODEL, if it is as good and faster; status 1 where it is not."""
    check_extra("onnx", "onnxruntime")
    from understudy.lab import quantize as quantising

    say: Say = lambda words: click.echo(words, err=True)  # noqa: E731
    calibration, scored = halves(model, folder, names, csv, say)
    done = quantising.quantize(
        model, [audio for audio, _ in calibration], scored, out, max_loss=max_loss / 100, say=say
    )
    click.echo(json.dumps(done.as_dict(), indent=2) if as_json else table(done))
    if done.path is None:
        raise ConfigError(f"int8 is refused; go on with {model.name}")


def halves(
    model: Path, folder: Path, names: str | None, csv: Path | None, say: Say
) -> tuple[list[Clip], list[Clip]]:
    """(clips to calibrate with, clips to score), of different speakers where they are known."""
    from understudy.lab import audio, data
    from understudy.lab.quantize import CALIBRATION_CLIPS
    from understudy.lab.runtime import Listener

    rate_hz = Listener(model).frontend.rate_hz
    split = data.split(data.scan(folder, names, csv, rate_hz=rate_hz))
    for warning in split.warnings:
        say(f"warning: {warning}")
    step = max(1, len(split.train) // CALIBRATION_CLIPS)
    chosen = split.train[::step][:CALIBRATION_CLIPS]
    return (
        [(audio.read(clip.path, rate_hz), clip.label) for clip in chosen],
        [(audio.read(clip.path, rate_hz), clip.label) for clip in split.validation],
    )


def table(done: Quantized) -> str:
    """What was tried, and what became of it."""
    rows = [("", "accuracy", "p50", "least", "CPU", "size", "")]
    rows.append(_row("fp32", done.original, ""))
    for trial in done.trials:
        verdict = f"refused: {trial.refused}" if trial.refused else "good"
        rows.append(_row(trial.variant, trial.measured, verdict))
    widths = [max(len(row[n]) for row in rows) for n in range(6)]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:6], widths[1:], strict=True)),
                row[6],
            ]
        )
        for row in rows
    ]
    if done.path is not None:
        lines.append(f"{done.path} is written.")
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, one: Measured, verdict: str) -> tuple[Any, ...]:
    times = (f"{value:.0f} µs" for value in (one.p50_us, one.min_us, one.cpu_us))
    return (name, f"{100 * one.accuracy:.2f} %", *times, f"{one.size_bytes / 1000:.0f} KB", verdict)
