"""What can be performed now: the voices of understudy.toml, and those that were deployed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from understudy.config import Config, ConfigFile, ModelSpec, Voice
from understudy.core.fleet import Deployment
from understudy.core.policy_view import Drain
from understudy.core.pools import DEFAULT_BOOT_S, Wanted
from understudy.core.wire import Card
from understudy.seams import Store

log = logging.getLogger(__name__)


def dump(model: ModelSpec, voice: Voice) -> str:
    """A deployed model and its voice, as `Deployment.spec` has them."""
    return json.dumps({"model": asdict(model), "voice": asdict(voice)})


def load(spec: str) -> tuple[ModelSpec, Voice]:
    raw = json.loads(spec)
    return ModelSpec(**raw["model"]), Voice(**raw["voice"])


def newest(deployments: Sequence[Deployment]) -> dict[str, Deployment]:
    """The last deployment of each model that did not fail; if all did, the last one."""
    found: dict[str, Deployment] = {}
    for deployment in deployments:
        old = found.get(deployment.model)
        if not deployment.failed or old is None or old.failed:
            found[deployment.model] = deployment
    return found


class Catalog:
    """The configuration and the deployments as one; deployments are read from the store."""

    def __init__(self, file: ConfigFile, store: Store) -> None:
        self._file = file
        self._store = store
        self._deployments: tuple[Deployment, ...] = ()
        self._base: Config | None = None  # what `_merged` was made of
        self._merged: Config | None = None
        self._specs: dict[tuple[str, str], ModelSpec] = {}
        self.cards: Mapping[tuple[str, str], Card] = {}  # by (model, revision), as they are learnt

    async def refresh(self) -> bool:
        """Reads the deployments; whether they have changed."""
        deployments = tuple(await self._store.deployments())
        if deployments == self._deployments:
            return False
        self._deployments, self._merged = deployments, None
        return True

    def current(self) -> Config:
        base = self._file.current()
        if self._merged is None or base is not self._base:
            self._base, self._merged = base, self._merge(base)
        return self._merged

    def _merge(self, base: Config) -> Config:
        models, voices = dict(base.models), dict(base.voices)
        for deployment in self._deployments:
            spec, _ = load(deployment.spec)
            self._specs[deployment.model, deployment.revision] = spec
        for name, deployment in newest(self._deployments).items():
            if name in base.models or name in base.voices:
                log.error("%s is deployed, but understudy.toml has one too, which counts", name)
                continue
            models[name], voices[name] = load(deployment.spec)
        return replace(base, models=models, voices=voices)

    @property
    def deployments(self) -> Sequence[Deployment]:
        return self._deployments

    def wanted(self) -> list[Wanted]:
        """For the controller."""
        current = self.current()
        return [
            Wanted(
                model=spec.name,
                revision=spec.revision,
                slots=spec.slots,
                keep=spec.workers,
                price_per_h=_first(current.provider.kind(spec.name).price_per_h, spec.price_per_h),
                boot_s=_first(
                    current.provider.kind(spec.name).boot_s, spec.load_s or DEFAULT_BOOT_S
                ),
                drain=Drain(spec.drain),
                misfits=self._misfits(spec),
            )
            for spec in current.models.values()
        ]

    def _misfits(self, spec: ModelSpec) -> frozenset[str]:
        newest = self.cards.get((spec.name, spec.revision))
        return frozenset(
            revision
            for (model, revision), card in self.cards.items()
            if newest is not None and model == spec.name and not newest.can_follow(card)
        )

    def spec(self, model: str, revision: str) -> Mapping[str, Any]:
        """What a worker needs to load a revision, as JSON."""
        current = self.current().models.get(model)
        if current is not None and current.revision != revision:
            current = None  # another's files must not be loaded under this one's name
        spec = self._specs.get((model, revision), current)
        if spec is None:
            raise KeyError(f"there is no revision {revision} of a model {model}")
        return {**asdict(spec), "revision": revision}


def _first(said: float | None, otherwise: float) -> float:
    """What the provider's table says, else what the model says."""
    return otherwise if said is None else said
