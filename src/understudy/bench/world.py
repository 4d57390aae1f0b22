"""A world for benchmarks: `understudy up --regions` on a database of its own, and its users."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from understudy.bench.callers import Caller, never_zero
from understudy.bench.postgres import database
from understudy.bench.server import LOOK_S, PATIENCE_S, Server, running
from understudy.chaos import NoChaos, processes
from understudy.chaos.audience import Audience, Scene
from understudy.client import Client
from understudy.clock import SystemClock
from understudy.seams import Store
from understudy.store import open_store

SLOTS: Final = 4
LOAD_S: Final = 1.0
CONFIG: Final = """\
[models.cover]
engine = "understudy.models.mirror:MirrorModel"
slots = 64
workers = {covers}

[voices.cover]
model = "cover"

[fleet]
max_nodes = {nodes}
"""
RENTED: Final = """
[models.heavy-{name}]
engine = "understudy.models.mirror:MirrorModel"
slots = {slots}
load_s = {load_s}
price_per_h = 0.4

[voices.{name}]
model = "heavy-{name}"
understudy = "cover"
"""

Say = Callable[[str], None]


class World(Server):
    """Several regions; `url` is the first one's."""

    greeting = "The page picks the nearest"

    def __init__(self, data: Path, regions: Sequence[str], config: str, where: str | None) -> None:
        """`where`: a PostgreSQL; else the folder's own SQLite."""
        env = {} if where is None else {"UNDERSTUDY_STORE": where}
        super().__init__(data, _free_ports(len(regions)), config, **env)
        self.regions = tuple(regions)
        self.where: str | Path = where or data / "understudy.db"
        self.urls = {
            name: f"http://127.0.0.1:{self.port + number}" for number, name in enumerate(regions)
        }

    def _options(self) -> list[str]:
        return [*super()._options(), "--regions", ",".join(self.regions)]

    def _learn(self, after: int) -> None:
        self.url = self.urls[self.regions[0]]

    def pids(self) -> dict[str, list[int]]:
        """Region -> its edge's (with its controller), its machine's."""
        try:
            return {name: one["pids"] for name, one in processes.regions(self.data).items()}
        except NoChaos:
            return {}

    def kill(self) -> None:
        """All of it."""
        left = [pid for pids in self.pids().values() for one in pids for pid in _tree(one)]
        super().kill()
        processes.send(signal.SIGKILL, left)

    async def seen_all(self, holds: Callable[[Scene], bool], audience: Audience) -> Scene:
        """The scene at all edges, once that holds of it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                scene = await audience.look()
                if holds(scene):
                    return scene
                await asyncio.sleep(0.3)  # an edge bounds how often it is asked

    async def all_up(self, audience: Audience) -> None:
        """Until every region's edge answers and has a cover of its own that is ready."""

        def holds(scene: Scene) -> bool:
            ready = {w["region"] for w in scene.workers if w["state"] == "ready"}
            return scene.edges.keys() == set(self.regions) and ready >= set(self.regions)

        await self.seen_all(holds, audience)


def _tree(pid: int) -> list[int]:
    return processes.descendants(pid)


def _free_ports(count: int) -> int:
    """The first of so many in a row."""
    choice = random.Random(os.getpid() ^ id(object()))
    while True:
        first = choice.randrange(20_000, 60_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", port))
            return first


def configuration(voices: Sequence[str], *, covers: int = 1, nodes: int = 24) -> str:
    return CONFIG.format(covers=covers, nodes=nodes) + "".join(
        RENTED.format(name=name, slots=SLOTS, load_s=LOAD_S) for name in voices
    )


@contextmanager
def world(regions: Sequence[str], config: str, *, sqlite: bool = False) -> Iterator[World]:
    """On a real PostgreSQL where this machine has one (and not `sqlite`)."""
    with contextlib.ExitStack() as stack:
        server = None if sqlite else stack.enter_context(database())
        url = None
        if server is not None:
            asyncio.run(server.run("CREATE DATABASE world"))
            url = server.url("world")
        made = running(lambda data: World(data, regions, config, url))
        yield stack.enter_context(made)


def store_of(found: World) -> str:
    return "PostgreSQL" if isinstance(found.where, str) else "SQLite: no PostgreSQL is here"


def audience_of(found: World) -> Audience:
    return Audience(found.url, None, SystemClock())


async def call_in(
    stack: AsyncExitStack,
    found: World,
    users: Sequence[tuple[str, str, str]],
    audio: Path | None,
) -> list[Caller]:
    """Users as (name, region, voice) who call, and are led."""
    callers, speeches = [], never_zero(audio)
    for number, (user, region, voice) in enumerate(users):
        client = Client(found.urls[region], discover=True)
        stream = await stack.enter_async_context(client.stream(voice, user, 24_000))
        callers.append(Caller(user, stream, speeches[number % len(speeches)]))
        await asyncio.sleep(0.03)  # in step with nobody
    for caller in callers:
        await caller.until(caller.is_led)
    return callers


async def knows(found: World, voices: Sequence[str]) -> None:
    """Until each region knows the voices' latencies."""
    for url in found.urls.values():
        async with asyncio.timeout(PATIENCE_S):
            while True:
                listed = await asyncio.to_thread(_voices, url)
                if all(listed.get(voice) for voice in voices):
                    break
                await asyncio.sleep(LOOK_S)


def _voices(url: str) -> dict[str, Any]:
    import urllib.request

    with urllib.request.urlopen(f"{url}/v1/voices", timeout=10) as answer:
        return {voice["name"]: voice["sample_rate"] for voice in json.load(answer)["voices"]}


@contextlib.asynccontextmanager
async def opened(where: str | Path) -> Any:
    store = await open_store(where)
    try:
        yield store
    finally:
        await store.close()


async def billed_s(where: str | Path) -> dict[str, float]:
    """By user: what the ledger says."""
    store: Store
    async with opened(where) as store:
        total: dict[str, float] = {}
        for interval in await store.ledger():
            total[interval.user] = total.get(interval.user, 0.0) + interval.seconds
        return total


async def doubled(where: str | Path) -> int:
    """How many users have more than one live session in the store."""
    store: Store
    async with opened(where) as store:
        rows = (await store.look()).sessions
    return sum(count > 1 for count in Counter(row.user for row in rows).values())


def errors(log: str) -> int:
    return len(re.findall(r"^Traceback", log, re.MULTILINE))
