"""Where nodes come from, in understudy.toml: [fleet] provider, and the tables [providers.NAME]."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final
from urllib.parse import urlsplit

from understudy.core.errors import ConfigError

DEFAULT_REGION: Final = "local"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_PLACE: Final = re.compile(r"[a-z0-9]+(/[a-z0-9.-]+){0,2}")
_ACCELERATORS: Final = re.compile(r"[A-Za-z0-9_.-]+(:\d+(\.\d+)?)?")

# What each provider has beside what its nodes have.
_OPTIONS: Final[Mapping[str, Mapping[str, type]]] = {
    "local": {},
    "join": {},
    "ray": {"address": str, "autoscales": bool, "pending_s": float},
    "skypilot": {"python": str, "install": str, "spot": bool, "idle_minutes": int, "disk_gb": int},
}
_SAID: Final = {
    str: "a string in quotes",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "a table",
    list: "a list",
}


@dataclass(frozen=True, slots=True)
class NodeKind:
    """What a node for a model has, and costs. None: as the model says itself, or as is learnt.

    `accelerators`: as SkyPilot names them, "L4:1". `resources`: custom ones of a Ray cluster.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0  # 0: whatever there is
    accelerators: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    device: str = ""  # what a model's `load` is told; "": cuda where there is a GPU, else cpu
    price_per_h: float | None = None
    boot_s: float | None = None

    @property
    def loads_on(self) -> str:
        return self.device or ("cuda" if self.gpus or self.accelerators else "cpu")


@dataclass(frozen=True, slots=True)
class Region:
    """One of our regions, as a provider has it.

    `edge`: the URL that its workers dial (ws:// or wss://); "": this server's own. `resource`: the
    custom resource that a Ray cluster's machines there have. `places`: SkyPilot's, such as
    "aws/us-west-2" or "gcp".
    """

    edge: str = ""
    resource: str = ""
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """The provider that was chosen. `fleet`: tells its nodes from those of other fleets."""

    name: str = "local"
    fleet: str = "main"
    options: Mapping[str, Any] = field(default_factory=dict)
    node: NodeKind = field(default_factory=NodeKind)
    models: Mapping[str, NodeKind] = field(default_factory=dict)
    regions: Mapping[str, Region] = field(default_factory=lambda: {DEFAULT_REGION: Region()})

    def kind(self, model: str) -> NodeKind:
        return self.models.get(model, self.node)


def parse_provider(fleet: Mapping[str, Any], tables: Any, source: str) -> ProviderSpec:
    """`fleet`: its keys `provider` and `name`; `tables`: [providers], all of which must be sound.

    Raises ConfigError, saying where and what to do.
    """
    chosen, name = fleet.get("provider", "local"), fleet.get("name", "main")
    known = ", ".join(_OPTIONS)
    if chosen not in _OPTIONS:
        raise ConfigError(f"{source}: [fleet] provider must be one of {known}, not {chosen!r}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{source}: [fleet] name must be up to 31 of a-z 0-9 -, the first a letter or digit"
        )
    if not isinstance(tables, dict):
        raise ConfigError(f"{source}: providers must be tables, such as [providers.ray]")
    for provider in tables:
        if provider not in _OPTIONS:
            raise ConfigError(f"{source}: [providers.{provider}] is unknown; there are {known}")
    specs = {
        provider: _provider(provider, name, table, f"{source}: [providers.{provider}]")
        for provider, table in tables.items()
    }
    spec = specs.get(chosen, ProviderSpec(chosen, name))
    if chosen == "skypilot":
        _check_places(spec, f"{source}: [providers.skypilot]")
    return spec


def _provider(name: str, fleet: str, raw: Any, where: str) -> ProviderSpec:
    table = _typed(raw, dict, where)
    options = {
        key: _typed(value, _OPTIONS[name][key], f"{where}: {key}")
        for key, value in table.items()
        if key in _OPTIONS[name]
    }
    for key in ("pending_s", "idle_minutes", "disk_gb"):
        if options.get(key, 1) <= 0:
            raise ConfigError(f"{where}: {key} must be above 0, not {options[key]}")
    rest = {key: table[key] for key in table.keys() - options.keys() - {"models", "regions"}}
    node = _kind(NodeKind(), rest, where, (*_OPTIONS[name], "models", "regions"))
    return ProviderSpec(
        name,
        fleet,
        options,
        node,
        {
            model: _kind(node, kind, f"{where[:-1]}.models.{model}]")
            for model, kind in _typed(table.get("models", {}), dict, f"{where}: models").items()
        },
        {
            region: _region(region, place, f"{where[:-1]}.regions.{region}]")
            for region, place in _typed(
                table.get("regions", {DEFAULT_REGION: {}}), dict, f"{where}: regions"
            ).items()
        },
    )


def _kind(base: NodeKind, raw: Any, where: str, others: tuple[str, ...] = ()) -> NodeKind:
    types: dict[str, type] = {one.name: float for one in fields(NodeKind)}
    types |= {"accelerators": str, "device": str, "resources": dict}
    said: dict[str, Any] = {}
    for key, value in _typed(raw, dict, where).items():
        if key not in types:
            known = ", ".join((*others, *types))
            raise ConfigError(f"{where}: unknown key {key!r}; known: {known}")
        said[key] = _typed(value, types[key], f"{where}: {key}")
        if types[key] is float and said[key] < 0:
            raise ConfigError(f"{where}: {key} must not be negative")
    if said.get("accelerators") and not _ACCELERATORS.fullmatch(said["accelerators"]):
        raise ConfigError(f'{where}: accelerators must be like "L4:1", not {said["accelerators"]}')
    for name, amount in said.get("resources", {}).items():
        said["resources"][name] = _typed(amount, float, f"{where}: resources.{name}")
    return replace(base, **said)


def _region(name: str, raw: Any, where: str) -> Region:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where} is no name of a region: up to 31 of a-z 0-9 -")
    types: dict[str, type] = {"edge": str, "resource": str, "places": list}
    said: dict[str, Any] = {}
    for key, value in _typed(raw, dict, where).items():
        if key not in types:
            raise ConfigError(f"{where}: unknown key {key!r}; known: {', '.join(types)}")
        said[key] = _typed(value, types[key], f"{where}: {key}")
    if said.get("edge") and urlsplit(said["edge"]).scheme not in ("ws", "wss"):
        raise ConfigError(f'{where}: edge must be a URL such as "wss://sf.example.com"')
    for place in said.get("places", ()):
        if not isinstance(place, str) or not _PLACE.fullmatch(place):
            raise ConfigError(f'{where}: places must be like "aws/us-west-2", not {place!r}')
    return Region(**{**said, "places": tuple(said.get("places", ()))})


def _check_places(spec: ProviderSpec, where: str) -> None:
    if not spec.regions or not all(
        region.places and region.edge for region in spec.regions.values()
    ):
        raise ConfigError(
            f"{where}: each region needs the clouds to rent in, and the edge that its workers "
            f'dial: [providers.skypilot.regions.sf] places = ["aws/us-west-2"], '
            'edge = "wss://sf.example.com"'
        )


def _typed(value: Any, kind: type, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{where} must be {_SAID[kind]}, not {value!r}")
    return value


def link_of(edge: str) -> str:
    """Where an edge takes its workers' links; "" for ""."""
    return edge if not edge or edge.endswith("/v1/link") else f"{edge.rstrip('/')}/v1/link"
