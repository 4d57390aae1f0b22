"""Serving: clips amid silence, live streams in pieces of any length, slots that do not disturb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lab.made import audio, checkpoint
from understudy.core.errors import ConfigError
from understudy.lab.export import export
from understudy.lab.frontend import Floats
from understudy.lab.runtime import Listener


@pytest.fixture(scope="module", params=[False, True], ids=["outside", "inside"])
def streaming(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Listener:
    made = checkpoint("stream", window=30)
    out = tmp_path_factory.mktemp("stream") / "m.onnx"
    return Listener(export(made, out, inside=request.param, streaming=True).path)


def whole(listener: Listener, clip: Floats) -> Floats:
    """The scores of a stream that got everything at once, [hops, labels]."""
    scores: Floats = listener.slots(1).step(clip[None])[0]
    return scores


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=30))
def test_pieces_of_any_length(streaming: Listener, pieces: list[int]) -> None:
    clip = audio(1.5)[0]
    stream, at, heard = streaming.stream(), 0, []
    for piece in pieces:
        heard.append(stream.push(clip[at : at + piece]))
        at = min(at + piece, len(clip))
    found = np.concatenate(heard)
    assert found.shape == (at // 160, 3)
    if len(found):
        assert np.abs(found - whole(streaming, clip[: at // 160 * 160])).max() < 2e-5


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.lists(st.booleans(), min_size=4, max_size=4)),
        min_size=1,
        max_size=25,
    )
)
def test_slots_do_not_disturb_each_other(
    streaming: Listener, steps: list[tuple[int, list[bool]]]
) -> None:
    clips = audio(2.0, rows=4)
    slots, at = streaming.slots(4), [0] * 4
    heard: list[list[Floats]] = [[] for _ in range(4)]
    for hops, taking_part in steps:
        active = np.array(taking_part)
        block = np.full((4, hops * 160), np.float32(0.7))  # what idle slots get must not matter
        for slot in map(int, np.flatnonzero(active)):
            block[slot] = clips[slot, at[slot] : at[slot] + hops * 160]
            at[slot] += hops * 160
        found = slots.step(block, active)
        assert found.shape == (4, hops, 3)
        assert not found[~active].any()
        for slot in map(int, np.flatnonzero(active)):
            heard[slot].append(found[slot])
    for slot, scores in enumerate(heard):
        if scores:
            alone = whole(streaming, clips[slot, : at[slot]])
            assert np.abs(np.concatenate(scores) - alone).max() < 2e-5


def test_a_slot_starts_anew(streaming: Listener) -> None:
    clips = audio(0.5, rows=2)
    slots = streaming.slots(2)
    first = slots.step(clips)
    slots.reset(1)
    again = slots.step(clips)
    assert np.abs(again[1] - first[1]).max() < 1e-6
    assert np.abs(again[0] - first[0]).max() > 1e-4


def test_scores_are_kept_from_the_next_step(streaming: Listener) -> None:
    slots, clip = streaming.slots(1), audio(0.5)
    first = slots.step(clip[:, :160])
    kept = first.copy()
    for at in range(160, 8000, 160):
        slots.step(np.ascontiguousarray(clip[:, at : at + 160]))
    assert np.array_equal(first, kept)


def test_a_step_takes_whole_hops(streaming: Listener) -> None:
    slots = streaming.slots(2)
    for shape in ((2, 150), (1, 160), (2, 0)):
        with pytest.raises(ValueError, match=r"takes \[2, n·160\]"):
            slots.step(np.zeros(shape, np.float32))


def test_a_stream_ends_where_a_clip_ends(tmp_path: Path) -> None:
    """With a clip no longer than the window, both files and torch agree."""
    made = checkpoint("stream")
    clip = audio(0.9)[0]
    offline = Listener(export(made, tmp_path / "a.onnx").path)
    live = Listener(export(made, tmp_path / "b.onnx", streaming=True).path)
    last = live.stream().push(clip)[-1]
    assert np.abs(offline.label(clip) - last).max() < 2e-5
    assert np.abs(live.label(clip) - last).max() < 2e-5
    assert last.sum() == pytest.approx(1.0, abs=1e-5)


def test_embeddings_have_length_one(tmp_path: Path) -> None:
    made = checkpoint("stream", embedding=12)
    live = Listener(export(made, tmp_path / "m.onnx", streaming=True).path)
    found = live.stream().push(audio(0.4)[0])
    assert found.shape == (40, 12)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    slots = live.slots(2)
    first = slots.step(audio(0.1, rows=2))
    kept = first.copy()
    slots.step(audio(0.1, rows=2, seed=1))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("inside", [False, True])
def test_a_short_clip_is_heard_as_it_was_taught(inside: bool, tmp_path: Path) -> None:
    """In the middle of a window of silence, as `lab.listen` scores it."""
    listen = pytest.importorskip("understudy.lab.listen")
    made = checkpoint("stream", window_frames=100)
    listener = Listener(export(made, tmp_path / "m.onnx", inside=inside).path)
    clip = audio(0.45)[0]
    features = listen.place([made.frontend.features(clip)], 100, made.frontend, 0.5)
    with torch.no_grad():
        wanted = torch.softmax(made.net(torch.from_numpy(features)), 1).numpy()[0]
    near = 2e-2 if inside else 1e-5  # inside, a window that ends past the clip still hears its end
    assert np.abs(listener.label(clip) - wanted).max() < near


def test_frames_are_those_of_the_clip(tmp_path: Path) -> None:
    made = checkpoint("stream", per_frame=True, window_frames=100)
    for name, live in (("a", False), ("b", True)):
        listener = Listener(export(made, tmp_path / f"{name}.onnx", streaming=live).path)
        found = listener.label(audio(0.45)[0])
        assert found.shape == (3, 45)
        assert np.allclose(found.sum(axis=0), 1.0, atol=1e-5)


def test_too_short_a_clip_is_refused(tmp_path: Path) -> None:
    small = Listener(export(checkpoint("small"), tmp_path / "m.onnx").path)
    with pytest.raises(ConfigError, match="80 ms"):
        small.label(np.zeros(7 * 160, np.float32))
    assert small.label(np.zeros(8 * 160, np.float32)).shape == (3,)


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no ONNX file"):
        Listener(tmp_path / "none.onnx")
    clip = Listener(export(checkpoint("stream"), tmp_path / "m.onnx").path)
    with pytest.raises(ConfigError, match="--streaming"):
        clip.stream()
    model = onnx.load(clip.path)
    del model.metadata_props[:]
    onnx.save(model, clip.path)
    with pytest.raises(ConfigError, match="does not say what it hears"):
        Listener(clip.path)


def test_serving_needs_no_torch(tmp_path: Path) -> None:
    path = export(checkpoint("stream"), tmp_path / "m.onnx", streaming=True).path
    code = (
        "import sys, numpy; from understudy.lab.runtime import Listener; "
        f"Listener({str(path)!r}).stream().push(numpy.zeros(1600, numpy.float32)); "
        "print({'torch', 'onnx', 'safetensors'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
