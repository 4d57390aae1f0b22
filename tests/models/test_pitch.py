"""The pitch voice: accuracy, sample lock, invariance, forgetting, clicks, parameters, bad input."""

from __future__ import annotations

import functools
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from understudy.bench.engine import click_ratio, memory_growth_bytes, shifted, stream
from understudy.bench.engine_measures import snr_db, tone_error_cents
from understudy.bench.speech import VOWELS, speech, vowel
from understudy.models.pitch import PARAMS, PitchModel, check_params

Signal = NDArray[np.float32]
CHIPMUNK = {"pitch": 7.0, "formant": 5.0}


def loaded(**options: int) -> PitchModel:
    model = PitchModel(**options)
    model.load("cpu")
    return model


@functools.cache
def recordings() -> list[Signal]:
    """A few seconds of two speakers at 16 kHz, or nothing where there are no recordings."""
    beside = Path(__file__).parents[2].parent / "shared" / "audio"
    root = Path(os.environ.get("UNDERSTUDY_AUDIO", beside))
    found = []
    for folder in sorted((root / "librispeech").glob("*/"))[1:4:2]:
        parts = [soundfile.read(p, dtype="float32")[0] for p in sorted(folder.glob("*.flac"))[:2]]
        found.append(np.concatenate(parts)[: 16000 * 5])
    return found


@functools.cache
def voice() -> Signal:
    return speech(16000, seconds=1.2).samples


