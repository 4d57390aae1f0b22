from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.lab import recordings
from understudy.core.errors import ConfigError
from understudy.lab import audio, data
from understudy.lab.frontend import FrontEnd
from understudy.lab.windows import place, window_of


def test_folders_are_labels_and_names_tell_speakers(words: Path) -> None:
    found = data.scan(words)
    assert found.labels == ("down", "flat", "up")
    assert found.speakers == ("ann", "bob", "cat", "dan")
    assert len(found.clips) == 48
    assert not found.rejects


def test_a_flat_folder_needs_a_pattern(tmp_path: Path) -> None:
    flat = recordings.make(tmp_path, takes=1, flat=True)
    with pytest.raises(ConfigError, match="--names"):
        data.scan(flat)
    found = data.scan(flat, "{label}_{speaker}_{n}")
    assert found.labels == ("down", "flat", "up")
    assert found.speakers == ("ann", "bob", "cat", "dan")


def test_a_pattern_may_look_at_the_whole_path(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        samples = recordings.word("up", speaker, chance)
        recordings.write(tmp_path / speaker / "up" / "1.wav", samples)
    found = data.scan(tmp_path, "{speaker}/{label}/{n}")
    assert (found.labels, found.speakers) == (("up",), ("ann", "bob"))


def test_what_does_not_fit_the_pattern_is_listed(words: Path) -> None:
    with pytest.raises(ConfigError, match="no recording"):
        data.scan(words, "{label}-{speaker}")


def test_a_table_tells_labels_and_speakers(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for number, speaker in enumerate(("ann", "bob", "cat")):
        recordings.write(tmp_path / f"{number}.wav", recordings.word("up", speaker, chance))
    table = tmp_path / "table.csv"
    table.write_text("path,label,speaker\n0.wav,yes,ann\n1.wav,no,bob\n")
    found = data.scan(tmp_path, csv=table)
    assert {(c.label, c.speaker) for c in found.clips} == {("yes", "ann"), ("no", "bob")}
    assert [(r.path.name, r.reason) for r in found.rejects] == [("2.wav", "not in the table")]


def test_what_nobody_can_learn_from_is_left_out(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    good = recordings.word("up", "ann", chance)
    here = tmp_path / "up"
    recordings.write(here / "good.wav", good)
    recordings.write(here / "silent.wav", np.zeros(16000, np.float32))
    recordings.write(here / "clipped.wav", np.clip(good * 100, -1, 1))
    recordings.write(here / "short.wav", good[:800])
    (here / "text.wav").write_text("no audio")
    (here / "notes.txt").write_text("not looked at")
    found = data.scan(tmp_path)
    assert [clip.path.name for clip in found.clips] == ["good.wav"]
    reasons = {one.path.name: one.reason.partition(":")[0] for one in found.rejects}
    assert reasons == {
        "silent.wav": "silent",
        "clipped.wav": "clipped",
        "short.wav": "too short",
        "text.wav": "unreadable",
    }


def test_any_rate_and_channels_are_read(tmp_path: Path) -> None:
    t = np.arange(44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 1000 * t)
    path = tmp_path / "tone.flac"
    soundfile.write(path, np.stack([tone, tone], axis=1), 44100)
    heard = audio.read(path, 16000)
    assert len(heard) == pytest.approx(16000, abs=2)
    spectrum = np.abs(np.fft.rfft(heard[:16000] * np.hanning(len(heard[:16000]))))
    assert int(spectrum.argmax()) == pytest.approx(1000, abs=1)
    assert float(np.abs(heard).max()) == pytest.approx(0.5, abs=0.02)


def test_halves_share_no_speaker(words: Path) -> None:
    halves = data.split(data.scan(words), seed=3)
    assert halves.by == "speaker"
    assert not halves.warnings
    assert not {c.speaker for c in halves.train} & {c.speaker for c in halves.validation}


def test_a_split_by_file_that_leaks_says_so(words: Path) -> None:
    halves = data.split(data.scan(words), by="file")
    assert len(halves.warnings) == 1
    assert "the split leaks: 3 speakers" in halves.warnings[0]


def test_unknown_speakers_are_warned_of(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for label in ("up", "down"):
        for take in range(5):
            recordings.write(
                tmp_path / label / f"{take}.wav", recordings.word(label, "ann", chance)
            )
    found = data.scan(tmp_path)
    assert found.speakers == ()
    halves = data.split(found)
    assert halves.by == "file"
    assert "may leak" in halves.warnings[0]
    with pytest.raises(ConfigError, match="--names"):
        data.split(found, by="speaker")


def test_copies_across_the_split_are_a_leak(words: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(words, copied)
    shutil.copy(copied / "up" / "ann_0.wav", copied / "up" / "dan_9.wav")
    halves = data.split(data.scan(copied), speakers=("dan",))
    assert any("byte for byte" in words for words in halves.warnings)


def test_a_speaker_who_is_not_there_is_refused(words: Path) -> None:
    with pytest.raises(ConfigError, match="no speaker eve"):
        data.split(data.scan(words), speakers=("eve",))


def test_the_hash_is_of_content_and_names(words: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(words, copied)
    assert data.scan(copied).hash == data.scan(words).hash
    (copied / "up" / "ann_0.wav").rename(copied / "up" / "bob_9.wav")
    assert data.scan(copied).hash != data.scan(words).hash


def test_features_are_cached_and_equal(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = data.scan(words).clips
    first = data.features(clips, FrontEnd(), cache=tmp_path)

    def never(path: Path, rate_hz: int) -> None:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(audio, "read", never)
    again = data.features(clips, FrontEnd(), cache=tmp_path)
    assert len(first) == len(again) == 48
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(AssertionError):
        data.features(clips, FrontEnd(mean=-5.0), cache=tmp_path)


def test_an_unknown_field_of_a_pattern_is_refused() -> None:
    with pytest.raises(ConfigError, match="knows"):
        data.pattern_of("{label}_{singer}")


@given(
    st.text("abc_", min_size=1, max_size=8),
    st.text("xyz", min_size=1, max_size=4),
    st.integers(0, 999),
)
def test_a_pattern_finds_what_was_put_in(label: str, speaker: str, take: int) -> None:
    found = data.pattern_of("{label}_{speaker}_{n}").fullmatch(f"{label}_{speaker}_{take}")
    assert found is not None
    assert found.groupdict() == {"label": label, "speaker": speaker, "n": str(take)}


@given(st.integers(1, 60), st.integers(20, 40), st.floats(0, 1))
def test_a_window_holds_the_clip_or_a_part_of_it(frames: int, window: int, at: float) -> None:
    frontend = FrontEnd(bands=4)
    clip = np.arange(1, frames + 1, dtype=np.float32)[None].repeat(4, axis=0)
    out = place([clip], window, frontend, at)[0, 0]
    heard = out[out > 0]
    assert len(heard) == min(frames, window)
    assert (np.diff(heard) == 1).all()
    assert window_of([clip]) == min(200, max(20, frames))
