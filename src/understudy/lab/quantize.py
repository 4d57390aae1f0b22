"""Owns the way from a float ONNX file to an int8 one that is as good and faster, or to the reason
why there is none: int8 is never taken on trust, each try is scored and timed beside the original.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any, Final

import numpy as np
import onnx
from onnxruntime import quantization

from understudy.core.errors import ConfigError
from understudy.lab.frontend import Floats
from understudy.lab.metadata import Metadata
from understudy.lab.runtime import Listener

FRONT_END: Final = "frontend/"  # its nodes stay float: a spectrum spans 80 dB, int8 spans 48
MAX_LOSS: Final = 0.005  # of accuracy: half a point
CALIBRATION_CLIPS: Final = 200
ROUNDS: Final = 25
RUNS: Final = 40
VARIANTS: Final = ("int8-dynamic", "int8-static")

Clip = tuple[Floats, str]  # (samples, label)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one file. `accuracy`: the share of clips that get their label; for an embedding the mean
    cosine with the float file's vectors, for frames the share of frames that get its label.
    Times are of 1 s of audio, or of one hop for a streaming file, without an outside front end.
    """

    accuracy: float
    p50_us: float
    min_us: float
    cpu_us: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Trial:
    variant: str
    measured: Measured
    refused: str | None  # why


