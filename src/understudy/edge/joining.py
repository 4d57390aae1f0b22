"""Machines that have joined, at the edge that they dialled: hands orders on, and answers back."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from understudy.core.errors import BadToken, LinkError, StoreAway, UnderstudyError
from understudy.core.fleet import Machine, Order
from understudy.edge.websocket import Peer
from understudy.seams import Clock, Store

log = logging.getLogger(__name__)

POLL_S: Final = 0.25  # how often the store is asked for orders, which tells it that all is well
SILENCE_S: Final = 3.0  # of a machine: then it is not in touch any more


class Joined(Protocol):
    """What a join token says: the machine's name, and its region if it is bound to one."""

    @property
    def name(self) -> str: ...

    @property
    def region(self) -> str | None: ...


class Machines:
    """Those that have dialled this edge."""

    def __init__(
        self,
        store: Store,
        check: Callable[[str], Joined],
        spec_json: Callable[[str, str], str],
        sign: Callable[[str], str],
        urls: Callable[[str], Mapping[str, str]],
        region: str,
        clock: Clock,
    ) -> None:
        """`check(token)` raises BadToken; `spec_json(model, revision)`: what a worker loads;
        `sign(node)`: what it shows to an edge; `urls(region)`: the edges' links, as seen there."""
        self.store = store
        self.check = check
        self.spec_json = spec_json
        self.sign = sign
        self.urls = urls
        self.region = region
        self.clock = clock
        self.links: dict[str, MachineLink] = {}

    def new_link(self) -> MachineLink:
        return MachineLink(self)


class MachineLink(Peer):
    """One machine's connection."""

    def __init__(self, machines: Machines) -> None:
        super().__init__()
        self._all = machines
        self._serving: asyncio.Task[None] | None = None
        self._nodes: dict[str, str | None] = {}  # as it says: why each exited, or None
        self._said = ""
        self.agent = ""  # the process at its other end
        self.machine = Machine("", "", 0, 0)
        self.heard_s = machines.clock.now()

    @property
    def introduced(self) -> bool:
        return self.machine.name != ""

    def on_text(self, text: str) -> None:
        self.heard_s = self._all.clock.now()
        try:
            message = json.loads(text)
            if not self.introduced:
                self._hello(message)
            else:
                self._nodes = {
                    str(node): None if why is None else str(why)
                    for node, why in message["nodes"].items()
                }
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LinkError(f"a message that makes no sense: {error!r}") from None

    def on_audio(self, data: bytes) -> None:
        raise LinkError("a machine has nothing to play")

    def _hello(self, message: Mapping[str, Any]) -> None:
        try:
            joined = self._all.check(str(message["token"]))
        except BadToken as error:
            raise LinkError(error.message) from None
        region = str(message.get("region") or joined.region or self._all.region)
        if joined.region not in (None, region):
            raise LinkError(f"this token is for machines in {joined.region}, not in {region}")
        machine = Machine(
            name=f"{joined.name}/{str(message['name'])[:64]}",
            region=region,
            gpus=int(message["gpus"]),
            cpus=int(message["cpus"]),
            price_per_h=float(message["price_per_h"]),
        )
        self.agent = str(message["agent"])
        if min(machine.gpus, machine.cpus, machine.price_per_h) < 0:
            raise LinkError("gpus, cpus and price must not be negative")
        old = self._all.links.get(machine.name)
        if old is not None and old.agent != self.agent and old.is_in_touch:
            raise LinkError(f"another machine is called {machine.name}; give this one a --name")
        self.machine = machine
        self._all.links[machine.name] = self
        if old is not None and old.transport is not None:  # it has changed its address
            old.transport.disconnect(False)
        words = "machine %s has joined: %d GPUs, room for %d on its CPUs, %s"
        log.info(words, machine.name, machine.gpus, machine.cpus, machine.region)
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    @property
    def is_in_touch(self) -> bool:
        return self._all.clock.now() - self.heard_s < SILENCE_S

    async def _serve(self) -> None:
        store, name = self._all.store, self.machine.name
        while True:
            try:
                if self.is_in_touch:
                    await store.offer(self.machine)
                    await self._pass_on(await store.orders(name))
            except StoreAway:
                pass  # what runs goes on
            except Exception:
                log.exception("machine %s: its orders could not be handed on", name)
            await self._all.clock.sleep(POLL_S)

    async def _pass_on(self, orders: list[Order] | Any) -> None:
        known = self._nodes
        exited = {
            order.node.id: why
            for order in orders
            if order.node.exited is None and (why := known.get(order.node.id)) is not None
        }
        stopped = [o.node.id for o in orders if not o.wanted and o.node.id not in known]
        if exited or stopped:
            await self._all.store.report(self.machine.name, exited, stopped)
        wanted = [order for order in orders if order.wanted]
        urls = list(self._all.urls(self.machine.region).values())
        about = json.dumps([[order.node.id for order in wanted], urls])
        if about != self._said:
            self._said = about
            self.send_text(json.dumps({"nodes": [self._words(o) for o in wanted], "urls": urls}))

    def _words(self, order: Order) -> dict[str, Any]:
        node = replace(order.node, exited=None)
        return {
            "id": node.id,
            "model": node.model,
            "revision": node.revision,
            "region": node.region,
            "light": order.light,
            "spec": self._all.spec_json(node.model, node.revision),
            "secret": self._all.sign(node.id),
        }

    def on_lost(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
        if self._all.links.get(self.machine.name) is self:
            del self._all.links[self.machine.name]

    def refuse(self, error: UnderstudyError) -> None:
        log.error("machine %s: %s", self.machine.name or "(unknown)", error)
        if self.visit is not None:
            self.visit.erred(error)
        self.close(error.close_code, str(error))
