"""understudy.toml: what is accepted, what is refused and how it is said."""

import os
from pathlib import Path

import pytest

from understudy.config import ConfigFile, check_params, parse, template
from understudy.config_providers import NodeKind, ProviderSpec, Region, link_of
from understudy.core.errors import BadParams, ConfigError, UnknownVoice
from understudy.core.policy_view import Rules
from understudy.core.wire import Control

MODEL = '[models.m]\nengine = "a:B"\n'
PITCH = '[models.pitch]\nengine = "understudy.models.pitch:PitchModel"\nworkers = 1\n'
VOICE = '[voices.v]\nmodel = "m"\n'


def test_the_shipped_file_has_the_promised_voices() -> None:
    config = parse(template(), "template")
    assert list(config.voices) == [
        "chipmunk",
        "giant",
        "robot",
        "natural-up",
        "natural-down",
        "mirror",
        "listener",
        "miku",
        "miku-dev",
        "teto",
    ]
    assert config.models["listener"].kind == "listen"
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
        (MODEL + VOICE + 'understudy = "b"', r"\[voices.v\] understudy must be .none. or a voice"),
        (MODEL + VOICE + 'understudy = "v"', "whose model is always on"),
        (MODEL + VOICE + "understudy = 3", "understudy must be a str"),
        ("[models.m]", "needs engine"),
        (MODEL + "slots = 0", "slots must be"),
        (MODEL + "slots = true", "slots must be a int"),
        (MODEL + "workers = -1", "workers 0 to 64"),
        (MODEL + "load_s = -1", "load_s must be 0 to 3600"),
        (MODEL + 'load_s = "long"', "load_s must be a float"),
        (MODEL + "price_per_h = -0.1", "price_per_h and crash_per_minute not negative"),
        (MODEL + 'drain = "kill"', "drain must be one of move, finish"),
        (MODEL + "bundle = 'x'", "unknown key 'bundle'"),
        ("fleet = 3", r"\[fleet\] must be a table"),
        ("[fleet]\nmax_gpus = 3", "unknown key 'max_gpus'; known: max_nodes, budget_per_h"),
        ("[fleet]\nmax_nodes = 1.5", "max_nodes must be a int"),
        ("[fleet]\nbudget_per_h = -1", "no number may be negative"),
        ("[fleet]\npatience = true", "patience must be a float"),
    ],
)
def test_mistakes_are_said_with_their_place(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(text, "understudy.toml")


def test_models_say_what_they_cost_and_how_they_load_and_drain() -> None:
    plain = parse(MODEL, "t").models["m"]
    assert (plain.workers, plain.load_s, plain.price_per_h, plain.drain) == (None, 0, 0, "move")
    text = MODEL + 'workers = 0\nload_s = 10\nprice_per_h = 0.4\ndrain = "finish"\n'
    spec = parse(text, "t").models["m"]
    assert (spec.workers, spec.load_s, spec.price_per_h, spec.drain) == (0, 10, 0.4, "finish")


def test_what_the_operator_chooses_of_the_policy_stands_under_fleet() -> None:
    assert parse(MODEL, "t").rules == Rules()
    chosen = parse("[fleet]\nmax_nodes = 3\nbudget_per_h = 5\npatience = 20\n", "t").rules
    assert chosen == Rules(max_nodes=3, budget_per_h=5.0, patience=20.0)


def test_a_revision_is_named_by_what_is_loaded() -> None:
    def revision(text: str) -> str:
        return parse(MODEL + text, "t").models["m"].revision

    plain = revision("")
    for same in ("workers = 3", "price_per_h = 0.4", 'drain = "finish"'):
        assert revision(same) == plain
    others = ["slots = 5", "load_s = 3", "options = { depth = 2 }", "options = { depth = 3 }"]
    assert len({plain, *map(revision, others)}) == 1 + len(others)
    assert parse(MODEL.replace("a:B", "a:C"), "t").models["m"].revision != plain


def test_a_number_may_be_written_either_way() -> None:
    whole, decimal = (parse(MODEL + f"load_s = {n}", "t").models["m"] for n in ("10", "10.0"))
    assert whole == decimal
    assert whole.revision == decimal.revision


VOICES = (
    PITCH
    + MODEL
    + '[models.lone]\nengine = "a:B"\nworkers = 1\n'
    + '[models.rented-pitch]\nengine = "understudy.models.pitch:PitchModel"\n'
    + '[voices.low]\nmodel = "pitch"\nparams = { pitch = -5, formant = -3 }\n'
    + '[voices.high]\nmodel = "pitch"\nparams = { pitch = 6, formant = 4 }\n'
    + '[voices.robot]\nmodel = "pitch"\nparams = { robot = 1 }\n'
    + '[voices.rented]\nmodel = "rented-pitch"\nparams = { pitch = 8, formant = 3 }\n'
    + '[voices.alone]\nmodel = "lone"\n'
)


@pytest.mark.parametrize(
    ("voice", "understudy"),
    [
        ('model = "m"\nparams = { pitch = 8, formant = 3 }', "high"),
        ('model = "m"\nparams = { pitch = -9 }', "low"),
        ('model = "m"\nparams = { robot = 1, pitch = 8 }', "robot"),
        ('model = "m"\nunderstudy = "none"', None),
        ('model = "m"\nparams = { pitch = 8 }\nunderstudy = "low"', "low"),
        ('model = "m"\nunderstudy = "alone"', "alone"),  # whoever is named, if always on
        ('model = "rented-pitch"', "low"),
        ('model = "lone"', None),  # always on itself
        ('model = "pitch"\nunderstudy = "low"', None),
    ],
)
def test_the_nearest_voice_that_is_always_on_covers_unless_one_is_named(
    voice: str, understudy: str | None
) -> None:
    config = parse(VOICES + f"[voices.v]\n{voice}\n", "t")
    cover = config.understudy_of(config.voice("v"))
    assert (cover and cover.name) == understudy


def test_without_a_voice_that_is_always_on_users_queue() -> None:
    config = parse(MODEL + VOICE + PITCH.replace("workers = 1", "workers = 0"), "t")
    assert config.understudy_of(config.voice("v")) is None


def test_the_shipped_voices_are_covered_by_their_like() -> None:
    config = parse(template(), "t")
    covers = {name: config.understudy_of(voice) for name, voice in config.voices.items()}
    named = {name: cover.name for name, cover in covers.items() if cover}
    assert named == {"miku": "chipmunk", "miku-dev": "chipmunk", "teto": "natural-up"}


def test_params_are_checked_against_what_a_model_takes() -> None:
    voice = parse(template(), "t").voice("chipmunk")
    controls = {"pitch": Control(-24, 24, 0, "semitones")}
    check_params(voice, {}, controls)
    check_params(voice, {"pitch": -24}, controls)
    with pytest.raises(BadParams, match="its params: pitch"):
        check_params(voice, {"volume": 3}, controls)
    with pytest.raises(BadParams, match="-24 to 24 semitones"):
        check_params(voice, {"pitch": 25}, controls)
    with pytest.raises(BadParams, match="its params: none"):
        check_params(voice, {"pitch": 3}, {})


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


LISTENING = """
[models.ears]
kind = "{kind}"
engine = "understudy.models.listener:Listener"

[models.pitch]
engine = "understudy.models.pitch:PitchModel"
workers = 1

[voices.ears]
model = "ears"
{understudy}

[voices.high]
model = "pitch"
"""


def test_nobody_covers_for_a_listener() -> None:
    config = parse(LISTENING.format(kind="listen", understudy=""), "f")
    assert config.understudy_of(config.voice("ears")) is None
    converting = parse(LISTENING.format(kind="convert", understudy=""), "f")
    assert converting.understudy_of(converting.voice("ears")) == converting.voice("high")
    with pytest.raises(ConfigError, match="nobody can cover"):
        parse(LISTENING.format(kind="listen", understudy='understudy = "high"'), "f")
    with pytest.raises(ConfigError, match="kind must be one of"):
        parse(LISTENING.format(kind="sing", understudy=""), "f")


PROVIDERS = """
[fleet]
provider = "ray"
name = "prod"
max_nodes = 4
[providers.ray]
address = "10.0.0.1:6379"
gpus = 1
price_per_h = 0.5
[providers.ray.models.m]
gpus = 0.5
boot_s = 12
resources = { L4 = 1 }
[providers.ray.regions.sf]
edge = "wss://sf.example.com"
resource = "sf"
"""


def test_a_provider_has_defaults_for_its_nodes_and_what_differs() -> None:
    config = parse(MODEL + PROVIDERS, "t")
    spec = config.provider
    assert (spec.name, spec.fleet, spec.options) == ("ray", "prod", {"address": "10.0.0.1:6379"})
    assert spec.kind("other") == NodeKind(gpus=1.0, price_per_h=0.5)
    assert spec.kind("m") == NodeKind(gpus=0.5, resources={"L4": 1.0}, price_per_h=0.5, boot_s=12.0)
    assert spec.kind("m").loads_on == "cuda"
    assert NodeKind().loads_on == "cpu"
    assert spec.regions == {"sf": Region("wss://sf.example.com", "sf")}
    assert link_of(spec.regions["sf"].edge) == "wss://sf.example.com/v1/link"
    assert config.rules.max_nodes == 4
    assert parse("", "t").provider == ProviderSpec("local", "main")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fleet = 3", r"\[fleet\] must be a table"),
        ('[fleet]\nprovider = "cloud"', "one of local, join, ray, skypilot, not 'cloud'"),
        ('[fleet]\nname = "A_B"', "name must be up to 31"),
        ("providers = 3", "providers must be tables"),
        ("[providers.cloud]", r"\[providers.cloud\] is unknown"),
        ("[providers]\nray = 3", r"\[providers.ray\] must be a table, not 3"),
        ("[providers.ray]\npython = 1", "unknown key 'python'; known: address"),
        ("[providers.ray]\naddress = 1", "address must be a string in quotes, not 1"),
        ("[providers.ray]\nautoscales = 1", "autoscales must be true or false"),
        ("[providers.ray]\npending_s = 0", "pending_s must be above 0"),
        ("[providers.ray]\ngpus = -1", "gpus must not be negative"),
        ("[providers.ray]\ngpus = nan", "gpus must be a number"),
        ("[providers.ray]\nresources = { a = 'x' }", "resources.a must be a number"),
        ("[providers.ray.models.m]\naddress = 'x'", r"\[providers.ray.models.m\]: unknown key"),
        ("[providers.ray.regions.s_f]", "no name of a region"),
        ("[providers.ray.regions.sf]\nedge = 'sf'", "edge must be a URL"),
        ("[providers.ray.regions.sf]\nplaces = ['A B']", "places must be like"),
        ("[providers.ray.regions.sf]\nplace = 'a'", "unknown key 'place'; known: edge"),
        ("[providers.skypilot]\naccelerators = 'L4:x'", "accelerators must be like"),
        ('[fleet]\nprovider = "skypilot"', "each region needs the clouds to rent in"),
    ],
)
def test_what_a_provider_cannot_have(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(text, "t")


def test_silence_is_skipped_where_it_can_be_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    text = MODEL + '\n[voices.v]\nmodel = "m"\nskip_silence = {value}\n'
    assert parse(text.format(value="true"), "f").voice("v").skip_silence
    assert not parse(text.format(value="false"), "f").voice("v").skip_silence
    with pytest.raises(ConfigError, match="skip_silence must be true or false"):
        parse(text.format(value=1), "f")
    monkeypatch.setattr("understudy.config.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'understudy\[onnx\]'"):
        parse(text.format(value="true"), "f")
    assert not parse(text.format(value="false"), "f").voice("v").skip_silence
