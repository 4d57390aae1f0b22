"""The front end: what it computes, that it is causal, and that a stream has the file's frames."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lab.made import audio
from understudy.core.errors import ConfigError
from understudy.lab.frontend import (
    FrontEnd,
    Streaming,
    filters,
    hz_to_mel,
    mel_to_hz,
    statistics,
    window,
)


def plainly(frontend: FrontEnd, samples: np.ndarray) -> np.ndarray:
    """The definition, frame by frame in float64, with a DFT written out."""
    lead = np.zeros(frontend.fft - frontend.hop)
    padded = np.concatenate([lead, samples.astype(np.float64)])
    n = np.arange(frontend.fft)
    bins = np.arange(frontend.fft // 2 + 1)
    dft = np.exp(-2j * np.pi * np.outer(bins, n) / frontend.fft)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / frontend.fft)
    frames = []
    for t in range(len(samples) // frontend.hop):
        piece = padded[t * frontend.hop : t * frontend.hop + frontend.fft]
        power = np.abs(dft @ (piece * hann)) ** 2
        log_mel = np.log(filters(frontend).astype(np.float64) @ power + frontend.floor)
        frames.append((log_mel - frontend.mean) / frontend.std)
    return np.stack(frames, axis=1)


def test_is_what_its_definition_says() -> None:
    samples = audio(0.31)[0]
    found = FrontEnd().features(samples)
    assert found.dtype == np.float32
    assert found.shape == (64, 31)
    assert np.abs(found - plainly(FrontEnd(), samples)).max() < 1e-4


def test_other_constants_too() -> None:
    frontend = FrontEnd(8000, 256, 100, 20, low_hz=100, high_hz=3500, floor=1e-4, mean=1.0, std=2.0)
    samples = audio(0.2)[0]
    assert np.abs(frontend.features(samples) - plainly(frontend, samples)).max() < 1e-4


def test_scale_and_filters() -> None:
    assert hz_to_mel(1000.0) == pytest.approx(1000.0, abs=0.1)  # the HTK Book, section 5.4
    assert mel_to_hz(hz_to_mel(4321.0)) == pytest.approx(4321.0)
    bank = filters(FrontEnd())
    assert (bank.sum(axis=1) > 0).all()
    peaks = bank.argmax(axis=1) * 40.0
    assert (np.diff(peaks) >= 0).all()
    assert peaks[0] < 120
    assert 7300 < peaks[-1] < 7800
    assert window(FrontEnd())[[0, 200]].tolist() == [0.0, 1.0]


def test_a_frame_waits_for_nothing_that_is_to_come() -> None:
    samples = audio(0.5)[0]
    changed = samples.copy()
    changed[20 * 160 :] = 0.9
    before, after = FrontEnd().features(samples), FrontEnd().features(changed)
    assert np.array_equal(before[:, :20], after[:, :20])
    assert not np.array_equal(before[:, 20], after[:, 20])


def test_an_unfinished_hop_is_no_frame() -> None:
    samples = audio(0.1)[0]
    assert FrontEnd().features(samples[:159]).shape == (64, 0)
    assert np.array_equal(FrontEnd().features(samples[:499]), FrontEnd().features(samples)[:, :3])


def test_batch_is_each_alone() -> None:
    clips = audio(0.4, rows=3)
    together = FrontEnd().batch(clips)
    for row, clip in zip(together, clips, strict=True):
        assert np.abs(row - FrontEnd().features(clip)).max() < 2e-6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 7), st.lists(st.booleans(), min_size=3, max_size=3))))
def test_streams_side_by_side_are_files(steps: list[tuple[int, list[bool]]]) -> None:
    """Whatever the steps, and whoever takes part in them."""
    frontend = FrontEnd()
    clips = audio(3.0, rows=3)
    streams, at = Streaming(frontend, 3), [0, 0, 0]
    heard: list[list[np.ndarray]] = [[], [], []]
    for hops, taking_part in steps:
        active = np.array(taking_part)
        given_now = np.full((3, hops * 160), 0.5, np.float32)  # nobody's
        for slot in map(int, np.flatnonzero(active)):
            piece = clips[slot, at[slot] : at[slot] + hops * 160]
            given_now[slot, : len(piece)] = piece
            given_now[slot, len(piece) :] = 0
            at[slot] += hops * 160
        found = streams.step(given_now, active)
        for slot in map(int, np.flatnonzero(active)):
            heard[slot].append(found[slot])
    for slot, frames in enumerate(heard):
        if not frames:
            continue
        whole = np.zeros(at[slot], np.float32)
        piece = clips[slot, : at[slot]]
        whole[: len(piece)] = piece
        assert np.abs(np.concatenate(frames, axis=1) - frontend.features(whole)).max() < 2e-5


def test_a_slot_starts_anew() -> None:
    streams, hop = Streaming(FrontEnd(), 2), audio(0.01, rows=2)
    first = streams.step(hop)
    streams.step(hop)
    streams.reset(1)
    again = streams.step(hop)
    assert np.array_equal(again[1], first[1])
    assert not np.array_equal(again[0], first[0])


def test_metadata_is_json_and_comes_back() -> None:
    frontend = FrontEnd(mean=-5.25, std=3.5, bands=40)
    assert FrontEnd.from_metadata(json.loads(json.dumps(frontend.as_metadata()))) == frontend
    with pytest.raises(ConfigError, match="hops"):
        FrontEnd.from_metadata({**frontend.as_metadata(), "hops": 3})


@pytest.mark.parametrize(
    "wrong", [{"hop": 401}, {"fft": 401}, {"high_hz": 9000.0}, {"low_hz": 7900.0}, {"std": 0.0}]
)
def test_senseless_constants_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        FrontEnd(**wrong)  # type: ignore[arg-type]


def test_statistics_normalise() -> None:
    clips = [audio(0.5, seed=n)[0] for n in range(3)]
    mean, std = statistics(FrontEnd(), clips)
    features = np.concatenate([FrontEnd(mean=mean, std=std).features(c) for c in clips], axis=1)
    assert features.mean() == pytest.approx(0.0, abs=1e-3)
    assert features.std() == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ConfigError, match="no audio"):
        statistics(FrontEnd(), [])