def tone(rate: int, hz: float, seconds: float = 1.0) -> Signal:
    return np.asarray(0.4 * np.sin(2 * np.pi * hz * np.arange(rate * seconds) / rate), np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
def test_latency_is_declared_constant_and_true(rate: int) -> None:
    click = np.zeros(rate // 3, np.float32)
    click[rate // 8] = 0.5
    for frame in (rate // 100, 333):
        model = loaded(slots=1, sample_rate=rate, frame=frame)
        assert model.latency_s == model.latency_samples / rate <= 0.040
        out = stream(click, rate, frame, {"pitch": 4})
        assert int(np.abs(out).argmax()) == rate // 8 + model.latency_samples


@pytest.mark.parametrize("rate", [16000, 24000, 48000])
def test_tones_are_moved_to_within_3_cents(rate: int) -> None:
    hz = (110.0, 200.0, 390.0)
    for semitones in (4, 7, -5):
        outs = shifted([tone(rate, one) for one in hz], rate, {"pitch": semitones})
        for one, out in zip(hz, outs, strict=True):
            error = tone_error_cents(out, rate, one * 2 ** (semitones / 12))
            assert np.percentile(np.abs(error), 90) <= 3


def test_robot_is_monotone_at_its_pitch() -> None:
    said = speech(24000, seconds=0.9, f0_hz=150.0)
    out = shifted([said.samples], 24000, {"robot": 1, "robot_hz": 120})[0]
    at = np.flatnonzero(said.f0_hz)[0] + 2400
    pulses = out[at : at + 2400]
    assert np.corrcoef(pulses[:-200], pulses[200:])[0, 1] > 0.8  # 24000 / 120 samples apart


@pytest.mark.parametrize("semitones", [4, -4])
def test_formants_stay_when_pitch_moves(semitones: int) -> None:
    pytest.importorskip("pyworld")
    from understudy.bench.engine_measures import nearest_formants_hz

    known = VOWELS["a"][:3]
    out = shifted([vowel("a", 120.0, 0.5, 24000)], 24000, {"pitch": semitones})[0]
    got = nearest_formants_hz(out[4800:-2400], 24000, known)
    assert np.allclose(got, known, rtol=0.05)


def test_formants_move_when_asked() -> None:
    pytest.importorskip("pyworld")
    from understudy.bench.engine_measures import nearest_formants_hz

    wanted = [hz * 2 ** (3 / 12) for hz in VOWELS["a"][:3]]
    out = shifted([vowel("a", 120.0, 0.5, 24000)], 24000, {"formant": 3})[0]
    assert np.allclose(nearest_formants_hz(out[4800:-2400], 24000, wanted), wanted, rtol=0.05)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(frame=st.integers(3, 6000), rate=st.sampled_from([16000, 22050]))
def test_any_frame_size_gives_the_same_stream(frame: int, rate: int) -> None:
    whole = stream(voice(), rate, len(voice()), CHIPMUNK)
    assert snr_db(whole, stream(voice(), rate, frame, CHIPMUNK)) >= 100


@pytest.mark.parametrize("frame", [1, 7, 160, 240, 441, 1024, 4800])
def test_stream_equals_whole_file(frame: int) -> None:
    said = voice()[:10000]
    whole = stream(said, 16000, len(said), CHIPMUNK)
    assert snr_db(whole, stream(said, 16000, frame, CHIPMUNK)) >= 100


def test_slots_do_not_hear_each_other_and_keep_their_own_time() -> None:
    said = [speech(16000, seconds=0.8, f0_hz=f, seed=int(f)).samples for f in (90, 150, 230)]
    alone = [stream(one, 16000, 112, CHIPMUNK) for one in said]
    model = loaded(slots=3, sample_rate=16000, frame=112)
    for slot in range(3):
        model.open(slot, CHIPMUNK)
    random = np.random.default_rng(3)
    blocks = len(said[0]) // 112
    done = [0, 0, 0]
    out = np.zeros((3, blocks * 112), np.float32)
    while min(done) < blocks:
        active = np.array([n < blocks for n in done]) & (random.random(3) < 0.6)
        frames = np.full((3, 112), 0.3, np.float32)
        for slot in np.flatnonzero(active).tolist():
            frames[slot] = said[slot][done[slot] * 112 : (done[slot] + 1) * 112]
        got = model.step(frames, active)
        assert not got[~active].any()
        for slot in np.flatnonzero(active).tolist():
            out[slot, done[slot] * 112 : (done[slot] + 1) * 112] = got[slot]
            done[slot] += 1
    for slot in range(3):
        assert snr_db(alone[slot][: blocks * 112], out[slot]) >= 100


def test_reopened_slot_starts_clean() -> None:
    model = loaded(slots=2, sample_rate=16000, frame=160)
    blocks = voice()[:16000].reshape(-1, 1, 160).repeat(2, axis=1)
    both = np.ones(2, np.bool_)
    first = np.concatenate([model.step(one, both)[1] for one in blocks])
    model.open(1, {})
    assert np.array_equal(first, np.concatenate([model.step(one, both)[1] for one in blocks]))


@pytest.mark.parametrize("params", [CHIPMUNK, {"robot": 1.0}])
def test_a_moved_session_goes_on_as_the_one_that_stayed(params: dict[str, float]) -> None:
    for said in recordings() or [speech(16000, seconds=5.0).samples]:
        model = PitchModel(sample_rate=16000)
        cut = 16000 * 3
        start = cut - round(model.context_s * 16000)
        start -= start % model.alignment_samples
        stayed = stream(said, 16000, 160, params)[cut:]
        assert snr_db(stayed, stream(said[start:], 16000, 160, params)[cut - start :]) >= 60


def test_consonants_pass_untouched() -> None:
    said = speech(24000, seconds=2.5)
    out = shifted([said.samples], 24000, {"pitch": 5, "formant": 3})[0]
    inner = np.convolve(said.noisy, np.ones(961), "same") > 960.5
    assert inner.any()
    assert snr_db(said.samples[inner], out[inner]) >= 40


def test_no_pitch_no_change() -> None:
    said = speech(24000, seconds=1.5).samples
    assert snr_db(said, shifted([said], 24000, {})[0]) >= 20


def test_recorded_speech_keeps_its_level() -> None:
    for said in [one[:48000] for one in recordings()] or [voice()]:
        for params in (CHIPMUNK, {"pitch": -5, "formant": -3}, {"robot": 1}, {"pitch": 4}):
            out = shifted([said], 16000, params)[0]
            assert abs(20 * np.log10(out.std() / said.std())) < 2


def test_parameters_change_without_clicks() -> None:
    assert click_ratio(16000)["ratio"] <= 1.5


def test_gain_is_as_asked_and_never_overflows() -> None:
    said = tone(16000, 200.0) * np.float32(0.1)
    louder = stream(said, 16000, 160, {"gain": 6.0})
    ratio = np.abs(louder[8000:]).max() / np.abs(said).max()
    assert ratio == pytest.approx(10 ** (6 / 20), rel=0.01)
    assert np.abs(stream(said * 10, 16000, 160, {"gain": 24.0})).max() <= 1.0


def test_memory_is_flat_over_10_000_blocks() -> None:
    assert memory_growth_bytes(10_000) < 20_000
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("kind", ["silence", "square", "dc", "denormal", "noise", "nan", "huge"])
def test_odd_input_gives_finite_output(kind: str) -> None:
    n = 16000
    signal = {
        "silence": np.zeros(n),
        "square": np.sign(np.sin(2 * np.pi * 137 * np.arange(n) / 16000)),
        "dc": np.ones(n),
        "denormal": np.full(n, 1e-42),
        "noise": np.random.default_rng(0).uniform(-1, 1, n),
        "nan": np.where(np.arange(n) % 1000 == 0, np.nan, 0.1),
        "huge": np.where(np.arange(n) % 1000 < 500, 1e30, -np.inf),
    }[kind].astype(np.float32)
    for params in (
        {"pitch": 24.0, "formant": 12.0},
        {"pitch": -24.0, "formant": -12.0},
        {"robot": 0.5},
    ):
        out = stream(signal, 16000, 160, params)
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 1.0
    if kind == "silence":
        assert not out.any()


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"pich": 3}, "use one of pitch"),
        ({"pitch": 25}, "from -24 to 24"),
        ({"pitch": float("nan")}, "from -24 to 24"),
        ({"gain": float("inf")}, "from -24 to 24"),
        ({"robot": "loud"}, "from 0 to 1"),
    ],
)
def test_bad_parameters_are_refused_with_a_way_out(params: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_params(params)


def test_refused_parameters_change_nothing() -> None:
    model = loaded(slots=1, sample_rate=16000, frame=160)
    model.open(0, {"pitch": 3})
    with pytest.raises(ValueError, match="formant"):
        model.set_params(0, {"pitch": 5, "formant": 99})
    out = [model.step(one[None], np.ones(1, np.bool_))[0] for one in voice().reshape(-1, 160)]
    assert np.array_equal(np.concatenate(out), stream(voice(), 16000, 160, {"pitch": 3}))


def test_declared_parameters_hold_their_defaults() -> None:
    assert set(PARAMS) == {"pitch", "formant", "robot", "robot_hz", "gain"}
    defaults = {name: default for name, (_, _, default, _) in PARAMS.items()}
    assert check_params(defaults) == defaults


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="8000 to 48000"):
        PitchModel(sample_rate=4000)
    with pytest.raises(ValueError, match="at least 1"):
        PitchModel(frame=0)
    with pytest.raises(RuntimeError, match="load"):
        PitchModel().open(0, {})
    model = loaded(slots=2, sample_rate=16000, frame=160)
    with pytest.raises(ValueError, match="cpu"):
        model.load("cuda")
    with pytest.raises(ValueError, match="0 to 1"):
        model.open(2, {})
    with pytest.raises(ValueError, match="frames"):
        model.step(np.zeros((2, 80), np.float32), np.ones(2, np.bool_))
