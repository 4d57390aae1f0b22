"""Nodes in a Ray cluster: each is a detached actor with its share of CPUs and GPUs.

Ray places them, holds them while there is no room, and says when a machine is lost. The actors are
the fleet's, not ours: a controller that starts anew finds them by their names, in the namespace
`understudy-FLEET`, and its supervision returns those that nobody owns.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

from understudy.config_providers import ProviderSpec, link_of
from understudy.core.errors import ProviderFailed
from understudy.core.fleet import Node
from understudy.providers.driver import Driver

log = logging.getLogger(__name__)

CALL_S: Final = 60.0
STOP_S: Final = 3.0  # between asking a worker to leave and killing it
PENDING_S: Final = 300.0  # how long a node may wait for room in the cluster


class RayProvider:
    """seams.Provider with a Ray cluster, which `driver` talks to in a process of its own."""

    name = "ray"

    def __init__(
        self,
        spec: ProviderSpec,
        spec_json: Callable[[str, str], str],
        sign: Callable[[str], str],
    ) -> None:
        """`spec_json(model, revision)` is what a worker reads from its standard input."""
        self._spec = spec
        self._spec_json = spec_json
        self._sign = sign
        self._pending_s = spec.options.get("pending_s", PENDING_S)
        self._known: dict[str, Node] = {}  # as of the last look
        self._looked = False
        self._away = False
        cluster = {
            "address": spec.options.get("address", "auto"),
            "namespace": f"understudy-{spec.fleet}",
        }
        self._driver = Driver("understudy.providers.ray_driver", json.dumps(cluster))
        self.urls: dict[str, str] = {}  # region -> of the edge to dial, where the file names none

    def refusal(self, node: Node, ahead: Iterable[Node] = ()) -> str | None:
        return None  # the cluster says so itself

    async def start(self, node: Node) -> None:
        """Returns once Ray has taken it, be there room now or not. Raises NoCapacity where there
        never will be."""
        region = self._spec.regions[node.region]
        url = link_of(region.edge) or self.urls[node.region]
        kind = self._spec.kind(node.model)
        spec = json.loads(self._spec_json(node.model, node.revision))
        asked = {
            "cpus": kind.cpus,
            "gpus": kind.gpus,
            "memory": int(kind.memory_gb * 1e9),
            # A thousandth: it says where, and many may be there.
            "resources": {
                **kind.resources,
                **({region.resource: 0.001} if region.resource else {}),
            },
            "autoscales": self._spec.options.get("autoscales", False),
        }
        worker = [
            ["--url", url, "--node", node.id, "--region", node.region],
            self._sign(node.id),
            json.dumps({**spec, "device": kind.loads_on}),
        ]
        self._known[node.id] = node  # its worker may dial in before Ray has answered
        try:
            await self._driver.call("start", _name_of(node), asked, worker, timeout_s=CALL_S)
        except BaseException:
            self._known.pop(node.id, None)
            raise

    async def stop(self, node: str) -> None:
        await self._driver.call("stop", f"{quote(node, safe='')}/", STOP_S, timeout_s=CALL_S)
        self._known.pop(node, None)

    async def nodes(self) -> Sequence[Node]:
        """While the cluster does not answer: what was there last. Raises ProviderFailed if
        that is not known yet: nothing must be taken for lost that may only be out of sight."""
        before = set(self._known)
        try:
            found = await self._driver.call("poll", timeout_s=CALL_S)
        except ProviderFailed as error:
            if not self._looked:
                raise
            if not self._away:
                log.warning("the Ray cluster does not answer: %s", error.message)
            self._away = True
            return list(self._known.values())
        self._looked, self._away = True, False
        nodes = {node.id: node for node in map(self._node, found)}
        # What was asked for, or returned, while we looked: its own call knows better.
        fresh = {name: node for name, node in self._known.items() if name not in before}
        gone = before - self._known.keys()
        self._known = {n: node for n, node in (fresh | nodes).items() if n not in gone}
        return list(self._known.values())

    def _node(self, found: Mapping[str, Any]) -> Node:
        exited = found["exited"]
        if exited is None and not found["up"] and found["since_s"] > self._pending_s:
            exited = (
                f"waited {found['since_s']:.0f} s for room in the Ray cluster; add machines to it, "
                "lower max_nodes in [fleet], or raise pending_s in [providers.ray]"
            )
        return _node_of(found["name"], exited)

    async def close(self) -> None:
        """Returns every node, those of an earlier controller too."""
        try:
            if self._looked or self._known:
                await asyncio.gather(*(self.stop(node.id) for node in await self.nodes()))
        finally:
            await self.leave()

    async def leave(self) -> None:
        """Leaves the nodes as they are, for the next controller."""
        await self._driver.close()


def _name_of(node: Node) -> str:
    """An actor's name: all that has to be known of its node by who finds it."""
    words = (node.id, node.model, node.revision, node.region, repr(node.started_s))
    return "/".join(quote(word, safe="") for word in words)


def _node_of(name: str, exited: str | None) -> Node:
    words = [unquote(word) for word in name.split("/")]
    node, model, revision, region, started = words
    return Node(
        node, model, revision, region, exited, None if started == "None" else float(started)
    )
