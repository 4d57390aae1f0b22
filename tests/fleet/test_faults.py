"""Real processes killed and frozen, and what the user hears of it."""

import asyncio
import json
import signal
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.fleet.raw import BINARY, TEXT, Raw
from tests.server import SMALL, Server
from understudy import Client
from understudy.client import Refused, Stream
from understudy.core import wire
from understudy.edge.websocket import CLOSE_WAIT_S
from understudy.store.sqlite import SqliteStore
from understudy.usage import usage

RATE_HZ = 24_000
CHUNK = 480

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def new(slots: int = 4, config: str | None = None, port: int = 0) -> Server:
        text = SMALL.format(slots=slots) if config is None else config
        servers.append(Server(tmp_path / "data", port=port, config=text))
        return servers[-1]

    yield new
    for server in servers:
        server.stop()


class Talker:
    """Speaks noise at the pace of speech until told otherwise, and keeps what it hears."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.said = bytearray()
        self.heard = bytearray()
        self.events: list[wire.ServerEvent] = []
        self.news = asyncio.Event()
        self._rng = np.random.default_rng(3)
        self._speaking = asyncio.create_task(self._speak())
        self._listening = asyncio.create_task(self._listen())

    async def _speak(self) -> None:
        while True:
            pcm = self._rng.integers(1, 20_000, CHUNK).astype("<i2").tobytes()  # never zero
            self.said += pcm
            await self.stream.send(pcm)
            await asyncio.sleep(CHUNK / RATE_HZ)

    async def _listen(self) -> None:
        async for item in self.stream:
            if isinstance(item, bytes):
                self.heard += item
            else:
                self.events.append(item)
            self.news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                self.news.clear()
                await self.news.wait()

    async def until_heard(self, seconds: float) -> None:
        goal = len(self.heard) + round(seconds * RATE_HZ) * 2
        await self.until(lambda: len(self.heard) >= goal)

    async def stop(self) -> None:
        self._speaking.cancel()
        await self.stream.stop()
        await self._listening

    def check(self) -> int:
        """Every sample heard is the one said, or silence in its place; returns the silent ones."""
        said = np.frombuffer(bytes(self.said), "<i2")
        heard = np.frombuffer(bytes(self.heard), "<i2")
        assert len(heard) == len(said)
        assert np.array_equal(heard[heard != 0], said[heard != 0])
        return int((heard == 0).sum())


async def test_a_killed_worker_is_replaced_and_the_session_goes_on(start: Start) -> None:
    server = start()
    async with Client(server.url).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_heard(0.3)
        (worker,) = server.workers()
        worker.send_signal(signal.SIGKILL)
        await talker.until(lambda: sum(isinstance(e, wire.Live) for e in talker.events) == 2)
        await talker.until_heard(0.5)
        await talker.stop()
        silent = talker.check()
        assert silent < 8 * RATE_HZ
        assert stream.ended is not None
        assert stream.ended.lead_s == pytest.approx(
            (len(talker.heard) // 2 - silent) / RATE_HZ, abs=0.02
        )
        assert any(isinstance(event, wire.Loading) for event in talker.events)
    assert server.workers() != [worker]


async def test_a_frozen_worker_leaves_silence_and_the_delay_does_not_grow(start: Start) -> None:
    server = start()
    async with Client(server.url).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_heard(0.3)
        (worker,) = server.workers()
        worker.send_signal(signal.SIGSTOP)
        await talker.until_heard(0.8)  # silence goes on at the pace of speech
        worker.send_signal(signal.SIGCONT)
        await talker.until(lambda: bytes(talker.heard[-2:]) != b"\0\0")
        await talker.until_heard(0.3)
        # Far less than the pause is still on its way: nothing was merely delayed.
        assert len(talker.said) - len(talker.heard) < 0.4 * RATE_HZ * 2
        await talker.stop()
        assert talker.check() > 0.3 * RATE_HZ


async def test_a_worker_that_stays_frozen_is_given_up(start: Start) -> None:
    server = start()
    async with Client(server.url).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_heard(0.2)
        (worker,) = server.workers()
        worker.send_signal(signal.SIGSTOP)
        try:
            await talker.until(lambda: sum(isinstance(e, wire.Live) for e in talker.events) == 2)
        finally:
            worker.send_signal(signal.SIGKILL)
        await talker.stop()
        talker.check()


async def test_when_all_slots_are_taken_users_queue_in_order(start: Start) -> None:
    server = start(slots=2)
    client = Client(server.url)
    async with client.stream("mirror", "a") as first, client.stream("mirror", "b") as second:
        assert isinstance(await anext(aiter(first)), wire.Live)
        assert isinstance(await anext(aiter(second)), wire.Live)
        third = client.stream("mirror", "c")
        fourth = client.stream("mirror", "d")
        async with third, fourth:
            queued = await anext(aiter(third))
            assert isinstance(queued, wire.Queued)
            assert queued.position == 1
            behind = await anext(aiter(fourth))
            assert isinstance(behind, wire.Queued)
            assert behind.position == 2
            await first.stop()
            assert isinstance(await anext(aiter(third)), wire.Live)
            moved_up = await anext(aiter(fourth))
            assert isinstance(moved_up, wire.Queued)
            assert moved_up.position == 1


async def test_a_model_that_does_not_load_is_told_with_its_reason(start: Start) -> None:
    broken = SMALL.format(slots=4).replace("MirrorModel", "NoSuchModel")
    data_config = broken + SMALL.format(slots=4).replace("mirror]", "ok]").replace(
        'model = "mirror"', 'model = "ok"'
    )
    server = start(config=data_config)
    assert "fail to" in server.log
    with pytest.raises(Refused, match="NoSuchModel") as caught:
        async with Client(server.url).stream("mirror", "alice") as stream:
            async for _ in stream:
                pass
    assert caught.value.code == "model_failed"
    async with Client(server.url).stream("ok", "alice") as stream:
        assert isinstance(await anext(aiter(stream)), wire.Live)


async def test_ctrl_c_ends_sessions_and_every_child(start: Start) -> None:
    server = start()
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert children
    async with Client(server.url).stream("mirror", "alice") as stream:
        assert isinstance(await anext(aiter(stream)), wire.Live)
        assert await asyncio.to_thread(server.stop) == 0
        async for _ in stream:
            pass
        assert stream.ended is not None
        assert stream.ended.reason == "shutdown"
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


async def test_workers_do_not_outlive_a_killed_server(start: Start) -> None:
    server = start()
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 10)
    assert not alive


async def test_after_a_crash_of_the_server_users_are_not_locked_out(start: Start) -> None:
    server = start()
    async with Client(server.url).stream("mirror", "alice") as stream:
        assert isinstance(await anext(aiter(stream)), wire.Live)
        server.kill()
        stream.drop()
    again = start(port=server.port)
    async with Client(again.url).stream("mirror", "alice") as stream:
        assert isinstance(await anext(aiter(stream)), wire.Live)


async def test_the_ledger_is_right_through_a_crash_of_everything(
    start: Start, tmp_path: Path
) -> None:
    server = start()
    heard_s = {}
    async with Client(server.url).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_heard(1.5)
        (worker,) = server.workers()
        worker.send_signal(signal.SIGKILL)  # first a worker...
        await talker.until(lambda: sum(isinstance(e, wire.Live) for e in talker.events) == 2)
        await talker.until_heard(1.0)
        server.kill()  # ... then the server
        talker._speaking.cancel()
        talker._listening.cancel()
        stream.drop()
        said = np.frombuffer(bytes(talker.said), "<i2")
        heard = np.frombuffer(bytes(talker.heard), "<i2")
        heard_s["alice"] = np.count_nonzero(heard) / RATE_HZ
        assert len(said) >= len(heard)
    store = SqliteStore(server.data / "understudy.db")
    await store.open()
    (use,) = await usage(store, None, None, None)
    intervals = await store.ledger()
    await store.close()
    assert use.user == "alice"
    assert 0 <= heard_s["alice"] - use.lead_s < 1.0
    assert len({interval.worker for interval in intervals}) == 2  # one interval a performer
    again = start(port=server.port)
    async with Client(again.url).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_heard(0.5)
        await talker.stop()
    answer = urllib.request.urlopen(again.url + "/v1/usage?user=alice").read()
    (row,) = json.loads(answer)["usage"]
    assert row["sessions"] == 2
    assert row["lead_s"] == pytest.approx(use.lead_s + len(talker.heard) / 2 / RATE_HZ, abs=0.01)
    assert json.loads(urllib.request.urlopen(again.url + "/v1/usage?user=bob").read()) == {
        "usage": []
    }


async def test_who_says_all_and_stops_at_once_is_still_answered(start: Start) -> None:
    server = start(slots=1)
    pcm = np.arange(1, 9601, dtype="<i2")
    client = Client(server.url)
    for _ in range(5):
        async with client.stream("mirror", "hasty") as stream:
            await stream.send(pcm)
            await stream.stop()
            heard = b"".join([item async for item in stream if isinstance(item, bytes)])
        assert heard == pcm.tobytes()
        assert stream.live is not None
        assert stream.ended is not None
        assert stream.ended.lead_s == pytest.approx(0.4)
    # With every slot taken there is nobody to answer: silence, and soon the end.
    async with client.stream("mirror", "holder") as holder:
        assert isinstance(await anext(aiter(holder)), wire.Live)
        async with client.stream("mirror", "hasty") as stream:
            await stream.send(pcm)
            await stream.stop()
            heard = b"".join([item async for item in stream if isinstance(item, bytes)])
        assert heard == bytes(len(pcm) * 2)
        assert stream.ended is not None
        assert stream.ended.lead_s == 0.0


async def test_a_drill_kills_workers_by_chance_and_the_session_goes_on(start: Start) -> None:
    server = start(
        config=SMALL.format(slots=4).replace("workers = 1", "workers = 2\ncrash_per_minute = 40")
    )
    async with Client(server.url).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until(lambda: sum(isinstance(e, wire.Live) for e in talker.events) >= 3)
        await talker.until_heard(0.3)
        await talker.stop()
        talker.check()
    assert "killed by signal 9" in server.log


def test_a_resume_outlives_the_old_connection_that_was_not_yet_gone(start: Start) -> None:
    server = start()
    with Raw(server.port) as old:
        old.start("alice")
        resume = old.event("live")["resume"]
        with Raw(server.port) as new:
            new.start("alice", resume=resume)
            assert new.event("live")["session"]
            until = time.monotonic() + CLOSE_WAIT_S + 1.0  # the old one is cut meanwhile
            while time.monotonic() < until:
                new.frame(BINARY, bytes(CHUNK * 2))
                kind, _ = new.next()
                assert kind in (BINARY, TEXT)
            new.say(type="stop")
            assert new.event("ended")["reason"] == "stopped"


async def test_a_locked_database_locks_no_user_out(start: Start) -> None:
    server = start()
    async with Client(server.url).stream("mirror", "alice") as stream:
        talker = Talker(stream)
        await talker.until_heard(0.3)
        other = sqlite3.connect(server.data / "understudy.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await talker.until_heard(0.3)
        await talker.stop()
        assert talker.check() == 0
        await asyncio.to_thread(server.wait_for, "behind the store")
        other.execute("COMMIT")
        other.close()
    async with asyncio.timeout(30), Client(server.url).stream("mirror", "alice") as stream:
        assert isinstance(await anext(aiter(stream)), wire.Live)


async def test_a_worker_that_answers_too_late_is_emptied(start: Start) -> None:
    """Most of the time it is away: a neighbour on its machine takes it."""
    server = start(config=SMALL.format(slots=1).replace("workers = 1", "workers = 2"))
    async with (
        Client(server.url).stream("mirror", "a", RATE_HZ) as first,
        Client(server.url).stream("mirror", "b", RATE_HZ) as second,
    ):
        talkers = [Talker(first), Talker(second)]
        for talker in talkers:
            await talker.until_heard(0.2)
        seats = {s["user"]: s["worker"] for s in json.loads(server.get("/v1/status"))["sessions"]}
        (slow,) = [one for one in server.workers() if seats["a"] in one.cmdline()]

        async def hinder() -> None:
            while slow.is_running():
                slow.suspend()
                await asyncio.sleep(0.5)
                slow.resume()
                await asyncio.sleep(0.1)

        hindering = asyncio.create_task(hinder())
        await asyncio.to_thread(server.wait_for, f"{seats['a']} answers too late")
        async with asyncio.timeout(30):
            while {s["worker"] for s in json.loads(server.get("/v1/status"))["sessions"]} & {
                seats["a"],
                None,
            }:
                await asyncio.sleep(0.05)
        hindering.cancel()
        await talkers[0].until_heard(0.2)
        for talker in talkers:
            await talker.stop()


KILLER = """
from understudy.models.mirror import MirrorModel

class Killer(MirrorModel):
    def step(self, frames, active):
        if frames.max() > 0.9:
            import os
            os.abort()
        return super().step(frames, active)
"""


async def test_a_session_that_kills_every_worker_is_stopped_and_the_others_are_not(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    config = SMALL.format(slots=4).replace("understudy.models.mirror:MirrorModel", "killer:Killer")
    server = start(config=config.replace("workers = 1", "workers = 3"))
    async with Client(server.url).stream("mirror", "good", RATE_HZ) as stream:
        good = Talker(stream)
        await good.until_heard(0.2)
        shout = np.full(CHUNK, 32_000, "<i2").tobytes()
        async with Client(server.url).stream("mirror", "bad", RATE_HZ) as other:

            async def shout_on() -> None:
                while True:
                    await other.send(shout)
                    await asyncio.sleep(CHUNK / RATE_HZ)

            shouting = asyncio.create_task(shout_on())
            with pytest.raises(Refused) as caught:
                async with asyncio.timeout(100):
                    async for _ in other:
                        pass
            shouting.cancel()
        assert caught.value.code == "model_failed"
        assert "in a row" in caught.value.message
        await good.until_heard(1.0)
        assert not any(isinstance(event, wire.Ended) for event in good.events)
        await good.stop()
