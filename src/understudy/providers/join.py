"""Nodes on machines that joined: boxes anywhere that dialled an edge and lend their GPUs.

The store is between us and them: an order is a row, the edge that a machine has dialled hands it
on, and what the machine says of it comes back the same way. So any controller can give orders and
any edge can pass them on, and nobody has to reach the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from understudy.core.errors import NoCapacity
from understudy.core.fleet import Node
from understudy.seams import Clock, Store

log = logging.getLogger(__name__)

SILENCE_S: Final = 10.0  # a machine that nobody has heard of for so long is lost
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
        self._beats: dict[str, tuple[int, float]] = {}  # machine -> its beat, since when
        self._looked_s = -BLIND_S

    async def start(self, node: Node) -> None:
        """Raises NoCapacity."""
        light = self._is_light(node.model)
        machine = await self._store.order(node, light=light)
        if machine is None:
            what = "CPU" if light else "GPU"
            raise NoCapacity(
                f"no machine in {node.region} has a free {what}; add one: understudy join URL"
            )
        log.info("machine %s is to run node %s", machine, node.id)

    async def stop(self, node: str) -> None:
        """Waits for the machine's word. Raises TimeoutError if it does not come."""
        until = self._clock.now() + STOP_S
        while await self._store.cancel(node):
            if self._clock.now() > until:
                raise TimeoutError(f"its machine has not stopped node {node} yet")
            await self._clock.sleep(POLL_S)

    async def nodes(self) -> Sequence[Node]:
        await self._find_lost()
        return [order.node for order in await self._store.orders()]

    async def _find_lost(self) -> None:
        now = self._clock.now()
        blind, self._looked_s = now - self._looked_s > BLIND_S, now
        before, self._beats = self._beats, {}
        for machine in await self._store.machines():
            beat, since_s = before.get(machine.name, (machine.beat, now))
            since_s = now if blind or beat != machine.beat else since_s
            self._beats[machine.name] = (machine.beat, since_s)
            if now - since_s > SILENCE_S:
                log.error("machine %s is silent and given up", machine.name)
                await self._store.withdraw(machine.name)

    async def close(self) -> None:
        """Returns every node; does not wait for the machines."""
        for order in await self._store.orders():
            await self._store.cancel(order.node.id)

    async def leave(self) -> None:
        """What runs goes on."""
