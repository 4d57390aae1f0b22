from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.lab import recordings
from understudy.bench import lab, lab_vad
from understudy.core.errors import ConfigError
from understudy.lab import checkpoint, vad


def test_each_fold_is_judged_by_voices_it_never_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "QUICK_EPOCHS", 1)
    monkeypatch.setenv("UNDERSTUDY_LAB_THREADS", "1")
    recordings.make(tmp_path / "fsdd", takes=1, flat=True)
    result = lab.run(tmp_path, quick=True)
    folds = result["digits"]["folds"]
    assert folds.keys() == {"ann+bob", "cat+dan"}
    mean = np.mean([fold["accuracy"] for fold in folds.values()])
    assert result["digits"]["mean"] == pytest.approx(mean)
    (check,) = (one for one in result["checks"] if one["name"].startswith("digits"))
    assert check["met"] == (check["value"] >= lab.DIGITS_TARGET)
    assert "digits, ann+bob" in lab.table(result)


def test_without_recordings_it_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--audio"):
        lab.run(tmp_path)


def test_the_shipped_model_hears_speech_in_a_recording(
    recorded_speech: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the speakers and noise that it was not trained with; its figures are in the docs."""
    if recorded_speech is None:
        pytest.skip("no recorded speech on this machine")
    monkeypatch.setattr(lab_vad, "find_spec", lambda name: None)  # the other one takes a while
    found = lab_vad.compare(recorded_speech, quick=True, progress=lambda _: None)
    if found is None:
        pytest.skip("no LibriSpeech and ESC-10 on this machine")
    assert found["roc_auc"]["clean"]["understudy"] > 0.9
    assert found["roc_auc"]["10 dB"]["understudy"] > 0.85
    assert found["model_bytes"] < lab.LARGEST_BYTES


def test_the_shipped_model_says_whom_to_name() -> None:
    made = checkpoint.load(vad.shipped())
    assert made.kind == "frames"
    assert made.labels == vad.LABELS
    assert any("CC BY 4.0" in words for words in made.settings["credits"])
    assert any("CC BY 3.0" in words for words in made.settings["credits"])
