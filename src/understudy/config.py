"""understudy.toml: the models and voices there are, read anew when the file changes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from understudy.config_providers import ProviderSpec, parse_provider
from understudy.core.errors import BadParams, ConfigError, UnknownVoice
from understudy.core.limits import Limits, network
from understudy.core.policy_view import Drain, Rules
from understudy.core.wire import Control, Params

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8765
DEFAULT_SLOTS: Final = 4
REGIONS_FILE: Final = "regions.json"  # of a world in a data folder: who runs where
KINDS: Final = ("convert", "listen")  # of models that are served
PITCH: Final = "understudy.models.pitch:PitchModel"  # can stand in for anybody
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model: `engine` is "module:Class", each worker has `slots` sessions.

    `workers` are always on; None: workers are rented and given back as sessions come and go.
    `load_s`: a load lasts so long, the process's start included: it stands for a heavier one.
    """

    name: str
    engine: str
    slots: int = DEFAULT_SLOTS
    workers: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # for the engine's constructor
    load_s: float = 0.0
    price_per_h: float = 0.0  # of a node
    drain: str = Drain.MOVE  # what becomes of sessions on an older revision
    crash_per_minute: float = 0.0  # for drills: how often each of its workers dies, on average
    path: str = ""  # the folder of its bundle, if it was deployed
    bundle: str = ""  # ... and the hash of that
    kind: str = "convert"  # or "listen"

    @property
    def revision(self) -> str:
        """Names what a worker loads: other numbers, another revision."""
        if self.bundle:
            return self.bundle
        loaded = [self.engine, self.slots, dict(self.options), self.load_s]
        return hashlib.sha256(json.dumps(loaded, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Voice:
    """What a user picks: a model and its numbers.

    `understudy`: the voice that covers for it, "none", or None: the nearest one that can.
    """

    name: str
    title: str
    model: str
    params: Params = field(default_factory=dict)
    understudy: str | None = None
    skip_silence: bool = False  # its workers are sent nothing while the user says nothing


@dataclass(frozen=True, slots=True)
class Access:
    """`[access]`, read when a server starts: by which names it is known beyond its own machine,
    and which other sites' pages may talk to it."""

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    models: Mapping[str, ModelSpec]
    voices: Mapping[str, Voice]
    rules: Rules = field(default_factory=Rules)  # what the operator chooses of the policy
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    provider: ProviderSpec = field(default_factory=ProviderSpec)  # read when a server starts

    def is_rented(self, model: str) -> bool:
        """Whether its workers come and go; those of the others are always on."""
        spec = self.models.get(model)
        return spec is None or spec.workers is None

    def understudy_of(self, voice: Voice) -> Voice | None:
        """The voice that covers while no lead is ready, always on; a voice of a model that is
        always on itself needs none, nor does a listener: its labels may come late."""
        model = self.models[voice.model]
        if voice.understudy == "none" or model.workers is not None or model.kind == "listen":
            return None
        if voice.understudy is not None:
            return self.voices.get(voice.understudy)
        able = [
            other
            for other in self.voices.values()
            if self.models[other.model].workers and self.models[other.model].engine == PITCH
        ]
        return min(able, key=lambda other: _distance(voice, other), default=None)

    def voice(self, name: str) -> Voice:
        """Raises UnknownVoice, naming the voices there are."""
        if (voice := self.voices.get(name)) is None:
            raise UnknownVoice(f"no voice {name[:64]!r}; there are {', '.join(self.voices)}")
        return voice


def _distance(voice: Voice, other: Voice) -> tuple[float, str]:
    """How different two pitch voices are, in semitones; a robot is an octave from everybody."""
    gaps = [voice.params.get(k, 0.0) - other.params.get(k, 0.0) for k in ("pitch", "formant")]
    gaps.append(12.0 * (voice.params.get("robot", 0.0) - other.params.get("robot", 0.0)))
    return math.hypot(*gaps), other.name


def check_params(voice: Voice, wish: Params, controls: Mapping[str, Control]) -> None:
    """Raises BadParams on a number that the voice does not take."""
    for name, value in wish.items():
        control = controls.get(name)
        if control is None:
            takes = ", ".join(controls) or "none"
            raise BadParams(f"{voice.name} has no {name[:40]!r}; its params: {takes}")
        if not control.min <= value <= control.max:
            raise BadParams(
                f"{name} must be {control.min:g} to {control.max:g} {control.unit}, not {value:g}"
            )


def parse(text: str, source: str) -> Config:
    """Raises ConfigError, saying where and what to do."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is no valid TOML: {error}") from None
    for section in raw.keys() - {"models", "voices", "fleet", "limits", "access", "providers"}:
        raise ConfigError(
            f"{source}: unknown section [{section}]; there are models, voices, fleet, limits, "
            "access and providers"
        )
    models = {
        name: _model(name, _table(raw["models"], name, source), f"{source}: [models.{name}]")
        for name in _table(raw, "models", source)
    }
    voices = {
        name: _voice(name, _table(raw["voices"], name, source), models, source)
        for name in _table(raw, "voices", source)
    }
    for voice in voices.values():
        cover = voices.get(voice.understudy or "")
        if voice.understudy in (None, "none"):
            continue
        if models[voice.model].kind == "listen":
            raise ConfigError(
                f"{source}: [voices.{voice.name}] is a listener; nobody can cover for it, so take "
                "its understudy out"
            )
        if cover is None or not models[cover.model].workers or models[cover.model].kind == "listen":
            raise ConfigError(
                f'{source}: [voices.{voice.name}] understudy must be "none" or a voice here '
                "whose model is always on (workers = 1 or more)"
            )
    fleet = raw.get("fleet", {})
    if not isinstance(fleet, dict):
        raise ConfigError(f"{source}: [fleet] must be a table")
    rules = {key: value for key, value in fleet.items() if key not in ("provider", "name")}
    return Config(
        models,
        voices,
        _rules(rules, f"{source}: [fleet]"),
        _limits(raw.get("limits", {}), f"{source}: [limits]"),
        _access(raw.get("access", {}), f"{source}: [access]"),
        parse_provider(fleet, raw.get("providers", {}), source),
    )


def _rules(raw: Mapping[str, Any], where: str) -> Rules:
    known = {"max_nodes": int, "budget_per_h": float, "patience": float}
    _fields(raw, known, where)
    if any(value < 0 for value in raw.values()):
        raise ConfigError(f"{where}: no number may be negative")
    return Rules(**raw)


def _limits(raw: Any, where: str) -> Limits:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} must be a table")
    counts = ("connections_per_address", "connects_burst", "requests_burst", "bad_tokens_burst")
    rates = ("connects_per_minute", "requests_per_minute", "bad_tokens_per_minute")
    known = dict.fromkeys(counts, int) | dict.fromkeys(rates, float) | {"trusted_proxies": list}
    _fields(raw, known, where)
    if any(raw[name] < 1 for name in raw.keys() - {"trusted_proxies"}):
        raise ConfigError(f"{where}: every number must be 1 or more")
    try:
        proxies = tuple(network(text) for text in raw.get("trusted_proxies", ()))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f'{where}: trusted_proxies are addresses such as "10.0.0.7" or "10.0.0.0/8": {error}'
        ) from None
    return Limits(**{**raw, "trusted_proxies": proxies})


def _access(raw: Any, where: str) -> Access:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} must be a table")
    _fields(raw, {"hosts": list, "origins": list}, where)
    hosts, origins = (tuple(map(str, raw.get(name, ()))) for name in ("hosts", "origins"))
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ConfigError(
                f'{where}: hosts are names such as "voices.example.com", not {host!r}'
            )
    for origin in origins:
        scheme, _, host = origin.partition("://")
        if scheme not in ("http", "https") or not _HOST.fullmatch(host.rpartition(":")[0] or host):
            raise ConfigError(
                f'{where}: origins are sites such as "https://app.example.com", not {origin!r}'
            )
    return Access(tuple(host.lower() for host in hosts), tuple(o.lower() for o in origins))


def _table(raw: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    value = raw.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {name} must be a table, such as [{name}.something]")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{source}: {name!r} is no name: lower-case letters, digits, - . _")
    return value


def _fields(raw: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    for name, value in raw.items():
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}; known: {', '.join(known)}")
        kind = known[name]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}: {name} must be a finite number")
        if kind is bool and not isinstance(value, bool):
            raise ConfigError(f"{where}: {name} must be true or false")
        if (isinstance(value, bool) and kind is not bool) or not isinstance(value, kind):
            raise ConfigError(f"{where}: {name} must be a {known[name].__name__}")


def _model(name: str, raw: Mapping[str, Any], where: str) -> ModelSpec:
    known = {"engine": str, "slots": int, "workers": int, "options": dict}
    known |= {"load_s": float, "price_per_h": float, "drain": str, "crash_per_minute": float}
    known |= {"kind": str}
    _fields(raw, known, where)
    if ":" not in raw.get("engine", ""):
        raise ConfigError(f'{where} needs engine = "module:Class"')
    numbers = {key: float(raw[key]) for key in ("load_s", "price_per_h") if key in raw}
    spec = ModelSpec(name, **{**raw, **numbers})
    if not 1 <= spec.slots <= 1024 or not 0 <= (spec.workers or 0) <= 64:
        raise ConfigError(f"{where}: slots must be 1 to 1024 and workers 0 to 64")
    if not 0 <= spec.load_s <= 3600 or spec.price_per_h < 0 or spec.crash_per_minute < 0:
        raise ConfigError(
            f"{where}: load_s must be 0 to 3600, price_per_h and crash_per_minute not negative"
        )
    if spec.drain not in list(Drain):
        raise ConfigError(f"{where}: drain must be one of {', '.join(Drain)}")
    if spec.kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(KINDS)}")
    return spec


def _voice(
    name: str, raw: Mapping[str, Any], models: Mapping[str, ModelSpec], source: str
) -> Voice:
    where = f"{source}: [voices.{name}]"
    known = {"title": str, "model": str, "params": dict, "understudy": str, "skip_silence": bool}
    _fields(raw, known, where)
    if raw.get("model") not in models:
        raise ConfigError(f"{where} needs model, one of: {', '.join(models)}")
    params = raw.get("params", {})
    for key, value in params.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{where}: params.{key} must be a number")
    return Voice(
        name=name,
        title=raw.get("title", name),
        model=raw["model"],
        params={key: float(value) for key, value in params.items()},
        understudy=raw.get("understudy"),
        skip_silence=raw.get("skip_silence", False),
    )


def template() -> str:
    """The understudy.toml that Understudy ships with."""
    return resources.files("understudy").joinpath("understudy.toml").read_text()


def data_dir(chosen: Path | None) -> Path:
    """Where the database and understudy.toml live: --data, $UNDERSTUDY_DATA or ~/.understudy."""
    if chosen is None:
        chosen = Path(os.environ.get("UNDERSTUDY_DATA") or Path.home() / ".understudy")
    return chosen.expanduser()


class ConfigFile:
    """A configuration that follows its file. A broken edit is logged and the last good one kept."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if the file, as it is now, cannot be used."""
        self.path = path
        self._stamp = self._stat()
        self._config = self._read()

    @classmethod
    def of_data(cls, data: Path) -> ConfigFile:
        """The file in a data folder; the shipped one is put there if there is none."""
        path = data / "understudy.toml"
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)  # users' names are in there
            if not path.exists():
                path.write_text(template())
        except OSError as error:
            raise ConfigError(f"cannot write to {data}: {error.strerror}; pass --data") from None
        return cls(path)

    def current(self) -> Config:
        stamp = self._stat()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._config = self._read()
                log.info("read %s anew: %d voices", self.path, len(self._config.voices))
            except ConfigError as error:
                log.error("%s; the voices stay as they were", error)
        return self._config

    def _stat(self) -> tuple[int, int]:
        try:
            stat = self.path.stat()
        except OSError:
            return (0, 0)
        return stat.st_mtime_ns, stat.st_size

    def _read(self) -> Config:
        try:
            return parse(self.path.read_text(), self.path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {self.path}: {error}") from None
