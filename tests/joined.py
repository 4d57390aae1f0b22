"""Machines of two regions that have joined, in this process: agents, an edge's end, a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from picows import WSListener, WSUpgradeRequest, ws_create_server

from understudy.agent import Agent, Lent
from understudy.clock import SystemClock
from understudy.edge.joining import Machines
from understudy.providers.join import JoinProvider
from understudy.store.sqlite import SqliteStore
from understudy.tokens import Keys

KEYS = Keys(fleet=("a key that is long enough for the tests",))
FOREVER_S = 4e9
CLOCK = SystemClock()


class Joined(JoinProvider):
    """JoinProvider with machines that it can use."""

    def __init__(self, spec_json: Callable[[str, str], str]) -> None:
        self.store = SqliteStore(Path(":memory:"))
        super().__init__(self.store, lambda model: model == "light", CLOCK)
        self.urls: dict[str, str] = {}  # region -> of the edge that workers are to dial
        self.agents: dict[str, asyncio.Task[None]] = {}
        self.machines = Machines(
            self.store,
            KEYS.check_join,
            spec_json,
            lambda node: KEYS.worker_token(node, FOREVER_S),
            lambda region: {region: self.urls[region]},
            "sf",
            CLOCK,
        )

    def _listener(self, request: WSUpgradeRequest) -> WSListener:
        assert request.path == b"/v1/link/machine"
        return self.machines.new_link()

    async def open(self) -> None:
        await self.store.open()
        self._server = await ws_create_server(self._listener, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        for region in ("sf", "tokyo"):
            self.join(region)
        async with asyncio.timeout(10):
            while len(await self.store.machines()) < 2:
                await asyncio.sleep(0.02)

    def join(self, region: str) -> None:
        token = KEYS.join_token("box", None, FOREVER_S)
        agent = Agent([f"http://127.0.0.1:{self.port}"], token, Lent(region, region, 4, 1), CLOCK)
        self.agents[region] = asyncio.create_task(agent.run())

    async def send_away(self) -> None:
        """The machines go, and all that runs there."""
        for agent in self.agents.values():
            agent.cancel()
        await asyncio.gather(*self.agents.values(), return_exceptions=True)
        self._server.close()
        await asyncio.gather(*self.machines.leaving)
        assert await self.store.machines() == []
        await self.store.close()
