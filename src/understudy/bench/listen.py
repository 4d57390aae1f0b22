"""How long a listener takes, from audio to labels, mel included; beside silero-vad in the same run.

- cold: a fresh process each time: imports, then the session with the first run of 1 s.
- label: a whole clip in memory to scores. hop: the next 10 ms of live streams to scores, `batch`
  of them in one step. Neither counts a resampler, nor the wait for audio to come.
- fp32, int8 (static): ONNX Runtime, the front end outside (SciPy). inside: fp32 with the front end
  in the graph. torch eager: the same front end, then the net.
- CPU time is the process's, over all of its threads; where it lies below the wall percentiles,
  the machine was busy, and the minimum says what the code takes.
- int8 here is timed only; whether it may be used is what `understudy quantize` finds out.

Without MODEL both nets are built with seeded random weights: times do not depend on weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from understudy.bench.histogram import spark
from understudy.bench.listen_runs import RATE_HZ
from understudy.bench.machine import cores
from understudy.bench.server import all_met, as_table, figure, load_average
from understudy.core.errors import ConfigError
from understudy.lab.extra import check_extra

CLASSES: Final = 40
SEED: Final = 7
CALIBRATION_CLIPS: Final = 16
PLOTTED: Final = (("label", 1.0, 1), ("hop", 0.01, 1))
FIGURES: Final = (
    ("label", "fp32", "1 s to labels"),
    ("label", "inside", "1 s to labels, front end inside"),
    ("hop", "fp32", "10 ms hop to labels"),
    ("hop", "inside", "10 ms hop to labels, front end inside"),
)
TARGETS: Final = {  # (what, net): (p50, p95) in µs, float, one thread, one clip or stream
    ("label", "stream"): (600.0, 1000.0),
    ("label", "small"): (900.0, 1300.0),
    ("hop", "stream"): (130.0, 200.0),
}
COLD_MS: Final = 25.0
SAME_STREAM: Final = 2e-5

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    runs: int
    rounds: int
    starts: int  # cold ones
    seconds: tuple[float, ...]
    batches: tuple[int, ...]
    many: bool = True  # measure with a thread a core, too


FULL: Final = Effort(2000, 40, 7, (0.5, 1.0, 2.0, 5.0, 10.0), (1, 4, 8, 16, 32))
QUICK: Final = Effort(100, 4, 1, (0.5, 1.0), (1, 4))


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Say | None = None,
    model: Path | None = None,
    against: Path | None = None,
    effort: Effort | None = None,
) -> dict[str, Any]:
    """Measures. `model`, `against`: checkpoints or exported files; `audio` is not used: how long
    a listener takes depends on no word of what it hears. Raises ConfigError."""
    check_extra("onnx", "onnxruntime")
    say = progress or (lambda _line: None)
    effort = effort or (QUICK if quick else FULL)
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
        say("preparing the files")
        subjects = prepare(model, against, Path(folder))
        starts = {one["name"]: _cold(one, effort.starts, say) for one in subjects}
        warm = {}
        for count in [1, len(cores())] if effort.many and len(cores()) > 1 else [1]:
            say(f"measuring with {count} thread{'s' * (count > 1)}")
            warm[str(count)] = _warm(subjects, effort, count)
    figures = figures_of(subjects, starts, warm["1"])
    return {
        "bench": "listen",
        "about": __doc__,
        "quick": quick,
        "weights": "of the model" if model else "random (seeded)",
        "models": [{k: one[k] for k in ("name", "net", "bytes", "parity")} for one in subjects],
        "load_average": [before, load_average()],
        "result": _headline(warm["1"], subjects[0]["name"]),
        "cold": starts,
        "warm": warm,
        "figures": figures,
        "met": all_met(figures),
    }


# --- What is measured ---


def prepare(model: Path | None, against: Path | None, folder: Path) -> list[dict[str, Any]]:
    """The files of each model: {name, net, clip: {variant: path}, stream, bytes, parity, mel}."""
    chosen = [path for path in (model, against) if path is not None]
    subjects: list[dict[str, Any]] = []
    for at, path in enumerate(chosen):
        name = path.stem if path.suffix == ".onnx" else path.name
        name = f"{name} ({at + 1})" if any(one["name"] == name for one in subjects) else name
        into = folder / str(at)
        into.mkdir()
        file = path.suffix == ".onnx"
        subjects.append(_of_file(name, path, into) if file else _of_checkpoint(name, path, into))
    if not chosen:
        check_extra("torch", "safetensors", "onnx", "onnxruntime")
        subjects = [_of_net(name, folder) for name in ("stream", "small")]
    subjects[0]["mel"] = True
    return subjects


def _of_file(name: str, path: Path, folder: Path) -> dict[str, Any]:
    from understudy.lab.runtime import Listener

    about = Listener(path).metadata
    subject = {**_blank(name, None), "which": about.net["name"]}
    files = {about.precision if not about.inside else "inside": str(path)}
    if about.precision == "fp32":
        files["int8"] = _int8(path, folder)
    subject["stream" if about.streaming else "clip"] = files
    subject["bytes"] = {"given": path.stat().st_size}
    subject["parity"] = dict(about.parity)
    subject["cold"] = str(path)
    return subject


def _of_checkpoint(name: str, path: Path, folder: Path) -> dict[str, Any]:
    check_extra("torch", "safetensors", "onnx", "onnxruntime")
    from understudy.lab import checkpoint

    return _exported(name, checkpoint.load(path), folder)


def _of_net(name: str, folder: Path) -> dict[str, Any]:
    import torch

    from understudy.lab.checkpoint import Checkpoint
    from understudy.lab.frontend import FrontEnd
    from understudy.lab.nets import build

    torch.manual_seed(SEED)
    labels = tuple(f"label {n}" for n in range(CLASSES))
    made = Checkpoint(build(name, CLASSES).eval(), labels, FrontEnd(), "labels", "", 0)
    into = folder / name
    into.mkdir()
    return _exported(name, made, into)


def _exported(name: str, made: Any, folder: Path) -> dict[str, Any]:
    from understudy.lab.export import export

    net = dict(made.net.config)
    subject = _blank(name, net)
    for form in ("clip", "stream") if net["name"] == "stream" else ("clip",):
        for variant in ("fp32", "inside"):
            out = folder / f"{form}.{variant}.onnx"
            done = export(made, out, inside=variant == "inside", streaming=form == "stream")
            subject[form][variant] = str(out)
            subject["bytes"][f"{form} {variant}"] = done.size_bytes
            subject["parity"] |= {
                f"{form} {variant} {k}": v for k, v in done.metadata.parity.items()
            }
        subject[form]["int8"] = _int8(folder / f"{form}.fp32.onnx", folder)
        subject["bytes"][f"{form} int8"] = Path(subject[form]["int8"]).stat().st_size
    subject["cold"] = subject["clip"]["fp32"]
    return subject


def _blank(name: str, net: Mapping[str, Any] | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"clip": {}, "stream": {}, "bytes": {}, "parity": {}, "mel": False}
    return {"name": name, "net": net, "which": net and net["name"], **fields}


def _int8(path: Path, folder: Path) -> str:
    import numpy as np

    from understudy.lab.quantize import convert

    out = folder / f"{path.stem}.int8.onnx"
    noise = np.random.default_rng(SEED).standard_normal((CALIBRATION_CLIPS, RATE_HZ))
    convert(path, out, "int8-static", [(0.05 * one).astype(np.float32) for one in noise])
    return str(out)


def find_silero() -> str | None:
    """silero-vad's ONNX file, if the package is installed; it is not imported."""
    spec = find_spec("silero_vad")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / "data" / "silero_vad.onnx").is_file():
            return str(path)
    return None


