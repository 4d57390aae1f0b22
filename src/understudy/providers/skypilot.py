"""Nodes rented in any cloud, by SkyPilot: a node is a cluster of one machine with one job.

SkyPilot knows prices, quotas and how each cloud is asked; it takes the cheapest of the places and
kinds that a region allows, spot machines and others, and goes on to the next where there is none.
A machine whose worker has ended is given back by itself after `idle_minutes`.

**No cloud has been called by this code yet.** Its tasks are validated by SkyPilot itself, and all
else by a stand-in for SkyPilot: watch the first run on an account of yours (`sky status`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final

from understudy.config_providers import NodeKind, ProviderSpec, link_of
from understudy.core.errors import ProviderFailed
from understudy.core.fleet import Node
from understudy.providers.driver import Driver
from understudy.seams import Clock

log = logging.getLogger(__name__)

LAUNCH_S: Final = 1800.0  # many places may be tried, one after the other
CALL_S: Final = 600.0
LOOK_S: Final = 15.0  # clouds do not like to be asked more often
IDLE_MINUTES: Final = 10
DISK_GB: Final = 50
_ENVIRONMENT: Final = {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}


class SkyPilotProvider:
    """seams.Provider with SkyPilot, which `driver` calls in a process of its own."""

    name = "skypilot"

    def __init__(
        self,
        spec: ProviderSpec,
        spec_json: Callable[[str, str], str],
        sign: Callable[[str], str],
        clock: Clock,
    ) -> None:
        """`spec_json(model, revision)` is what a worker reads from its standard input."""
        self._spec = spec
        self._spec_json = spec_json
        self._sign = sign
        self._clock = clock
        self._prefix = f"understudy-{spec.fleet}_"  # a fleet's name has no _
        self._driver = Driver(
            "understudy.providers.sky_driver",
            python=spec.options.get("python", sys.executable),
            environment=_ENVIRONMENT,
        )
        self._known: dict[str, Node] = {}
        self._asked: set[str] = set()  # nodes that are being rented or returned
        self._looking: asyncio.Task[None] | None = None
        self._looked_s: float | None = None
        self.urls: dict[str, str] = {}  # not used: the file names each region's edge

    def refusal(self, node: Node, ahead: Iterable[Node] = ()) -> str | None:
        return None  # the clouds say so themselves

    async def start(self, node: Node) -> None:
        """Returns once the machine is there, which takes minutes. Raises NoCapacity if no place
        has one for us, ConfigError, or ProviderFailed."""
        task = self.task(node)
        self._known[node.id] = node
        self._asked.add(node.id)
        idle = self._spec.options.get("idle_minutes", IDLE_MINUTES)
        try:
            await self._driver.call(
                "launch", self._prefix + node.id, task, idle, timeout_s=LAUNCH_S
            )
        except BaseException:
            self._known.pop(node.id, None)  # what is there of it all the same, a look finds
            raise
        finally:
            self._asked.discard(node.id)

    def task(self, node: Node) -> dict[str, Any]:
        """What SkyPilot is to run, as its YAML has it. Raises KeyError for an unknown region."""
        region = self._spec.regions[node.region]
        kind = self._spec.kind(node.model)
        spec = json.loads(self._spec_json(node.model, node.revision))
        install = self._spec.options.get("install", f"understudy=={version('understudy')}")
        worker = ["--url", link_of(region.edge), "--node", node.id, "--region", node.region]
        spots = (True, False) if self._spec.options.get("spot", True) else (False,)
        return {
            "name": node.id,
            "resources": {
                "any_of": [
                    _resources(place, kind, spot, self._spec.options.get("disk_gb", DISK_GB))
                    for place in region.places
                    for spot in spots
                ]
            },
            # Of its own, whatever the image has; from here on the worker fetches its bundle.
            "setup": f"python3 -m venv ~/understudy && ~/understudy/bin/pip install {install}",
            "run": f"exec ~/understudy/bin/python -m understudy.worker.launch {shlex.join(worker)}",
            "envs": {"UNDERSTUDY_WORKER_SPEC": json.dumps({**spec, "device": kind.loads_on})},
            "secrets": {"UNDERSTUDY_WORKER_SECRET": self._sign(node.id)},
        }

    async def stop(self, node: str) -> None:
        self._asked.add(node)
        try:
            await self._driver.call("down", self._prefix + node, timeout_s=CALL_S)
            self._known.pop(node, None)
        finally:
            self._asked.discard(node)

    async def nodes(self) -> Sequence[Node]:
        """As of the last look, LOOK_S ago at the most while SkyPilot answers. Raises
        ProviderFailed if there was none yet: nothing must be taken for lost that is out of
        sight. Of a node that an earlier controller rented, only id, region "" and start are
        known."""
        due = self._looked_s is None or self._clock.now() - self._looked_s >= LOOK_S
        if due and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look())
        if self._looked_s is None:
            assert self._looking is not None
            await asyncio.shield(self._looking)
        return list(self._known.values())

    async def _look(self) -> None:
        settled = self._known.keys() - self._asked  # those whose state a look may tell
        try:
            found = await self._driver.call("status", self._prefix, timeout_s=CALL_S)
        except ProviderFailed as error:
            if self._looked_s is None:
                raise
            log.warning("SkyPilot does not answer: %s", error.message)
            found = None
        self._looked_s = self._clock.now()
        if found is not None:
            self._take(found, settled)

    def _take(self, found: Sequence[Mapping[str, Any]], settled: set[str]) -> None:
        clusters = {record["cluster"].removeprefix(self._prefix): record for record in found}
        for name in (settled & self._known.keys()) - self._asked:
            record = clusters.get(name)
            if record is None or record["status"] == "STOPPED":
                why = "was taken back by its cloud, or ended by itself"
                self._known[name] = replace(self._known[name], exited=why)
        for name in clusters.keys() - self._known.keys() - self._asked:
            at = float(clusters[name]["launched_s"])
            self._known[name] = Node(name, "", "", "", started_s=at)

    async def validate(self, node: Node) -> Sequence[str]:
        """The kinds of machines that SkyPilot would take for a node. Raises ConfigError."""
        said: list[str] = await self._driver.call("validate", self.task(node), timeout_s=CALL_S)
        return said

    async def close(self) -> None:
        """Returns every node, those of an earlier controller too."""
        try:
            if self._known or self._looked_s is not None:
                if self._looking is not None:
                    await asyncio.gather(self._looking, return_exceptions=True)
                await asyncio.gather(*map(self.stop, list(self._known)))
        finally:
            await self.leave()

    async def leave(self) -> None:
        """Leaves the nodes as they are, for the next controller."""
        await self._driver.close()
        if self._looking is not None:
            await asyncio.gather(self._looking, return_exceptions=True)


def _resources(place: str, kind: NodeKind, spot: bool, disk_gb: int) -> dict[str, Any]:
    wanted: dict[str, Any] = dict(zip(("cloud", "region", "zone"), place.split("/"), strict=False))
    wanted |= {"cpus": f"{kind.cpus:g}+", "disk_size": disk_gb, "use_spot": spot}
    if kind.memory_gb:
        wanted["memory"] = f"{kind.memory_gb:g}+"
    if kind.accelerators:
        wanted["accelerators"] = kind.accelerators
    return wanted
