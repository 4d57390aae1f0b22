"""What the users of all edges hear: read off the edges, added up while these come and go.

A count that an edge had not shown yet when it was killed is lost with it: half a second's, at
most.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from understudy.client import Client
from understudy.core.errors import StoreAway
from understudy.seams import Clock

LOOK_S: Final = 0.5
PATIENCE_S: Final = 5.0  # of an edge
RETRY_S: Final = 30.0  # until the store must answer
PAGES: Final = ("/v1/status", "/v1/fleet", "/v1/regions", "/metrics")
LIVE: Final = "understudy_sessions{"
MOVES: Final = "understudy_moves_total{why="
BEHIND: Final = "understudy_ledger_behind"
HEARD: Final = {
    "silent_s": "understudy_silent_seconds_total",
    "lead_s": 'understudy_heard_seconds_total{role="lead"}',
    "understudy_s": 'understudy_heard_seconds_total{role="understudy"}',
}

Uses = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]  # the ledger's rows, added up


@dataclass(frozen=True, slots=True)
class Scene:
    """The fleet at one instant, as its edges tell."""

    workers: tuple[Mapping[str, Any], ...] = ()  # that are up
    sessions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # those with an edge
    edges: Mapping[str, str] = field(default_factory=dict)  # region -> url, of those that answer

    def on_worker(self, worker: str) -> tuple[str, ...]:
        return tuple(name for name, one in self.sessions.items() if one["worker"] == worker)

    def at_edge(self, region: str) -> tuple[str, ...]:
        return tuple(name for name, one in self.sessions.items() if one["region"] == region)

    @property
    def silent(self) -> int:
        return sum(one["worker"] is None for one in self.sessions.values())


class Audience:
    """Watches every edge of a fleet."""

    def __init__(
        self, url: str, uses: Uses | None, clock: Clock, *, admin_key: str | None = None
    ) -> None:
        """`uses` reads the ledger; else the edge at `url` is asked."""
        self._url = url
        self._uses = uses
        self._clock = clock
        self._admin_key = admin_key
        self._urls = [url]
        self._last: dict[str, dict[str, float]] = {}  # edge -> its counts, when last read
        self.counts: dict[str, float] = {}  # since the first look, of all edges
        self.moves: dict[tuple[str, float], Mapping[str, Any]] = {}  # (session, when) -> as listed
        self.live = 0
        self.behind = 0
        self.scene = Scene()

    async def open(self) -> Scene:
        """The first look. Raises Unreachable: nobody answers there."""
        await Client(self._url, admin_key=self._admin_key).status()
        await self.look()  # finds the other edges
        return await self.look()

    async def look(self) -> Scene:
        """One reading of all edges."""
        found = await asyncio.gather(*map(self._read, self._urls))
        # An edge may be known by two addresses.
        there = list({one[0]["edge"]: one for one in found if one is not None}.values())
        for status, counts, _, _, _ in there:
            self._add(status["edge"], counts)
        self.live = sum(live for _, _, live, _, _ in there)
        self.behind = sum(behind for _, _, _, behind, _ in there)
        sessions: dict[str, Mapping[str, Any]] = {}
        edges: dict[str, str] = {}
        for status, _, _, _, url in there:
            edges.setdefault(status["region"], url)
            listed = status["sessions"] if isinstance(status["sessions"], list) else []
            for session in listed:
                sessions[session["session"]] = {**session, "region": status["region"]}
        workers = there[0][0]["workers"] if there else ()
        self.scene = Scene(tuple(workers), sessions, edges)
        return self.scene

    async def watch(self) -> None:
        """Keeps looking, until it is cancelled."""
        while True:
            await self._clock.sleep(LOOK_S)
            await self.look()

    async def _read(
        self, url: str
    ) -> tuple[dict[str, Any], dict[str, float], int, int, str] | None:
        """Its status, its counts, how many are live, how far its ledger is behind, its URL."""
        try:
            texts = await asyncio.gather(*(self._get(url, path) for path in PAGES))
        except (OSError, ValueError):  # it is away
            return None
        status, fleet, regions = (json.loads(text) for text in texts[:3])
        for edge in regions["edges"]:  # those that come later are found later
            if edge["url"] not in self._urls:
                self._urls.append(edge["url"])
        for move in fleet["moves"]:
            self.moves[move["session"], move["at_s"]] = move
        samples = {
            name: float(value)
            for name, _, value in (
                line.rpartition(" ")
                for line in texts[3].decode().splitlines()
                if line[:1] not in ("#", "")
            )
        }
        counts = {key: samples.get(name, 0.0) for key, name in HEARD.items()}
        for name, value in samples.items():
            if name.startswith(MOVES):
                counts["moves " + name.removeprefix(MOVES).strip('"}')] = value
        live = sum(value for name, value in samples.items() if name.startswith(LIVE))
        return status, counts, round(live), round(samples.get(BEHIND, 0.0)), url

    def _add(self, edge: str, counts: dict[str, float]) -> None:
        before = self._last.get(edge)
        self._last[edge] = counts
        if before is None:
            return  # from here on
        began_anew = any(counts[key] < before[key] - 1e-6 for key in HEARD)
        for key, value in counts.items():
            since = 0.0 if began_anew else before.get(key, 0.0)
            self.counts[key] = self.counts.get(key, 0.0) + value - since

    async def billed_s(self) -> float:
        """By the ledger. Raises StoreAway: for longer than patience lasts."""
        until = self._clock.now() + RETRY_S
        while True:
            try:
                if self._uses is not None:
                    rows = await self._uses()
                else:
                    asked = await self._get(self._url, "/v1/usage")
                    rows = json.loads(asked)["usage"]
            except (StoreAway, OSError, ValueError):
                if self._clock.now() > until:
                    raise
                await self._clock.sleep(LOOK_S)
            else:
                return float(sum(row["lead_s"] + row["understudy_s"] for row in rows))

    async def _get(self, url: str, path: str) -> bytes:
        return await asyncio.to_thread(_get, url + path, self._admin_key)


def _get(url: str, admin_key: str | None) -> bytes:
    request = urllib.request.Request(url)
    if admin_key is not None:
        request.add_unredirected_header("Authorization", f"Bearer {admin_key}")
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        body: bytes = answer.read()
    return body
