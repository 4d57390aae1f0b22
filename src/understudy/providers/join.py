"""Nodes on machines that joined: boxes anywhere that dialled an edge and lend their GPUs.

The store is between us and them: an order is a row, the edge that a machine has dialled hands it
on, and what the machine says of it comes back the same way. So any controller can give orders and
any edge can pass them on, and nobody has to reach the machine.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from understudy.core.errors import NoCapacity
from understudy.core.fleet import Machine, Node, Order
from understudy.core.supervision import Silence
from understudy.seams import Clock, Store

log = logging.getLogger(__name__)

SILENCE_S: Final = 10.0  # a machine that nobody has heard of for so long is lost
LOOKS: Final = 3  # ... and neither in so many looks
BLIND_S: Final = 3.0  # between two looks: then nothing can be said of silence
STOP_S: Final = 10.0  # how long a machine may take to stop a node; the controller asks again
POLL_S: Final = 0.1


class JoinProvider:
    """seams.Provider on joined machines."""

    name = "join"

    def __init__(self, store: Store, is_light: Callable[[str], bool], clock: Clock) -> None:
        """`is_light(model)`: whether it needs no GPU."""
        self._store = store
        self._is_light = is_light
        self._clock = clock
        self._silence = Silence()
        self._known: frozenset[str] = frozenset()  # nodes, as last seen
        self._room: Counter[tuple[str, bool]] = Counter()  # by region, on CPUs or GPUs

    def refusal(self, node: Node, ahead: Iterable[Node] = ()) -> str | None:
        place = self._place(node)
        taken = sum(self._place(other) == place for other in ahead if other.id not in self._known)
        return self._words(node) if self._room[place] <= taken else None

    def _place(self, node: Node) -> tuple[str, bool]:
        return node.region, self._is_light(node.model)

    def _words(self, node: Node) -> str:
        what = "place on a CPU" if self._is_light(node.model) else "GPU"
        return f"no machine in {node.region} has a free {what}; add one: understudy join URL"

    async def start(self, node: Node) -> None:
        """Raises NoCapacity."""
        machine = await self._store.order(node, light=self._is_light(node.model))
        if machine is None:
            raise NoCapacity(self._words(node))
        log.info("machine %s is to run node %s", machine, node.id)

    async def stop(self, node: str) -> None:
        """Waits for the machine's word. Raises TimeoutError if it does not come."""
        until = self._clock.now() + STOP_S
        while await self._store.cancel(node):
            if self._clock.now() > until:
                raise TimeoutError(f"its machine has not stopped node {node} yet")
            await self._clock.sleep(POLL_S)

    async def nodes(self) -> Sequence[Node]:
        machines = {machine.name: machine for machine in await self._find_lost()}
        orders = await self._store.orders()
        self._known = frozenset(order.node.id for order in orders)
        self._room = _room(machines.values(), orders)
        leaving = {name for name, machine in machines.items() if machine.is_leaving}
        return [replace(order.node, leaving=order.machine in leaving) for order in orders]

    async def _find_lost(self) -> list[Machine]:
        """Withdraws the machines that are silent; the others."""
        now, found = self._clock.now(), await self._store.machines()
        beats = {machine.name: machine.beat for machine in found}
        self._silence = self._silence.after(beats, now, BLIND_S)
        there = []
        for machine in found:
            if self._silence.of(machine.name, now, LOOKS) > SILENCE_S:
                log.error("machine %s is silent and given up", machine.name)
                await self._store.withdraw(machine.name)
            else:
                there.append(machine)
        return there

    async def close(self) -> None:
        """Returns every node; does not wait for the machines."""
        for order in await self._store.orders():
            await self._store.cancel(order.node.id)

    async def leave(self) -> None:
        """What runs goes on."""


def _room(machines: Iterable[Machine], orders: Iterable[Order]) -> Counter[tuple[str, bool]]:
    """What is free, by region, on CPUs (True) or GPUs."""
    taken = Counter((order.machine, order.light) for order in orders)
    room: Counter[tuple[str, bool]] = Counter()
    for machine in machines:
        for light, places in ((False, machine.gpus), (True, machine.cpus)):
            room[machine.region, light] += max(0, places - taken[machine.name, light])
    return room
