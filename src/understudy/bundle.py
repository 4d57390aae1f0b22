"""A bundle: the folder with a voice.toml that a research engineer ships."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from understudy.bundle_files import copy_in, revision_of, verify
from understudy.config import DEFAULT_SLOTS
from understudy.core.errors import ConfigError
from understudy.core.policy_view import Drain
from understudy.core.wire import Params

__all__ = ["Bundle", "install", "read_bundle", "verify"]

KINDS: Final = ("convert", "speak", "listen")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_ENGINE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_KEYS: Final[Mapping[str, type]] = {
    "name": str,
    "title": str,
    "kind": str,
    "engine": str,
    "slots": int,
    "understudy": str,
    "drain": str,
    "load_s": float,
    "price_per_h": float,
    "params": dict,
    "options": dict,
    "skip_silence": bool,
}
_SAID: Final = {
    str: "a string in quotes",
    int: "a whole number",
    float: "a number",
    dict: "a table",
    bool: "true or false",
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """What voice.toml says, and the `revision` that names these very files.

    `understudy`: the voice that covers for it, "none", or None: the server chooses. `load_s`:
    what a load takes at the least, in seconds: it stands for a heavier one. `path`: the folder.
    """

    name: str
    title: str
    kind: str
    engine: str
    slots: int
    understudy: str | None
    drain: str
    params: Params
    options: Mapping[str, Any]
    load_s: float
    price_per_h: float
    revision: str
    path: Path
    skip_silence: bool = False

    def spec(self, device: str = "cpu") -> dict[str, Any]:
        """What `worker.check` reads, to be sent as JSON."""
        return {
            "kind": self.kind,
            "engine": self.engine,
            "slots": self.slots,
            "options": dict(self.options),
            "params": dict(self.params),
            "device": device,
        }


def read_bundle(folder: Path, name: str | None = None) -> Bundle:
    """Reads and hashes a bundle; `name`: another name than its own, for a twin beside it.

    Raises ConfigError, saying where, what and what to do.
    """
    where = f"{folder / 'voice.toml'}"
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; give the one that has voice.toml in it")
    try:
        raw = tomllib.loads((folder / "voice.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f'{folder} has no voice.toml; write one, at the least: engine = "model:MyModel"'
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is no valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {where}: {error}") from None
    _check_types(raw, where)
    own = name or raw.get("name", folder.resolve().name)
    title = own if name else raw.get("title", own)
    params = raw.get("params", {})
    bundle = Bundle(
        name=own,
        title=title,
        kind=raw.get("kind", "convert"),
        engine=raw.get("engine", ""),
        slots=raw.get("slots", DEFAULT_SLOTS),
        understudy=raw.get("understudy"),
        drain=raw.get("drain", Drain.MOVE.value),
        params={key: _number(value, f"{where}: params.{key}") for key, value in params.items()},
        options=raw.get("options", {}),
        load_s=float(raw.get("load_s", 0)),
        price_per_h=float(raw.get("price_per_h", 0)),
        revision="",
        path=folder.resolve(),
        skip_silence=raw.get("skip_silence", False),
    )
    _check_values(bundle, where)
    return replace(bundle, revision=revision_of(folder))


def _check_types(raw: Mapping[str, Any], where: str) -> None:
    for key, value in raw.items():
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; known: {', '.join(_KEYS)}")
        wanted = (int, float) if _KEYS[key] is float else _KEYS[key]
        odd = isinstance(value, bool) != (wanted is bool)
        if odd or not isinstance(value, wanted):
            raise ConfigError(f"{where}: {key} must be {_SAID[_KEYS[key]]}, not {value!r}")


def _check_values(bundle: Bundle, where: str) -> None:
    for key, value in (("name", bundle.name), ("understudy", bundle.understudy)):
        if value is not None and not _NAME.fullmatch(value):
            raise ConfigError(
                f"{where}: {key} {value!r} is no name; use up to 64 of a-z 0-9 - . _, the first a "
                "letter or digit"
            )
    if not (0 < len(bundle.title) <= 80 and bundle.title.isprintable()):
        raise ConfigError(f"{where}: title must be 1 to 80 printable characters")
    if bundle.kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(KINDS)}, not {bundle.kind!r}")
    if not _ENGINE.fullmatch(bundle.engine):
        raise ConfigError(
            f'{where}: engine must be "module:Class" (for a class in model.py here: '
            f'"model:MyModel"), not {bundle.engine!r}'
        )
    if not 1 <= bundle.slots <= 1024:
        raise ConfigError(f"{where}: slots must be 1 to 1024, not {bundle.slots}")
    if bundle.kind == "listen" and bundle.understudy not in (None, "none"):
        raise ConfigError(f"{where}: nobody can cover for a listener; take its understudy out")
    if bundle.drain not in list(Drain):
        raise ConfigError(f"{where}: drain must be one of {', '.join(Drain)}, not {bundle.drain!r}")
    if not 0 <= bundle.load_s <= 3600:
        raise ConfigError(f"{where}: load_s must be 0 to 3600 seconds, not {bundle.load_s:g}")
    if not 0 <= bundle.price_per_h < math.inf:
        raise ConfigError(f"{where}: price_per_h must be 0 or more, not {bundle.price_per_h:g}")
    if "slots" in bundle.options:
        raise ConfigError(f"{where}: put slots at the top of the file, not under [options]")
    _check_json(bundle.options, f"{where}: options")


def _check_json(value: Any, where: str) -> None:
    """The options reach the worker as JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_json(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            _check_json(inner, where)
    elif isinstance(value, float):
        _number(value, where)
    elif not isinstance(value, str | int):
        raise ConfigError(f"{where} must be a string, number, true, false, list or table")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        raise ConfigError(f"{where} must be a finite number, not {value!r}")
    return float(value)


def install(bundle: Bundle, into: Path) -> Path:
    """Copies a bundle to into/REVISION, read-only, whole or not at all; returns that folder.

    Idempotent, also when several processes do it at once. Raises ConfigError.
    """
    return copy_in(bundle.path, bundle.revision, into)