@dataclass(frozen=True, slots=True)
class Quantized:
    """`path` is None where every try was refused."""

    path: Path | None
    original: Measured
    trials: tuple[Trial, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": None if self.path is None else str(self.path)}


Measure = Callable[[Mapping[str, Path], Sequence[Clip]], Mapping[str, Measured]]


def quantize(
    model: Path,
    calibration: Sequence[Floats],
    scored: Sequence[Clip],
    out: Path | None = None,
    *,
    max_loss: float = MAX_LOSS,
    measure: Measure | None = None,
    say: Say = lambda _words: None,
) -> Quantized:
    """Tries int8 with ranges found as it runs (dynamic) and with ranges of `calibration` (static).

    The faster of those that are not refused is written to `out` (MODEL.int8.onnx). Raises
    ConfigError if the file is int8 already, or there is nothing to calibrate or to score with.
    """
    about = Listener(model).metadata
    if about.precision != "fp32":
        raise ConfigError(f"{model.name} is {about.precision} already; quantise the float file")
    if not calibration or not scored:
        raise ConfigError("give some clips to calibrate with and others to score with")
    out = out or model.with_name(f"{model.stem}.int8.onnx")
    with tempfile.TemporaryDirectory(prefix="understudy-", dir=_folder(out)) as folder:
        files = {"fp32": model}
        for variant in VARIANTS:
            say(f"making {variant}")
            files[variant] = Path(folder) / f"{variant}.onnx"
            convert(model, files[variant], variant, calibration)
        say(f"measuring on {len(scored)} clips")
        found = (measure or measure_files)(files, scored)
        original = found["fp32"]
        trials = tuple(
            Trial(variant, found[variant], refusal(original, found[variant], max_loss))
            for variant in VARIANTS
        )
        good = [trial for trial in trials if trial.refused is None]
        if not good:
            return Quantized(None, original, trials)
        best = min(good, key=lambda trial: trial.measured.p50_us)
        _sign(files[best.variant], best, original)
        files[best.variant].replace(out)
    return Quantized(out, original, trials)


def refusal(original: Measured, tried: Measured, max_loss: float) -> str | None:
    """Why an int8 file is not to be used, in words; None: it may be."""
    reasons = []
    lost = original.accuracy - tried.accuracy
    if lost > max_loss:
        reasons.append(
            f"loses {100 * lost:.2f} points ({100 * original.accuracy:.2f} to "
            f"{100 * tried.accuracy:.2f} %), more than {100 * max_loss:g}"
        )
    for name in ("p50_us", "min_us"):
        before, after = getattr(original, name), getattr(tried, name)
        if after >= before:
            what = "median" if name == "p50_us" else "minimum"
            reasons.append(f"is not faster ({what} {after:.0f} µs, float {before:.0f} µs)")
            break
    return " and ".join(reasons) or None


def convert(model: Path, out: Path, variant: str, calibration: Sequence[Floats]) -> None:
    """Writes the int8 file, everything but the front end in int8.

    Static: every node is quantised, not the convolutions alone. Going back to float for each
    addition costs more than int8 saves (see docs/lab.md).
    """
    graph = onnx.load(model).graph
    kept = [node.name for node in graph.node if node.name.startswith(FRONT_END)]
    with _quiet():
        if variant == "int8-dynamic":
            quantization.quantize_dynamic(
                model,
                out,
                op_types_to_quantize=["Conv", "Gemm"],
                nodes_to_exclude=kept,
                weight_type=quantization.QuantType.QUInt8,  # all that ConvInteger takes
            )
        else:
            quantization.quantize_static(
                model,
                out,
                _Reader(Listener(model), calibration),
                per_channel=True,
                nodes_to_exclude=kept,
                activation_type=quantization.QuantType.QUInt8,  # u8 times s8 is VNNI's own
                weight_type=quantization.QuantType.QInt8,
            )


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Clips as the graph takes them; a stream from its start."""

    def __init__(self, listener: Listener, clips: Sequence[Floats]) -> None:
        self._listener, self._left = listener, iter(clips)

    def get_next(self) -> dict[str, Floats] | None:
        clip = next(self._left, None)
        return None if clip is None else self._listener.given(clip[None])


def measure_files(files: Mapping[str, Path], scored: Sequence[Clip]) -> dict[str, Measured]:
    """Accuracy on the clips, and speed, the files taking turns; one thread."""
    listeners = {name: Listener(path) for name, path in files.items()}
    accuracies = accuracy(listeners, scored)
    times = speed({name: step_of(listener) for name, listener in listeners.items()})
    return {
        name: Measured(accuracies[name], *times[name], path.stat().st_size)
        for name, path in files.items()
    }


def accuracy(listeners: Mapping[str, Listener], scored: Sequence[Clip]) -> dict[str, float]:
    """As `Measured` has it. Raises ConfigError where a clip's label is none of the model's."""
    original = listeners["fp32"]
    labels = original.labels
    if original.metadata.kind == "labels" and (odd := {label for _, label in scored} - {*labels}):
        raise ConfigError(
            f"the model knows no label {', '.join(sorted(odd)[:5])}; calibrate with recordings of "
            f"what it was trained for ({', '.join(labels[:5])} ...)"
        )
    marks: dict[str, list[float]] = {name: [] for name in listeners}
    for audio, label in scored:
        wanted = original.label(audio)
        for name, listener in listeners.items():
            scores = wanted if name == "fp32" else listener.label(audio)
            if original.metadata.kind == "labels":
                mark = float(labels[int(scores.argmax())] == label)
            elif original.metadata.kind == "embedding":
                mark = float(scores @ wanted)
            else:
                mark = float(np.mean(scores.argmax(0) == wanted.argmax(0)))
            marks[name].append(mark)
    return {name: float(np.mean(found)) for name, found in marks.items()}


def step_of(listener: Listener) -> Callable[[], Any]:
    """What is timed: the graph on 1 s of audio, or on one hop of a stream."""
    rng = np.random.default_rng(5)
    rate = listener.frontend.rate_hz
    audio = (0.05 * rng.standard_normal((1, rate))).astype(np.float32)
    if listener.metadata.streaming:
        slots = listener.slots(1)
        hop = np.ascontiguousarray(audio[:, : listener.frontend.hop])
        return lambda: slots.raw(hop)
    given = listener.inputs(audio)
    return lambda: listener.session.run(None, given)


def speed(steps: Mapping[str, Callable[[], Any]]) -> dict[str, tuple[float, float, float]]:
    """(median, minimum, CPU time a run) in µs of each, measured in turns, so that a busy moment
    of the machine falls on all of them."""
    walls: dict[str, list[int]] = {name: [] for name in steps}
    cpu = dict.fromkeys(steps, 0)
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            began = process_time_ns()
            for _ in range(RUNS):
                start = perf_counter_ns()
                step()
                walls[name].append(perf_counter_ns() - start)
            cpu[name] += process_time_ns() - began
            if not turn:  # to warm up
                walls[name].clear()
                cpu[name] = 0
    return {
        name: (
            float(np.median(found)) / 1e3,
            min(found) / 1e3,
            cpu[name] / len(found) / 1e3,
        )
        for name, found in walls.items()
    }


def _sign(path: Path, trial: Trial, original: Measured) -> None:
    """Writes into the file what it is and how it fared."""
    model = onnx.load(path)
    props = {prop.key: prop.value for prop in model.metadata_props}
    metadata = replace(
        Metadata.from_props(props, path),
        precision=trial.variant,
        measured={trial.variant: asdict(trial.measured), "fp32": asdict(original)},
    )
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**props, **metadata.as_props()})
    onnx.save(model, path)


def _folder(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice about what has been done already."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
