"""int8: made, signed, and refused where measured numbers say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner

from tests.lab.made import LABELS, audio, checkpoint
from understudy.cli import cli
from understudy.core.errors import ConfigError
from understudy.lab import quantize as quantising
from understudy.lab.export import export
from understudy.lab.quantize import Clip, Measured, quantize, refusal
from understudy.lab.runtime import Listener

FLOAT = Measured(accuracy=0.95, p50_us=100.0, min_us=90.0, cpu_us=105.0, size_bytes=4000)
BETTER = Measured(accuracy=0.948, p50_us=70.0, min_us=65.0, cpu_us=75.0, size_bytes=1000)


def clips(count: int, seed: int = 0) -> list[Clip]:
    return [(audio(1.0, seed=seed + n)[0], LABELS[n % 3]) for n in range(count)]


def fixed(dynamic: Measured, static: Measured) -> quantising.Measure:
    def measure(files: Mapping[str, Path], scored: Sequence[Clip]) -> Mapping[str, Measured]:
        assert all(path.stat().st_size for path in files.values())
        return {"fp32": FLOAT, "int8-dynamic": dynamic, "int8-static": static}

    return measure


@pytest.mark.parametrize(
    ("tried", "why"),
    [
        (BETTER, None),
        (replace(BETTER, accuracy=0.94), "loses 1.00 points"),
        (replace(BETTER, p50_us=100.0), "not faster (median 100"),
        (replace(BETTER, min_us=91.0), "not faster (minimum 91"),
        (replace(BETTER, accuracy=0.99), None),
    ],
)
def test_what_is_refused(tried: Measured, why: str | None) -> None:
    found = refusal(FLOAT, tried, 0.005)
    assert found is None if why is None else why in (found or "")


def test_the_faster_one_that_is_good_is_kept(tmp_path: Path) -> None:
    model = export(checkpoint("stream"), tmp_path / "m.onnx").path
    slow = replace(BETTER, p50_us=80.0)
    done = quantize(model, [audio()[0]], clips(3), measure=fixed(slow, BETTER))
    assert done.path == tmp_path / "m.int8.onnx"
    listener = Listener(done.path)
    assert listener.metadata.precision == "int8-static"
    assert listener.metadata.measured["fp32"]["p50_us"] == 100.0
    assert listener.labels == LABELS
    assert done.path.stat().st_size < 0.6 * model.stat().st_size
    with pytest.raises(ConfigError, match="already"):
        quantize(done.path, [audio()[0]], clips(3))


def test_nothing_is_written_where_all_is_refused(tmp_path: Path) -> None:
    model = export(checkpoint("small"), tmp_path / "m.onnx").path
    slow, wrong = replace(BETTER, p50_us=300.0), replace(BETTER, accuracy=0.5)
    done = quantize(model, [audio()[0]], clips(3), measure=fixed(slow, wrong))
    assert done.path is None
    assert [trial.refused is None for trial in done.trials] == [False, False]
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_static_int8_still_hears_the_same(streaming: bool, inside: bool, tmp_path: Path) -> None:
    made = checkpoint("stream")
    model = export(made, tmp_path / "m.onnx", inside=inside, streaming=streaming).path
    out = tmp_path / "q.onnx"
    quantising.convert(model, out, "int8-static", [audio(1.0, seed=n)[0] for n in range(8)])
    clip = audio(1.0, seed=99)[0]
    before, after = Listener(model).label(clip), Listener(out).label(clip)
    assert np.abs(before - after).max() < 0.05
    assert not np.array_equal(before, after)
    for node in onnx.load(out).graph.node:  # the spectrum stays float
        if node.name.startswith("frontend/"):
            assert "Quantize" not in node.op_type


def test_accuracy_is_counted(tmp_path: Path) -> None:
    listener = Listener(export(checkpoint("stream"), tmp_path / "m.onnx").path)
    scored = clips(6)
    truth = [LABELS[int(listener.label(heard).argmax())] for heard, _ in scored]
    wrong = next(label for label in LABELS if label != truth[0])
    told = [(heard, label) for (heard, _), label in zip(scored, truth, strict=True)]
    told[0] = (told[0][0], wrong)
    found = quantising.accuracy({"fp32": listener, "again": listener}, told)
    assert found == {"fp32": pytest.approx(5 / 6), "again": pytest.approx(5 / 6)}
    with pytest.raises(ConfigError, match="knows no label maybe"):
        quantising.accuracy({"fp32": listener}, [(scored[0][0], "maybe")])


def test_embeddings_and_frames_are_held_to_the_float_file(tmp_path: Path) -> None:
    for options in ({"embedding": 12}, {"per_frame": True}):
        model = export(checkpoint("stream", **options), tmp_path / "m.onnx").path
        out = tmp_path / "q.onnx"
        quantising.convert(model, out, "int8-static", [audio(1.0, seed=n)[0] for n in range(4)])
        listeners = {"fp32": Listener(model), "int8": Listener(out)}
        found = quantising.accuracy(listeners, clips(3))
        assert found["fp32"] == pytest.approx(1.0, abs=1e-5)
        assert 0.9 < found["int8"] < 1.0001


def test_speed_is_measured_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising, "ROUNDS", 2)
    monkeypatch.setattr(quantising, "RUNS", 3)
    ran = {"a": 0, "b": 0}

    def step(name: str) -> None:
        ran[name] += 1

    found = quantising.speed({"a": lambda: step("a"), "b": lambda: step("b")})
    assert ran == {"a": 9, "b": 9}  # a round more, to warm up
    assert all(0 <= least <= median for median, least, _ in found.values())


def test_the_command_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = export(checkpoint("stream"), tmp_path / "m.onnx").path
    for label in LABELS:
        for speaker in ("ann", "bob", "cat"):
            folder = tmp_path / "data" / label
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{speaker}_1.wav", audio(0.5, seed=len(speaker))[0], 16000)
    data = str(tmp_path / "data")
    slow = replace(BETTER, p50_us=300.0)
    monkeypatch.setattr(quantising, "measure_files", fixed(slow, slow))
    ran = CliRunner().invoke(cli, ["quantize", str(model), "--calibrate", data])
    assert "refused: is not faster (median 300 µs, float 100 µs)" in ran.output
    assert isinstance(ran.exception, ConfigError)
    monkeypatch.setattr(quantising, "measure_files", fixed(slow, BETTER))
    ran = CliRunner().invoke(cli, ["quantize", str(model), "--calibrate", data])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "m.int8.onnx").is_file()
