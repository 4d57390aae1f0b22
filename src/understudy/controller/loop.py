"""The controller: look, decide, act a little, look again. It never trusts an old plan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from understudy.core import policy
from understudy.core.fleet import Memory, View
from understudy.core.policy import Rules
from understudy.seams import Clock, Provider, Store

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25


class Controller:
    """Keeps the fleet what the policy wants, for as long as `run` runs."""

    def __init__(
        self,
        store: Store,
        provider: Provider,
        wanted: Callable[[], Mapping[str, int]],
        clock: Clock,
        rules: Rules | None = None,
    ) -> None:
        """`wanted()`: how many workers of each model the configuration asks for, as of now."""
        self._store = store
        self._provider = provider
        self._wanted = wanted
        self._clock = clock
        self._rules = rules or Rules()
        self._memory = Memory()

    async def run(self) -> None:
        while True:
            try:
                await self.once()
            except Exception:
                log.exception("a look at the fleet failed; looking again")
            await self._clock.sleep(LOOK_S)

    async def once(self) -> None:
        workers, nodes = await asyncio.gather(self._store.workers(), self._provider.nodes())
        view = View(tuple(workers), tuple(nodes), self._wanted())
        plan, self._memory = policy.decide(view, self._rules, self._clock.now(), self._memory)
        by_id = {node.id: node for node in nodes}
        for discard in plan.discard:
            node = by_id[discard.node]
            why = node.exited or "is not wanted, or hangs"
            log.warning("node %s (%s) is returned: it %s", node.id, node.model, why)
        # At once: to wait for a hung node's end would keep its users from the next one.
        await asyncio.gather(
            *(self._start(start.model) for start in plan.start),
            *(self._provider.stop(discard.node) for discard in plan.discard),
        )

    async def _start(self, model: str) -> None:
        node = await self._provider.start(model)
        log.info("node %s starts for %s", node.id, model)
