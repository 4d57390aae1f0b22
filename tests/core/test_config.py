"""understudy.toml: what is accepted, what is refused and how it is said."""

import os
from pathlib import Path

import pytest

from understudy.config import ConfigFile, merge_params, parse, template
from understudy.core.errors import BadParams, ConfigError, UnknownVoice
from understudy.core.wire import Control

MODEL = '[models.m]\nengine = "a:B"\n'


def test_the_shipped_file_has_the_promised_voices() -> None:
    config = parse(template(), "template")
    assert list(config.voices) == [
        "chipmunk",
        "giant",
        "robot",
        "natural-up",
        "natural-down",
        "mirror",
    ]
    assert config.voice("chipmunk").params["pitch"] == 7
    with pytest.raises(UnknownVoice, match="chipmunk"):
        config.voice("nobody")


def test_three_lines_make_a_voice() -> None:
    config = parse(
        template() + '[voices.helium]\nmodel = "pitch"\nparams = { pitch = 9, formant = 7 }\n', "t"
    )
    assert config.voice("helium").params == {"pitch": 9.0, "formant": 7.0}
    assert config.voice("helium").title == "helium"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[voices", "no valid TOML"),
        ("[colours]", r"unknown section \[colours\]"),
        ("voices = 3", "must be a table"),
        ("[voices.a]", "needs model"),
        (MODEL + '[voices.a]\nmodel = "n"', "one of: m"),
        (MODEL + '[voices."A B"]\nmodel = "m"', "is no name"),
        (MODEL + '[voices.a]\nmodel = "m"\npitch = 3', "unknown key 'pitch'"),
        (MODEL + '[voices.a]\nmodel = "m"\nparams = { pitch = "x" }', "params.pitch must be"),
        (MODEL + '[voices.a]\nmodel = "m"\nunderstudy = "b"', "understudy is no voice"),
        ("[models.m]", "needs engine"),
        ('[models.m]\nengine = "a:B"\nslots = 0', "slots must be"),
        ('[models.m]\nengine = "a:B"\nslots = true', "slots must be a int"),
        ('[models.m]\nengine = "a:B"\nworkers = -1', "workers 0 to 64"),
    ],
)
def test_mistakes_are_said_with_their_place(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(text, "understudy.toml")


def test_params_are_merged_and_checked() -> None:
    voice = parse(template(), "t").voice("chipmunk")
    controls = {"pitch": Control(-24, 24, 0, "semitones")}
    assert merge_params(voice, {"pitch": 3}, controls) == {"pitch": 3, "formant": 5}
    with pytest.raises(BadParams, match="its params: pitch"):
        merge_params(voice, {"volume": 3}, controls)
    with pytest.raises(BadParams, match="-24 to 24 semitones"):
        merge_params(voice, {"pitch": 25}, controls)


def test_the_file_is_made_followed_and_kept_through_a_broken_edit(tmp_path: Path) -> None:
    file = ConfigFile.of_data(tmp_path / "new")
    assert "chipmunk" in file.current().voices

    def edit(text: str, stamp: int) -> None:
        file.path.write_text(text)
        os.utime(file.path, ns=(stamp, stamp))  # an edit within the clock's grain must count

    edit(MODEL + '[voices.one]\nmodel = "m"', 1)
    assert list(file.current().voices) == ["one"]
    edit("[voices", 2)
    assert list(file.current().voices) == ["one"]
    edit(MODEL + '[voices.two]\nmodel = "m"', 3)
    assert list(file.current().voices) == ["two"]
    file.path.unlink()
    assert list(file.current().voices) == ["two"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="pass --data"):
        ConfigFile.of_data(tmp_path / "file" / "data")
