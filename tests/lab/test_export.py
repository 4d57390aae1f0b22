"""Exported graphs: equal to torch, to themselves hop by hop, inside and outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from tests.lab.made import LABELS, audio, checkpoint
from understudy.cli import cli
from understudy.core.errors import ConfigError, ModelFailed
from understudy.lab import checkpoint as checkpoints
from understudy.lab.export import SAME_STREAM, export, prove
from understudy.lab.frontend import FrontEnd
from understudy.lab.graph import dft
from understudy.lab.runtime import Listener

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("small", {}),
    ("small", {"embedding": 12}),
    ("stream", {}),
    ("stream", {"embedding": 12}),
    ("stream", {"per_frame": True}),
    ("stream", {"per_frame": True, "window": 15}),
    ("stream", {"width": 20, "window": 7}),
]


@pytest.mark.parametrize(("name", "options"), FORMS)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("seconds", [0.2, 1.0, 1.705])
def test_a_clip_gets_torchs_scores(
    name: str, options: dict[str, Any], inside: bool, seconds: float, tmp_path: Path
) -> None:
    made = checkpoint(name, **options)
    listener = Listener(export(made, tmp_path / "m.onnx", inside=inside).path)
    clips = audio(seconds, rows=3)
    with torch.no_grad():
        wanted = made.net(torch.from_numpy(FrontEnd().batch(clips))).numpy()
    assert np.abs(listener.raw(clips) - wanted).max() < 5e-5


@pytest.mark.parametrize(("name", "options"), FORMS[2:])
@pytest.mark.parametrize("inside", [False, True])
def test_a_stream_is_proven_equal(
    name: str, options: dict[str, Any], inside: bool, tmp_path: Path
) -> None:
    done = export(checkpoint(name, **options), tmp_path / "m.onnx", inside=inside, streaming=True)
    assert done.metadata.parity["stream"] <= SAME_STREAM
    assert done.metadata.parity["torch"] <= 1e-4
    assert done.metadata.caches
    assert Listener(done.path).metadata == done.metadata


def test_inside_is_outside(tmp_path: Path) -> None:
    """The front end that serves is the one that taught, wherever it runs."""
    made = checkpoint("stream")
    outside = Listener(export(made, tmp_path / "out.onnx").path)
    inside = Listener(export(made, tmp_path / "in.onnx", inside=True).path)
    clip = audio(1.3)[0]
    assert np.abs(outside.label(clip) - inside.label(clip)).max() < 1e-5
    assert inside.path.stat().st_size < outside.path.stat().st_size + 380_000


def test_the_folded_dft_is_the_dft() -> None:
    frontend = FrontEnd()
    cosines, sines = dft(frontend)
    frame = np.random.default_rng(2).standard_normal(400)
    mirrored = frame[:0:-1]
    even, odd = frame[1:201] + mirrored[:200], frame[1:201] - mirrored[:200]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    spectrum = np.fft.rfft(frame * hann)[2:196]
    assert np.abs(even @ cosines - spectrum.real).max() < 1e-4
    assert np.abs(odd @ sines + spectrum.imag).max() < 1e-4


def test_axes_have_standard_names_and_any_length(tmp_path: Path) -> None:
    def shapes(values: Any) -> dict[str, list[Any]]:
        return {
            one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim]
            for one in values
        }

    made = checkpoint("stream")
    clip = onnx.load(export(made, tmp_path / "a.onnx").path).graph
    assert shapes(clip.input) == {"features": ["batch", 64, "frames"]}
    assert shapes(clip.output) == {"logits": ["batch", 3]}
    inside = onnx.load(export(made, tmp_path / "b.onnx", inside=True).path).graph
    assert shapes(inside.input) == {"audio": ["batch", "samples"]}
    stream = onnx.load(export(made, tmp_path / "c.onnx", streaming=True).path).graph
    given, found = shapes(stream.input), shapes(stream.output)
    assert given.pop("features") == ["slots", 64, "frames"]
    assert found.pop("logits") == ["slots", 3, "frames"]
    assert found == {f"next_{name}": shape for name, shape in given.items()}


def test_the_file_says_all_that_serving_needs(tmp_path: Path) -> None:
    made = checkpoint("stream", window_frames=90)
    listener = Listener(export(made, tmp_path / "m.onnx").path)
    about = listener.metadata
    assert listener.labels == LABELS
    assert listener.frontend == made.frontend
    assert (about.kind, about.data_hash, about.window_frames) == ("labels", "d4ta", 90)
    assert (about.precision, about.inside, about.streaming) == ("fp32", False, False)
    assert about.net == made.net.config


def test_sizes(tmp_path: Path) -> None:
    for name in ("small", "stream"):
        assert export(checkpoint(name), tmp_path / "m.onnx").size_bytes < 200_000
    made = checkpoint("stream")
    assert export(made, tmp_path / "m.onnx", streaming=True).size_bytes < 200_000


def test_the_same_checkpoint_makes_the_same_file(tmp_path: Path) -> None:
    one = export(checkpoint(), tmp_path / "1.onnx").path.read_bytes()
    assert export(checkpoint(), tmp_path / "2.onnx").path.read_bytes() == one


def test_small_cannot_stream(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="whole clips"):
        export(checkpoint("small"), tmp_path / "m.onnx", streaming=True)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_another_model_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof can fail: another weight in one place, or a cache that forgets."""
    made = checkpoint("stream")
    path = export(made, tmp_path / "m.onnx", streaming=True).path
    made.net.state_dict()["blocks.3.pointwise.weight"][5, 6] += 0.5
    with pytest.raises(ModelFailed, match="torch"):
        prove(made.net, path)
    made = checkpoint("stream")
    monkeypatch.setattr("understudy.lab.graph._folded", _unfolded)
    with pytest.raises(ModelFailed):
        export(made, tmp_path / "other.onnx")
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]


def _unfolded(weights: Any, conv: str, norm: str) -> Any:
    kernel = weights[f"{conv}.weight"]
    return kernel, np.zeros(len(kernel), np.float32)


def test_the_proof_sees_a_cache_that_forgets(tmp_path: Path) -> None:
    made = checkpoint("stream")
    path = export(made, tmp_path / "m.onnx", streaming=True).path
    model = onnx.load(path)
    for node in model.graph.node:
        if "next_cache_2" in node.output:
            node.op_type, node.input[:] = "Identity", ["cache_2"]
    onnx.save(model, path)
    with pytest.raises(ModelFailed, match="stream differs"):
        prove(made.net, path)


def test_the_command(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "model", checkpoint())
    ran = CliRunner().invoke(cli, ["export", str(tmp_path / "model"), "--streaming"])
    assert ran.exit_code == 0, ran.output
    assert "hop by hop" in ran.output
    assert Listener(tmp_path / "model" / "listener.stream.onnx").metadata.streaming
    out = tmp_path / "x.onnx"
    ran = CliRunner().invoke(
        cli, ["export", str(tmp_path / "model"), "--frontend", "inside", "--out", str(out)]
    )
    assert ran.exit_code == 0, ran.output
    assert Listener(out).metadata.inside
