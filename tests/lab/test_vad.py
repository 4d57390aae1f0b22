from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.lab import recordings
from understudy.core.errors import ConfigError
from understudy.lab import noise, vad, vad_data
from understudy.lab.loop import Plan


def test_frames_of_speech_are_where_it_is_loud() -> None:
    chance = np.random.default_rng(0)
    clean = 1e-4 * chance.standard_normal(32000).astype(np.float32)
    clean[8000:16000] += recordings.word("up", "ann", chance, 0.5)
    active = vad_data.speech_frames(clean)
    ((begin_s, end_s),) = vad_data.segments(active)
    assert begin_s == pytest.approx(0.5, abs=0.06)
    assert end_s == pytest.approx(1.0, abs=0.06)


def test_speech_is_mixed_at_the_ratio_asked() -> None:
    chance = np.random.default_rng(0)
    speech = np.zeros(16000, np.float32)
    speech[:8000] = 0.3 * chance.standard_normal(8000)
    active = np.arange(100) < 50
    hiss = chance.standard_normal(16000).astype(np.float32)
    added = vad_data.mix(speech, hiss, 10.0, active) - speech
    ratio = np.mean(speech[:8000] ** 2) / np.mean(added**2)
    assert 10 * np.log10(ratio) == pytest.approx(10.0, abs=0.01)


def test_no_speaker_and_no_noise_is_in_both_halves() -> None:
    one, other = vad_data.halves([f"s{n}" for n in range(10)])
    assert not one & other
    assert len(other) == 3


@pytest.mark.parametrize("kind", noise.KINDS)
def test_each_kind_of_noise_is_heard(kind: str) -> None:
    one, again, other = (
        noise.synthesise(kind, 16000, 16000, np.random.default_rng(n)) for n in (0, 0, 1)
    )
    assert float(np.abs(one).max()) == pytest.approx(0.5)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_voice_activity_is_learned_from_synthesis(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert vad_data.build(data, vad_data.Sources(credits=("nobody",)), minutes=3.0) == 22
    with pytest.raises(ConfigError, match="already"):
        vad_data.build(data, vad_data.Sources())
    known = vad_data.read_segments(data)
    assert any(name.startswith("train/") for name in known)
    figures = vad.train(data, tmp_path / "out", Plan(epochs=40, learning_rate=1e-2), width=16)
    assert figures["roc_auc"] > 0.7
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["settings"]["credits"] == ["nobody"]
    assert card["kind"] == "frames"
