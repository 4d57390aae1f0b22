"""Where nodes come from: adapters of seams.Provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from understudy.config_providers import ProviderSpec
from understudy.core.errors import ConfigError
from understudy.providers.local import LocalProvider
from understudy.seams import Clock

if TYPE_CHECKING:
    from understudy.providers.ray import RayProvider
    from understudy.providers.skypilot import SkyPilotProvider

    AnyProvider: TypeAlias = LocalProvider | RayProvider | SkyPilotProvider


def new_provider(
    spec: ProviderSpec,
    spec_json: Callable[[str, str], str],
    sign: Callable[[str], str],
    clock: Clock,
) -> AnyProvider:
    """The provider that understudy.toml names. Raises ConfigError.

    `spec_json(model, revision)`: what a worker is to load, as JSON; `sign(node)`: what its
    worker shows to an edge.
    """
    match spec.name:
        case "local":
            return LocalProvider(spec_json, sign)
        case "ray":
            from understudy.providers.ray import RayProvider

            return RayProvider(spec, spec_json, sign)
        case "skypilot":
            from understudy.providers.skypilot import SkyPilotProvider

            return SkyPilotProvider(spec, spec_json, sign, clock)
    raise ConfigError(f"[fleet] provider = {spec.name!r} cannot be used by this command")
