"""Listeners on real processes: labels at their places, over moves and crashes, once each."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fleet.test_moves import fleet, gone, run, seen, workers
from tests.server import Server
from tests.speech import speech
from understudy import Client
from understudy.client import Stream
from understudy.config import ConfigFile
from understudy.core import wire
from understudy.models.listener import SHIPPED
from understudy.offline import open_pipe

EXAMPLE = Path(__file__).parents[2] / "examples" / "voices" / "speech-or-silence"
HZ = 16_000
CONFIG = """
[models.ears]
kind = "listen"
engine = "understudy.models.listener:Listener"
slots = 2
price_per_h = 1.0

[fleet]
max_nodes = 3

[voices.ears]
model = "ears"

[voices.sharp-ears]
model = "ears"
params = { hold = 50 }
"""
Told = list[tuple[int, int, str]]  # (from_sample, at_sample, label)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def new() -> Server:
        servers.append(Server(tmp_path / "data", config=CONFIG))
        return servers[-1]

    yield new
    for server in servers:
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log, server.log


def talk(rate_hz: int, seed: int) -> NDArray[np.int16]:
    """Words of about a third of a second, and pauses of another."""
    said, chance = speech(rate_hz), np.random.default_rng(seed)
    parts = []
    for at in chance.permutation(40):
        word = said[at * rate_hz // 3 :][: int(chance.uniform(0.3, 0.6) * rate_hz)]
        pause = chance.normal(0, 20, int(chance.uniform(0.3, 0.7) * rate_hz))
        parts += [word, pause.astype(np.int16)]
    return np.concatenate(parts)


class Talker:
    """Talks at the pace of speech, and keeps the labels that come."""

    def __init__(self, stream: Stream, rate_hz: int = HZ, seed: int = 1) -> None:
        self.stream = stream
        self.rate_hz = rate_hz
        self.line = talk(rate_hz, seed)
        self.said = 0  # samples
        self.labels: list[tuple[int, wire.Label]] = []  # (samples said before it came, label)
        self.lives: list[wire.Live] = []
        self.audio = 0
        self._news = asyncio.Event()
        self._talking = asyncio.create_task(self._talk())
        self._listening = asyncio.create_task(self._listen())

    async def _talk(self) -> None:
        loop, chunk = asyncio.get_running_loop(), self.rate_hz // 50
        began = loop.time()
        while self.said + chunk <= len(self.line):
            await self.stream.send(self.line[self.said : self.said + chunk])
            self.said += chunk
            self._news.set()
            await asyncio.sleep(began + self.said / self.rate_hz - loop.time())

    async def _listen(self) -> None:
        async for item in self.stream:
            if isinstance(item, bytes):
                self.audio += len(item)
            elif isinstance(item, wire.Label):
                self.labels.append((self.said, item))
            elif isinstance(item, wire.Live):
                self.lives.append(item)
            self._news.set()
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                self._news.clear()
                assert not self._listening.done(), f"the stream is over: {self.stream.ended}"
                await self._news.wait()

    async def until_live(self, times: int = 1) -> None:
        await self.until(lambda: len(self.lives) >= times)

    async def talk_on(self, seconds: float) -> None:
        goal = self.said + round(seconds * self.rate_hz)
        await self.until(lambda: self.said >= goal)

    async def stop(self) -> Told:
        self._talking.cancel()
        await self.stream.stop()
        await self._listening
        assert self.audio == 0
        return [(one.from_sample, one.at_sample, one.label) for _, one in self.labels]


def unmoved(server: Server, talker: Talker, voice: str = "ears") -> Told:
    """What one listener says that heard all of it."""
    pipe = open_pipe(ConfigFile(server.config).current(), voice, {}, talker.rate_hz)
    pipe.push(talker.line[: talker.said].tobytes())
    pipe.finish()
    to = talker.rate_hz / HZ
    places = ((min(talker.said, round(k * to)) for k in (one.start, one.at)) for one in pipe.heard)
    return [(start, at, one.label) for (start, at), one in zip(places, pipe.heard, strict=True)]


async def test_two_sessions_on_one_worker_hear_each_their_own(
    start: Callable[[], Server],
) -> None:
    server = start()
    client = Client(server.url)
    async with (
        client.stream("ears", "a", HZ) as first,
        client.stream("sharp-ears", "b", HZ) as second,
    ):
        talkers = [Talker(first), Talker(second, seed=2)]
        for talker in talkers:
            await talker.until_live()
            assert talker.lives[0].kind == "listen"
        await talkers[0].talk_on(4.0)
        (worker,) = workers(server, "ears")
        assert len(worker["seats"]) == 2
        told = [await talker.stop() for talker in talkers]
    assert told[0] == unmoved(server, talkers[0], "ears")
    assert told[1] == unmoved(server, talkers[1], "sharp-ears")
    assert len(told[0]) > 4
    for talker in talkers:
        assert all(0.0 <= one.score <= 1.0 and one.lasts for _, one in talker.labels)
        assert all(one.session == talker.lives[0].session for _, one in talker.labels)
    assert first.ended is not None
    assert 3.5 < first.ended.lead_s < talkers[0].said / HZ  # less what came before `live`
    assert first.ended.understudy_s == 0


async def test_a_move_loses_and_doubles_no_label(start: Callable[[], Server]) -> None:
    server = start()
    async with Client(server.url).stream("ears", "alice", HZ) as stream:
        talker = Talker(stream)
        await talker.until_live()
        await talker.talk_on(4.0)
        for moves in (1, 2):
            (worker,) = (one for one in workers(server, "ears") if one["seats"])
            result = await asyncio.to_thread(run, server, "drain", worker["id"])
            assert result.returncode == 0, result.stderr
            await talker.until_live(1 + moves)
            await gone(server, worker["id"])
            await talker.talk_on(0.5)
        told = await talker.stop()
    assert [move["why"] for move in fleet(server)["moves"]][-2:] == ["drain", "drain"]
    assert told == unmoved(server, talker)


async def test_after_a_crash_what_was_missed_is_told_late(start: Callable[[], Server]) -> None:
    server = start()
    async with Client(server.url).stream("ears", "alice", HZ) as stream:
        talker = Talker(stream)
        await talker.until_live()
        await talker.talk_on(4.0)
        (process,) = server.workers("ears")
        killed_at = talker.said
        process.send_signal(signal.SIGKILL)
        await talker.until_live(2)
        again_at = talker.said
        await talker.talk_on(1.0)
        told = await talker.stop()
    assert told == unmoved(server, talker)
    missed = [
        (said, one)
        for said, one in talker.labels
        if killed_at < one.at_sample < again_at - HZ // 10
    ]
    assert missed, "nothing was to be heard while nobody listened; the test shows nothing"
    assert all(said > one.at_sample for said, one in missed)
    # What nobody listened to in time is not billed.
    assert stream.ended is not None
    assert stream.ended.lead_s < talker.said / HZ - 0.2
    assert stream.usage is not None
    assert stream.usage.silent_s > 0.2


async def test_a_listener_is_deployed_updated_and_hears_any_rate(
    start: Callable[[], Server], tmp_path: Path
) -> None:
    server = start()
    assert (EXAMPLE / "listener.onnx").read_bytes() == SHIPPED.read_bytes()
    result = await asyncio.to_thread(run, server, "deploy", EXAMPLE)
    assert result.returncode == 0, result.stderr
    async with Client(server.url).stream("speech-or-silence", "alice", 48_000) as stream:
        talker = Talker(stream, 48_000)
        await talker.until_live()
        voices = {voice["name"]: voice for voice in await Client(server.url).voices()}
        deployed: dict[str, Any] = voices["speech-or-silence"]
        assert (deployed["kind"], deployed["labels"]) == ("listen", ["silence", "speech"])
        assert deployed["understudy"] is None
        await talker.talk_on(3.0)
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        (bundle / "listener.onnx").write_bytes(SHIPPED.read_bytes())
        changed = (EXAMPLE / "voice.toml").read_text().replace("slots = 24", "slots = 3")
        (bundle / "voice.toml").write_text(changed)
        result = await asyncio.to_thread(run, server, "deploy", bundle)
        assert result.returncode == 0, result.stderr
        await talker.until_live(2)
        await seen(server, lambda state: state["moves"][-1]["why"] == "new revision")
        await talker.talk_on(1.0)
        told = await talker.stop()
    # The same at a third of the rate, but for what resampling does to a score.
    wanted = unmoved(server, talker, "ears")
    assert [label for *_, label in told] == [label for *_, label in wanted]
    assert all(
        abs(got - want) <= 3 * 160 * 3
        for one, other in zip(told, wanted, strict=True)
        for got, want in zip(one[:2], other[:2], strict=True)
    )


async def test_a_bundle_that_does_not_listen_is_refused(
    start: Callable[[], Server], tmp_path: Path
) -> None:
    server = start()
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for text, reason in (
        ('kind = "listen"\nengine = "understudy.models.mirror:MirrorModel"', "labels, events"),
        ('kind = "convert"\nengine = "understudy.models.listener:Listener"', "it listens"),
        (
            'kind = "listen"\nengine = "understudy.models.listener:Listener"\n'
            '[options]\npath = "lost.onnx"',
            "no file lost.onnx",
        ),
        (
            'kind = "listen"\nunderstudy = "ears"\nengine = "understudy.models.listener:Listener"',
            "nobody can cover",
        ),
    ):
        (bundle / "voice.toml").write_text(f'name = "odd"\n{text}\n')
        result = await asyncio.to_thread(run, server, "deploy", bundle)
        assert result.returncode == 1
        assert reason in result.stderr
