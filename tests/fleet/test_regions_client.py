"""The Python client with several edges: the nearest is found, and a lost one is outlived."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fleet.test_stream import babble
from tests.server import SMALL, Server
from understudy import Client
from understudy.client import Refused, Stream, Unreachable
from understudy.clock import SystemClock
from understudy.core import wire
from understudy.worker.performance import Performance
from understudy.worker.process import _Dialling

RATE_HZ = 24_000
CHUNK = 480
CONFIG = SMALL.format(slots=2)
PATIENCE_S = 30.0


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Server]]:
    """Two whole servers, which do not know each other."""
    servers = [Server(tmp_path / name, config=CONFIG) for name in ("first", "second")]
    yield servers
    for server in servers:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGCONT)
            server.stop()


def strike(server: Server, number: signal.Signals) -> None:
    """The whole region: the server and its workers."""
    os.killpg(server.process.pid, number)


class Talker:
    """Speaks without end, and keeps what is heard on each line."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.lines: list[bytearray] = []
        self.sessions: list[str] = []
        self._news = asyncio.Condition()
        self._tasks = [asyncio.create_task(self._speak()), asyncio.create_task(self._listen())]

    async def _speak(self) -> None:
        pcm = babble(RATE_HZ)
        at = 0
        while True:
            await self.stream.send(pcm[at : at + CHUNK])
            at = (at + CHUNK) % (len(pcm) // CHUNK * CHUNK)
            await asyncio.sleep(CHUNK / RATE_HZ)

    async def _listen(self) -> None:
        resumes = -1
        async for item in self.stream:
            if isinstance(item, bytes):
                self.lines[-1] += item
            elif isinstance(item, wire.Live) and self.stream.resumes != resumes:
                resumes = self.stream.resumes
                self.lines.append(bytearray())
                self.sessions.append(item.session)
            async with self._news:
                self._news.notify_all()

    async def until_sound(self, line: int) -> None:
        """Until half a second that is no silence has come on that line."""

        def sounds() -> bool:
            if self._tasks[1].done():
                self._tasks[1].result()
            heard = self.lines[line] if len(self.lines) > line else b""
            return int(np.count_nonzero(np.frombuffer(bytes(heard), "<i2"))) > RATE_HZ // 2

        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(sounds)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_lost_region_is_outlived(two: list[Server], number: signal.Signals) -> None:
    async with Client([server.url for server in two]).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_sound(0)
        home = next(server for server in two if server.url == stream.edge.url)
        other = next(server for server in two if server is not home)
        strike(home, number)
        await talker.until_sound(1)
        assert stream.edge.url == other.url
        assert stream.resumes >= 1
        # Two servers that share nothing: there it is another session.
        assert talker.sessions[0] != talker.sessions[1]
        await talker.stop()
        stream.drop()


async def test_a_line_that_only_broke_is_resumed_where_it_was(two: list[Server]) -> None:
    async with Client([server.url for server in two]).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_sound(0)
        before = stream.edge
        assert stream._transport is not None
        stream._transport.disconnect(False)  # a tunnel
        await talker.until_sound(1)
        assert stream.edge == before
        assert talker.sessions[0] == talker.sessions[1]
        await talker.stop()
        stream.drop()


async def test_a_dead_region_is_passed_over_at_the_beginning(two: list[Server]) -> None:
    strike(two[0], signal.SIGKILL)
    two[0].process.wait()
    client = Client([server.url for server in two])
    regions = await client.regions()
    assert [edge.url for edge in regions] == [two[1].url, two[0].url]
    assert regions[0].rtt_ms is not None
    assert regions[1].rtt_ms is None
    assert [voice["name"] for voice in await client.voices()] == ["mirror"]
    pcm = babble(RATE_HZ, 0.5)
    async with client.stream("mirror", "alice") as stream:
        await stream.send(pcm)
        await stream.stop()
        heard = b"".join([item async for item in stream if isinstance(item, bytes)])
    assert np.array_equal(np.frombuffer(heard, "<i2"), pcm)
    assert stream.resumes == 0


async def test_with_no_region_left_it_says_so(two: list[Server]) -> None:
    for server in two:
        strike(server, signal.SIGKILL)
        server.process.wait()
    with pytest.raises(Unreachable, match="no Understudy answers at"):
        async with Client([server.url for server in two]).stream("mirror", "alice"):
            pass


async def test_what_a_session_is_refused_for_is_refused_at_once(two: list[Server]) -> None:
    with pytest.raises(Refused) as caught:
        async with Client([server.url for server in two]).stream("nobody", "alice") as stream:
            async for _ in stream:
                pass
    assert caught.value.code == "unknown_voice"
    assert stream.resumes == 0


async def test_one_server_alone_that_is_asked_for_others(two: list[Server]) -> None:
    client = Client(two[0].url, discover=True)
    assert [edge.url for edge in await client.regions()] == [two[0].url]
    async with client.stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_sound(0)
        assert stream._transport is not None
        stream._transport.disconnect(False)
        await talker.until_sound(1)
        assert talker.sessions[0] == talker.sessions[1]
        await talker.stop()
        stream.drop()


async def hanging_up(calls: asyncio.Queue[None]) -> tuple[asyncio.Server, str]:
    """Takes connections, and closes them without a word, as an edge does that dies."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.put_nowait(None)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_edge_that_hangs_up_is_one_that_is_not_there() -> None:
    dying, address = await hanging_up(asyncio.Queue())
    async with dying:
        with pytest.raises(Unreachable, match="closes the connection"):
            async with Client(f"http://{address}").stream("mirror", "alice"):
                pass


async def test_a_worker_dials_again_where_it_was_hung_up_on() -> None:
    calls = asyncio.Queue[None]()
    dying, address = await hanging_up(calls)
    performance = Performance({"node": "one"}, SystemClock())
    async with dying:
        dialler = _Dialling(performance, [f"ws://{address}/v1/link"], SystemClock())
        dialling = asyncio.create_task(dialler.run())
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(3):
                await calls.get()
        assert performance.links == []
        dialling.cancel()