# --- Measuring, in processes of their own ---


def _cold(subject: Mapping[str, Any], starts: int, say: Say) -> dict[str, float]:
    """Medians over fresh processes, and the least of session and first run together."""
    import numpy as np

    say(f"{subject['name']}: {starts} cold starts")
    found = [_child({"kind": "cold", "path": subject["cold"]}, 1) for _ in range(starts)]
    both = [one["session_ms"] + one["first_run_ms"] for one in found]
    medians = {key: float(np.median([one[key] for one in found])) for key in found[0]}
    after = {"after_imports_ms": float(np.median(both)), "least_after_imports_ms": min(both)}
    return {key: round(value, 2) for key, value in {**medians, **after}.items()}


def _warm(subjects: Sequence[Mapping[str, Any]], effort: Effort, threads: int) -> Any:
    alone = threads == 1
    job = {
        "kind": "warm",
        "threads": threads,
        "runs": effort.runs if alone else max(effort.rounds, effort.runs // 4),
        "rounds": effort.rounds,
        "seconds": effort.seconds if alone else sorted({1.0, max(effort.seconds)}),
        "batches": effort.batches if alone else sorted({1, max(effort.batches)}),
        "subjects": list(subjects),
        "silero": find_silero(),
    }
    return _child(job, threads)


def _child(job: Mapping[str, Any], threads: int) -> Any:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", "understudy.bench.listen_runs"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, **dict.fromkeys(names, str(threads))},
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        raise ConfigError(f"a measuring process ended with {done.returncode}: {last[0]}")
    return json.loads(done.stdout)


# --- What comes of it ---


def pick(
    rows: Sequence[Mapping[str, Any]], subject: str, what: str, variant: str, **wanted: Any
) -> Mapping[str, Any] | None:
    """The row of one case, of one clip or stream unless told otherwise."""
    wanted = {"subject": subject, "what": what, "variant": variant, "batch": 1, **wanted}
    found = (one for one in rows if all(one[key] == value for key, value in wanted.items()))
    return next(found, None)


def _headline(rows: Sequence[Mapping[str, Any]], subject: str) -> dict[str, Any]:
    """1 s of audio to labels by the first model, or a hop where it only streams."""
    for what, seconds in (("label", 1.0), ("hop", 0.01)):
        for one in rows:
            if (one["subject"], one["what"], one["seconds"]) == (subject, what, seconds):
                chosen = {key: one[key] for key in ("subject", "what", "variant", "seconds")}
                times = {"average_ms": one["mean_us"] / 1e3, "p95_ms": one["p95_us"] / 1e3}
                return {**chosen, **times}
    raise ConfigError(f"{subject} gave nothing to measure")


def figures_of(
    subjects: Sequence[Mapping[str, Any]],
    starts: Mapping[str, Mapping[str, float]],
    rows: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The figures with targets, and the anchor."""
    figures = []
    for subject in subjects:
        name = subject["name"]
        for what, variant, title in FIGURES:
            row = pick(rows, name, what, variant, seconds=1.0 if what == "label" else 0.01)
            if row is None:
                continue
            limits = TARGETS.get((what, subject["which"]), (None, None))
            for share, at_most in zip(("p50", "p95"), limits, strict=True):
                words = f"{name}: {title}, {share}"
                figures.append(figure(words, row[f"{share}_us"], "µs", at_most=at_most))
            figures.append(figure("... least / CPU", row["min_us"], f"/ {row['cpu_us']:g} µs"))
        cold = starts[name]["after_imports_ms"]
        figures.append(figure(f"{name}: cold, after imports", cold, "ms", at_most=COLD_MS))
        for key, value in subject["parity"].items():
            if key.endswith("stream") and key != "stream":
                title = f"{name}: {key.removesuffix(' stream')}, hop by hop against whole, × 1e-6"
                figures.append(figure(title, 1e6 * value, at_most=1e6 * SAME_STREAM))
    anchor = pick(rows, "silero-vad", "chunk", "fp32")
    if anchor is not None:
        figures.append(figure("silero-vad, 32 ms chunk, p50", anchor["p50_us"], "µs"))
        figures.append(figure("silero-vad, 32 ms chunk, p95", anchor["p95_us"], "µs"))
    return figures


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    top = result["result"]
    heard = "1 s of audio" if top["what"] == "label" else "a 10 ms hop"
    head = (
        f"{heard}, {top['subject']} {top['variant']}, mel included, one thread; weights "
        f"{result['weights']}; load average {result['load_average'][0]} to "
        f"{result['load_average'][1]}"
    )
    parts = [
        f"[RESULT] Average latency: {top['average_ms']:.3f} ms\n"
        f"[RESULT] P95 latency: {top['p95_ms']:.3f} ms",
        as_table(head, result["figures"]),
        _cold_table(result["cold"]),
    ]
    parts += [_warm_table(threads, rows) for threads, rows in result["warm"].items()]
    return "\n\n".join(parts)


def _cold_table(starts: Mapping[str, Mapping[str, float]]) -> str:
    rows: list[tuple[str, ...]] = [
        ("cold, ms (median)", "import", "session", "first run", "after imports", "least")
    ]
    keys = ("import_ms", "session_ms", "first_run_ms", "after_imports_ms", "least_after_imports_ms")
    rows += [(name, *(f"{one[key]:.1f}" for key in keys)) for name, one in starts.items()]
    return _columns(rows)


def _warm_table(threads: str, rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("min", "p50", "p95", "p99", "max", "cpu")
    title = f"{threads} thread{'s' * (threads != '1')}, µs"
    lines: list[tuple[str, ...]] = [(title, "audio", "batch", *names, "drift", "runs", "to p99.5")]
    for one in rows:
        times = (f"{one[f'{name}_us']:.0f}" for name in names)
        audio = f"{one['seconds']:g} s" if one["seconds"] >= 0.1 else f"{one['seconds'] * 1e3:g} ms"
        what = f"{one['subject']} {one['what']}, {one['variant']}"
        drift = f"{one['drift_percent']:.0f} %"
        bars = spark(one["histogram"]["counts"])
        lines.append((what, audio, str(one["batch"]), *times, drift, str(one["runs"]), bars))
    return _columns(lines)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n in (0, len(row) - 1) else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def plotted(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows whose histograms `--plot` draws: 1 s and one hop, each variant, and the anchor."""
    rows: Sequence[Mapping[str, Any]] = result["warm"]["1"]
    return [
        one
        for one in rows
        if (one["what"], one["seconds"], one["batch"]) in PLOTTED or one["subject"] == "silero-vad"
    ]
