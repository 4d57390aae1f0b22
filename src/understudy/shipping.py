"""`understudy deploy`, `rollback` and `drain`: what changes what the fleet performs.

All of it is rows in the store: a running server follows within a second, one that is down will.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from understudy.bundle import Bundle, install, read_bundle, verify
from understudy.bundle_archive import archive, archive_bytes
from understudy.catalog import dump, load, newest
from understudy.config import Config, ModelSpec, Voice
from understudy.core.errors import ConfigError
from understudy.core.fleet import Deployment
from understudy.seams import Clock, Store
from understudy.worker.check import Checked, check

BIG_BYTES: Final = 64_000_000  # from here on, deploying says how far it is


@dataclass(frozen=True, slots=True)
class Deployed:
    """`again`: it was what is deployed already, and nothing has changed."""

    model: str
    revision: str
    checked: Checked
    warnings: Sequence[str]
    again: bool


async def deploy(
    folder: Path,
    name: str | None,
    base: Config,
    store: Store,
    bundles: Path,
    clock: Clock,
    say: Callable[[str], None],
) -> Deployed:
    """Checks a bundle and makes it what its voice is from now on.

    `base`: understudy.toml. Raises ConfigError or ModelFailed; then nothing has changed.
    """
    bundle = read_bundle(folder, name)
    deployments = await store.deployments()
    _check_names(bundle, base, deployments)
    path = await asyncio.to_thread(install, bundle, bundles)
    say(f"{bundle.name} {bundle.revision}: loading it once, and running a second of audio")
    checked = await check(bundle.spec(), path)
    await _save(bundle.revision, path, store, say)
    warnings = list(checked.warnings)
    current = newest(deployments).get(bundle.name)
    if current is not None:
        before = (await store.cards()).get((current.model, current.revision))
        if before is not None and not checked.card.can_follow(before):
            warnings.append(
                "its rate or latency differs from the present revision's, so sessions that are "
                "live now stay on that until they end"
            )
    spec = dump(
        ModelSpec(
            bundle.name,
            bundle.engine,
            bundle.slots,
            options=bundle.options,
            load_s=bundle.load_s,
            price_per_h=bundle.price_per_h,
            drain=bundle.drain,
            path=str(path),
            bundle=bundle.revision,
            kind=bundle.kind,
        ),
        Voice(
            bundle.name,
            bundle.title,
            bundle.name,
            bundle.params,
            bundle.understudy,
            bundle.skip_silence,
        ),
    )
    again = current is not None and (current.revision, current.failed) == (bundle.revision, "")
    if not again:
        await store.save_card(bundle.name, bundle.revision, checked.card)
        await store.deploy(Deployment(bundle.name, bundle.revision, clock.wall(), spec))
    return Deployed(bundle.name, bundle.revision, checked, warnings, again)


async def _save(revision: str, path: Path, store: Store, say: Callable[[str], None]) -> None:
    """Puts a bundle's files into the store, so that any edge can hand them to any worker."""
    if await store.bundle_size(revision) is not None:
        return
    whole = await asyncio.to_thread(archive_bytes, path)

    def parts() -> Iterator[bytes]:
        done, said = 0, 0
        for part in archive(path):
            yield part
            done += len(part)
            tenths = 10 * done // max(1, whole)
            if whole >= BIG_BYTES and said < tenths <= 10:
                said = tenths
                say(f"{revision}: {done / 1e6:.0f} of {whole / 1e6:.0f} MB are in the store")

    await store.save_bundle(revision, parts())


def _check_names(bundle: Bundle, base: Config, deployments: Sequence[Deployment]) -> None:
    if bundle.name in base.models or bundle.name in base.voices:
        raise ConfigError(
            f"understudy.toml has a {bundle.name} already; remove it there, or deploy this one "
            "under another name with --name"
        )
    if bundle.understudy in (None, "none"):
        return
    cover = base.voices.get(bundle.understudy or "")
    able = [
        v.name
        for v in base.voices.values()
        if base.models[v.model].workers and base.models[v.model].kind == "convert"
    ]
    if cover is None or cover.name not in able:
        raise ConfigError(
            f'{bundle.name}\'s understudy must be always on; choose {", ".join(able)}, or "none"'
        )


async def rollback(voice: str, to: str | None, store: Store, clock: Clock) -> str:
    """Deploys an older revision again, by default the one before; returns which.

    Raises ConfigError.
    """
    deployments = [d for d in await store.deployments() if d.model == voice]
    if not deployments:
        raise ConfigError(f"{voice} was never deployed; `understudy voices` lists what there is")
    current = newest(deployments)[voice]
    # By their first deployment; what failed on the fleet is not gone back to unasked.
    good = [d for d in deployments if to is not None or not d.failed or d is current]
    order = list(dict.fromkeys(d.revision for d in good))
    if to is None:
        before = order[: order.index(current.revision)]
        if not before:
            raise ConfigError(f"{voice} {current.revision} is its first revision; nothing is older")
        to = before[-1]
    found = [d for d in deployments if to and d.revision.startswith(to)]
    if len({d.revision for d in found}) > 1:
        raise ConfigError(f"{voice} has several revisions that begin with {to}; give more of it")
    if not found:
        raise ConfigError(f"{voice} has no revision {to}; there are {', '.join(order)}")
    spec, _ = load(found[-1].spec)
    if await store.bundle_size(spec.bundle) is None:  # deployed before the store kept files
        if not await asyncio.to_thread(Path(spec.path).is_dir):
            raise ConfigError(f"the files of {voice} {spec.bundle} are no longer at {spec.path}")
        await asyncio.to_thread(verify, Path(spec.path), spec.bundle)
    await store.deploy(replace(found[-1], at_s=clock.wall(), failed=""))
    return found[-1].revision
