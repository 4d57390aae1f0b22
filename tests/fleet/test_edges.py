"""Several edges and controllers on one database: sessions go on at another, none is double."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.fleet.raw import BINARY, Raw
from tests.fleet.test_regions_client import Talker, strike
from tests.fleet.test_stream import babble
from tests.postgres import postgres
from tests.server import SMALL, Server
from understudy import Client
from understudy.client import Refused
from understudy.core import wire
from understudy.core.fleet import SessionRow
from understudy.core.ledger import Interval
from understudy.store import open_store

CONFIG = SMALL.format(slots=4)
PATIENCE_S = 30.0


class Pair:
    """Two servers on one database; the first one's controller leads."""

    def __init__(self, folder: Path, where: str | Path) -> None:
        self.where = where
        options = ["--shared", *(["--store", where] if isinstance(where, str) else [])]
        first = Server(folder, config=CONFIG, options=options)
        self.servers = [first, Server(folder, options=options)]

    async def rows(self) -> tuple[list[SessionRow], list[Interval]]:
        store = await open_store(self.where)
        _, sessions = await store.history(0.0)
        ledger = await store.ledger()
        await store.close()
        return list(sessions), list(ledger)

    async def until_ended(
        self, edges: int = 1, heard_s: float = 0.0
    ) -> tuple[list[SessionRow], list[Interval]]:
        """... and what was heard, of each at so many edges, is written: a moment after, maybe."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                sessions, ledger = await self.rows()
                metered = {(part.session, part.seq >> 20) for part in ledger}
                billed_s = sum(part.samples / part.rate_hz for part in ledger)
                whole = len(metered) >= edges * len(sessions) and billed_s >= heard_s - 0.05
                if all(row.ended_s for row in sessions) and whole:
                    return sessions, ledger
                await asyncio.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    where: str | Path = tmp_path / "understudy.db"
    if request.param == "postgresql":
        where = postgres().url(await postgres().create())
    pair = await asyncio.to_thread(Pair, tmp_path, where)
    yield pair
    for server in pair.servers:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGCONT)
            await asyncio.to_thread(server.stop)


async def test_when_an_edge_dies_its_sessions_go_on_at_another(pair: Pair) -> None:
    """Its controller led and its workers were the only ones, too: the other takes all over."""
    first, second = pair.servers
    async with Client([first.url, second.url]).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_sound(0)
        assert stream.edge.url == first.url
        strike(first, signal.SIGKILL)
        await talker.until_sound(1)
        assert stream.edge.url == second.url
        await talker.stop()
        await stream.stop()
        said = [item async for item in stream]
        heard = [item for item in said if isinstance(item, bytes)]
    assert isinstance(said[-1], wire.Ended)
    (row,), ledger = await pair.until_ended(edges=2, heard_s=said[-1].lead_s)
    assert talker.sessions == [row.id] * 2  # the same session
    assert (row.reason, row.epoch) == ("stopped", 1)
    assert {part.seq >> 20 for part in ledger} == {0, 1}
    assert all(part.session == row.id for part in ledger)
    # What is silent was heard from nobody.
    lines = [np.frombuffer(bytes(line), "<i2") for line in (*talker.lines, b"".join(heard))]
    heard_s = sum(int(np.count_nonzero(line)) for line in lines) / 24_000
    billed_s = sum(part.samples / part.rate_hz for part in ledger)
    assert abs(heard_s - billed_s) < 1.0
    assert said[-1].lead_s == pytest.approx(billed_s, abs=0.05)  # of both edges


async def test_an_edge_that_is_stopped_hands_its_sessions_on(pair: Pair) -> None:
    first, second = pair.servers
    async with Client([second.url, first.url]).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_sound(0)
        assert stream.edge.url == second.url
        assert await asyncio.to_thread(second.stop) == 0
        await talker.until_sound(1)
        assert stream.edge.url == first.url
        assert talker.sessions[0] == talker.sessions[1]
        await talker.stop()
        stream.drop()


async def test_a_user_is_live_once_whichever_edge_is_asked(pair: Pair) -> None:
    first, second = pair.servers
    async with Client(first.url).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_sound(0)
        with pytest.raises(Refused) as caught:
            async with Client(second.url).stream("mirror", "alice") as other:
                async for _ in other:
                    pass
        assert caught.value.code == "already_live"
        async with Client(second.url).stream("mirror", "alice", takeover=True) as other:
            after = Talker(other)
            await after.until_sound(0)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait([talker._tasks[1]])  # the first one was told that it is over
            await after.stop()
            await other.stop()
        await talker.stop()
    sessions, _ = await pair.until_ended()
    assert sorted(row.reason for row in sessions) == ["stopped", "taken_over"]


async def test_an_edge_that_was_taken_for_lost_takes_its_sessions_back(pair: Pair) -> None:
    """It was stopped for longer than the others' patience, and then goes on; the user waited."""
    first, second = pair.servers
    raw = await asyncio.to_thread(Raw, second.port)
    raw.start("alice")
    live = await asyncio.to_thread(raw.event, "live")
    second.process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(first.wait_for, "is silent and given up; 1 sessions")
    second.process.send_signal(signal.SIGCONT)
    await asyncio.to_thread(second.wait_for, "was taken for lost")
    again = await asyncio.to_thread(raw.event, "live")
    assert again["session"] == live["session"]
    pcm = babble(24_000, 0.5).tobytes()
    for at in range(0, len(pcm), 960):
        raw.frame(BINARY, pcm[at : at + 960])
    raw.say(type="stop")
    ended = await asyncio.to_thread(raw.event, "ended")
    assert (ended["session"], ended["reason"]) == (live["session"], "stopped")
    assert ended["lead_s"] == pytest.approx(0.5, abs=0.01)
    (row,), _ = await pair.until_ended()
    assert row.reason == "stopped"
    assert row.epoch >= 1


async def test_users_of_both_edges_share_the_workers(pair: Pair) -> None:
    streams = [Client(server.url).stream("mirror", name) for server, name in
               zip(pair.servers * 2, "abcd", strict=True)]  # fmt: skip
    talkers = []
    for stream in streams:
        await stream.__aenter__()
        talkers.append(Talker(stream))
    for talker in talkers:
        await talker.until_sound(0)
    for talker, stream in zip(talkers, streams, strict=True):
        await talker.stop()
        await stream.stop()
        said = [item async for item in stream]
        assert isinstance(said[-1], wire.Ended)
        assert said[-1].reason == "stopped"
        await stream.__aexit__(None, None, None)
    sessions, ledger = await pair.until_ended()
    assert len({row.edge for row in sessions}) == 2
    assert len({part.worker for part in ledger}) == 1
