"""Asks the servers which edges there are, and measures how far each is: a few small requests."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from understudy.core.regions import Edge, candidates, nearest_first, parse_regions, unique
from understudy.seams import Clock

DISCOVER_S: Final = 0.8
ALL_S: Final = 3.0
GRACE_S: Final = 0.06  # all begin at once: what is nearer than the first to finish is done soon
PROBES: Final = 3

_RANDOM: Final = random.Random()


async def discover(urls: Sequence[str], *, ask_others: bool) -> list[Edge]:
    """The edges to choose from: those at `urls`, and (`ask_others`) those that the first knows."""
    asked = await asyncio.gather(*(asyncio.to_thread(_ask, url) for url in urls))
    if not ask_others:
        return unique([edges[0] for edges in asked])

    def shuffled(edges: list[Edge]) -> list[Edge]:
        return _RANDOM.sample(edges, len(edges))

    own = [edges[0] for edges in asked]
    others = [edge for edges in asked for edge in edges[1:]]
    return candidates(unique([*own, *others]), shuffled)


def _ask(url: str) -> list[Edge]:
    """The address itself first, and alone where the server is older, or away."""
    try:
        with urllib.request.urlopen(f"{url}/v1/regions", timeout=DISCOVER_S) as answer:
            return parse_regions(json.load(answer), url)
    except (OSError, ValueError):
        return parse_regions(None, url)


class Survey:
    """Measures edges side by side, from the constructor on."""

    def __init__(self, edges: Sequence[Edge], clock: Clock) -> None:
        """At least one edge; of one alone nothing is measured."""
        self._edges = list(edges)
        self._clock = clock
        self._rtts_ms: dict[str, float] = {}
        self._began_s = clock.now()
        several = len(edges) > 1
        self._tasks = [asyncio.create_task(self._measure(edge)) for edge in edges if several]

    async def _measure(self, edge: Edge) -> None:
        async with asyncio.timeout(ALL_S):
            self._rtts_ms[edge.url] = await round_trip_ms(edge.url, self._clock)

    async def first(self) -> list[Edge]:
        """Nearest first, as soon as the nearest is known: a dead region costs no waiting."""
        waiting = set(self._tasks)
        while waiting and not self._rtts_ms:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if waiting:
            grace_s = GRACE_S + (self._clock.now() - self._began_s) / 2
            await asyncio.wait(waiting, timeout=grace_s)
        return self._order()

    async def all(self) -> list[Edge]:
        """Nearest first, in the end: as many as answered."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._order()

    def _order(self) -> list[Edge]:
        return nearest_first([replace(e, rtt_ms=self._rtts_ms.get(e.url)) for e in self._edges])

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


async def round_trip_ms(url: str, clock: Clock) -> float:
    """The quickest of a few, after one that warms the server up. Raises OSError or EOFError."""
    address = urlsplit(url)
    secure = address.scheme == "https"
    port = address.port or (443 if secure else 80)
    tls = ssl.create_default_context() if secure else None
    reader, writer = await asyncio.open_connection(address.hostname, port, ssl=tls)
    host = address.netloc.rpartition("@")[2]
    # HEAD has no body: the answer ends with its headers.
    request = f"HEAD {address.path}/healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    best_ms = float("inf")
    try:
        for probe in range(PROBES + 1):
            sent_s = clock.now()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if head.split(b" ", 2)[1] not in (b"200", b"204"):
                raise ConnectionRefusedError(f"{url} answers {head.splitlines()[0]!r}")
            if probe > 0:
                best_ms = min(best_ms, (clock.now() - sent_s) * 1e3)
    finally:
        writer.close()
    return best_ms
