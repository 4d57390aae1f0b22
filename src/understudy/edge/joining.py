"""Machines that have joined, at the edge that they dialled: hands orders on, and answers back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from understudy.core.errors import BadToken, LinkError, StoreAway, UnderstudyError
from understudy.core.fleet import Machine, Node, Order
from understudy.edge.websocket import Peer
from understudy.seams import Clock, Store

log = logging.getLogger(__name__)

POLL_S: Final = 0.25  # how often the store is asked for orders, which tells it that all is well
SILENCE_S: Final = 3.0  # of a machine: then it is not in touch any more
AWAY_S: Final = 4.0  # without a store: the machine may be in better hands at another edge
STILL_S: Final = 4 * POLL_S  # no edge that hears of a machine says nothing for so long
MOST: Final = 1024
PING_S: Final = 1.0  # how often it hears that the line holds


def _taken(name: str) -> str:
    return f"another machine is called {name}; give this one a --name"


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
        self.leaving: set[asyncio.Task[None]] = set()

    def new_link(self) -> MachineLink:
        return MachineLink(self)


class MachineLink(Peer):
    """One machine's connection."""

    def __init__(self, machines: Machines) -> None:
        super().__init__()
        self._all = machines
        self._serving: asyncio.Task[None] | None = None
        self._nodes: dict[str, str | None] | None = None  # as it says: why each exited, or None
        self._said = ""
        self._secrets: dict[str, str] = {}  # of its nodes: made once each
        self._store_s = machines.clock.now()  # when the store last answered
        self._pinged_s = machines.clock.now()
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
                if message.get("leaving"):
                    self.machine = replace(self.machine, gpus=0, cpus=0)
                if message.get("left"):
                    self._see_off()
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
        if not all(0 <= places <= MOST for places in (machine.gpus, machine.cpus)):
            raise LinkError(f"a machine lends 0 to {MOST} GPUs, and as many places on its CPUs")
        if not 0.0 <= machine.price_per_h < math.inf:
            raise LinkError("a price is a number, and not negative")
        old = self._all.links.get(machine.name)
        if old is not None and old.agent != self.agent and old.is_in_touch:
            raise LinkError(_taken(machine.name))
        self.machine = machine
        self._all.links[machine.name] = self
        if old is not None and old.transport is not None:  # it has changed its address
            old.transport.disconnect(False)
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    @property
    def is_in_touch(self) -> bool:
        return self._all.clock.now() - self.heard_s < SILENCE_S

    def _see_off(self) -> None:
        """It has gone in good order: nobody has to wait for its silence."""
        log.info("machine %s has left", self.machine.name)
        self._forget()
        bye = asyncio.get_running_loop().create_task(self._withdraw())
        self._all.leaving.add(bye)
        bye.add_done_callback(self._all.leaving.discard)

    async def _withdraw(self) -> None:
        with contextlib.suppress(StoreAway):  # then its silence tells
            await self._all.store.withdraw(self.machine.name)

    async def _serve(self) -> None:
        store, name, clock = self._all.store, self.machine.name, self._all.clock
        if not await self._is_the_only_one():
            self.refuse(LinkError(_taken(name)))
            return
        words = "machine %s has joined: %d GPUs, room for %d on its CPUs, %s"
        log.info(words, name, self.machine.gpus, self.machine.cpus, self.machine.region)
        while True:
            self._ping()
            try:
                if self.is_in_touch and self._nodes is not None:
                    await store.offer(self.machine)
                    await self._pass_on(await store.orders(name))
                self._store_s = clock.now()
            except StoreAway:
                pass  # what runs goes on
            except Exception:
                log.exception("machine %s: its orders could not be handed on", name)
            await clock.sleep(POLL_S)

    def _ping(self) -> None:
        if self._all.clock.now() - self._pinged_s >= PING_S:
            self._pinged_s = self._all.clock.now()
            self.send_text("{}")

    async def _is_the_only_one(self) -> bool:
        """Whether no other edge goes on hearing of a machine of this name. (For a while one may, of
        this very machine: on a line that it has left.)"""
        clock, seen = self._all.clock, -1
        until = clock.now() + SILENCE_S + 2 * STILL_S
        while clock.now() < until:
            try:
                machines = await self._all.store.machines()
            except StoreAway:
                until = clock.now() + SILENCE_S + 2 * STILL_S
            else:
                beat = next((m.beat for m in machines if m.name == self.machine.name), 0)
                if beat in (0, seen):
                    return True
                seen = beat
            self._ping()
            await clock.sleep(STILL_S)
        return False

    async def _pass_on(self, orders: Sequence[Order]) -> None:
        known = self._nodes or {}
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
        words = json.dumps({"nodes": [self._words(order) for order in wanted], "urls": urls})
        if words != self._said:
            self._said = words
            self.send_text(words)

    def _words(self, order: Order) -> dict[str, Any]:
        node = replace(order.node, exited=None)
        return {
            "id": node.id,
            "model": node.model,
            "revision": node.revision,
            "region": node.region,
            "light": order.light,
            "spec": self._spec(node),
            "secret": self._secrets.setdefault(node.id, self._all.sign(node.id)),
        }

    def _spec(self, node: Node) -> str | None:
        """None: it was deployed a moment ago, and is not known here yet."""
        try:
            return self._all.spec_json(node.model, node.revision)
        except KeyError:
            return None

    def on_lost(self) -> None:
        self._forget()

    def _forget(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
        if self._all.links.get(self.machine.name) is self:
            del self._all.links[self.machine.name]

    def refuse(self, error: UnderstudyError) -> None:
        log.error("machine %s: %s", self.machine.name or "(unknown)", error)
        if self.visit is not None:
            self.visit.erred(error)
        self.close(error.close_code, str(error))
