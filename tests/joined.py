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
        self._spec_json = spec_json
        self._edges: dict[str, tuple[Machines, asyncio.Server]] = {}  # by URL

    async def edge(self) -> str:
        """One more; its URL."""
        machines = Machines(
            self.store,
            KEYS.check_join,
            self._spec_json,
            lambda node: KEYS.worker_token(node, FOREVER_S),
            lambda region: {region: self.urls[region]},
            "sf",
            CLOCK,
        )

        def listener(request: WSUpgradeRequest) -> WSListener:
            assert request.path == b"/v1/link/machine"
            return machines.new_link()

        server = await ws_create_server(listener, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._edges[url] = machines, server
        return url

    def lose_edge(self, url: str) -> None:
        machines, server = self._edges.pop(url)
        server.close()
        for link in list(machines.links.values()):
            if link.transport is not None:
                link.transport.disconnect(False)

    async def open(self) -> None:
        await self.store.open()
        url = await self.edge()
        for region in ("sf", "tokyo"):
            self.agents[region] = asyncio.create_task(self.agent(region, url).run())
        async with asyncio.timeout(10):
            while len(await self.store.machines()) < 2:
                await asyncio.sleep(0.02)

    def agent(self, region: str, *urls: str) -> Agent:
        """Of the machine that there is one of in each region."""
        token = KEYS.join_token("box", None, FOREVER_S)
        return Agent(urls, token, Lent(region, region, 4, 1), CLOCK)

    async def send_away(self) -> None:
        """The machines go, and all that runs there."""
        for agent in self.agents.values():
            agent.cancel()
        await asyncio.gather(*self.agents.values(), return_exceptions=True)
        for machines, server in self._edges.values():
            server.close()
            await asyncio.gather(*machines.leaving)
        assert await self.store.machines() == []
        await self.store.close()
