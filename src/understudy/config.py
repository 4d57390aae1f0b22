"""understudy.toml: the models and voices there are, read anew when the file changes."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from understudy.core.errors import BadParams, ConfigError, UnknownVoice
from understudy.core.wire import Control, Params

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8765
DEFAULT_SLOTS: Final = 4
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model: `engine` is "module:Class"; `workers` are kept up, each with `slots` sessions."""

    name: str
    engine: str
    slots: int = DEFAULT_SLOTS
    workers: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)  # for the engine's constructor


@dataclass(frozen=True, slots=True)
class Voice:
    """What a user picks: a model and its numbers."""

    name: str
    title: str
    model: str
    params: Params = field(default_factory=dict)
    understudy: str = "none"


@dataclass(frozen=True, slots=True)
class Config:
    models: Mapping[str, ModelSpec]
    voices: Mapping[str, Voice]

    def voice(self, name: str) -> Voice:
        """Raises UnknownVoice, naming the voices there are."""
        if (voice := self.voices.get(name)) is None:
            raise UnknownVoice(f"no voice {name[:64]!r}; there are {', '.join(self.voices)}")
        return voice


def merge_params(voice: Voice, wish: Params, controls: Mapping[str, Control]) -> dict[str, float]:
    """The voice's own numbers with the user's over them. Raises BadParams."""
    for name, value in wish.items():
        control = controls.get(name)
        if control is None:
            takes = ", ".join(controls) or "none"
            raise BadParams(f"{voice.name} has no {name[:40]!r}; its params: {takes}")
        if not control.min <= value <= control.max:
            raise BadParams(
                f"{name} must be {control.min:g} to {control.max:g} {control.unit}, not {value:g}"
            )
    return {**voice.params, **wish}


def parse(text: str, source: str) -> Config:
    """Raises ConfigError, saying where and what to do."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is no valid TOML: {error}") from None
    for section in raw.keys() - {"models", "voices"}:
        raise ConfigError(f"{source}: unknown section [{section}]; there are models and voices")
    models = {
        name: _model(name, _table(raw["models"], name, source), f"{source}: [models.{name}]")
        for name in _table(raw, "models", source)
    }
    voices = {
        name: _voice(name, _table(raw["voices"], name, source), models, source)
        for name in _table(raw, "voices", source)
    }
    for voice in voices.values():
        if voice.understudy != "none" and voice.understudy not in voices:
            raise ConfigError(f"{source}: [voices.{voice.name}] understudy is no voice here")
    return Config(models, voices)


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
        if isinstance(value, bool) or not isinstance(value, known[name]):
            raise ConfigError(f"{where}: {name} must be a {known[name].__name__}")


def _model(name: str, raw: Mapping[str, Any], where: str) -> ModelSpec:
    _fields(raw, {"engine": str, "slots": int, "workers": int, "options": dict}, where)
    if ":" not in raw.get("engine", ""):
        raise ConfigError(f'{where} needs engine = "module:Class"')
    spec = ModelSpec(name, **raw)
    if not 1 <= spec.slots <= 1024 or not 0 <= spec.workers <= 64:
        raise ConfigError(f"{where}: slots must be 1 to 1024 and workers 0 to 64")
    return spec


def _voice(
    name: str, raw: Mapping[str, Any], models: Mapping[str, ModelSpec], source: str
) -> Voice:
    where = f"{source}: [voices.{name}]"
    _fields(raw, {"title": str, "model": str, "params": dict, "understudy": str}, where)
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
        understudy=raw.get("understudy", "none"),
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
            data.mkdir(parents=True, exist_ok=True)
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
