"""Silence that costs nothing: what is sent, what is heard, and that no onset is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fleet.test_moves import run, workers
from tests.server import Server
from tests.speech import speech
from understudy import Client
from understudy.core import wire
from understudy.core.audio import SampleLock
from understudy.core.session import State
from understudy.edge.silence import HANG_S, Ears, Silence
from understudy.models.mirror import MirrorModel
from understudy.models.pitch import PitchModel
from understudy.resample import SoxrResampler
from understudy.seams import Model
from understudy.worker.slots import Slots, card_of

HZ = 24_000
NOISE = 20.0  # of int16: -64 dBFS
Signal = NDArray[np.int16]


def words_and_pauses(
    hz: int, seed: int = 1, noise: float = NOISE
) -> tuple[Signal, NDArray[np.bool_]]:
    """(said, where somebody speaks): words of half a second, pauses of 1 to 2 s."""
    said, chance = speech(hz), np.random.default_rng(seed)
    parts: list[NDArray[np.float64]] = []
    speaks: list[NDArray[np.bool_]] = []
    for at in (0, 3, 5, 8, 11, 14):
        word = said[at * hz : at * hz + int(chance.uniform(0.4, 0.8) * hz)].astype(np.float64)
        for part, is_word in ((np.zeros(int(chance.uniform(1.0, 2.0) * hz)), False), (word, True)):
            parts.append(part)
            speaks.append(np.full(len(part), is_word))
    parts.append(np.zeros(hz))
    speaks.append(np.zeros(hz, np.bool_))
    line = np.concatenate(parts)
    line += chance.normal(0, noise, len(line))
    return np.clip(line, -32768, 32767).astype(np.int16), np.concatenate(speaks)


@dataclass
class Link:
    """Straight to a model's slot; keeps what was sent."""

    slots: Slots
    hear: Callable[[int, bytes], None]
    sent: list[tuple[int, int]] = field(default_factory=list)  # (from, to)

    def audio(self, slot: int, position: int, pcm: bytes) -> None:
        self.sent.append((position, position + len(pcm) // 2))
        self.slots.feed(slot, position, pcm)
        while self.slots.due:
            for output in self.slots.step():
                self.hear(output.position, output.pcm)


@dataclass
class Part:
    """As session.Part."""

    link: Link
    casting: Any
    slot: int = 0
    is_open: bool = True


class Desk:
    """One session at an edge, without the sockets: in, to its performer, and out."""

    def __init__(self, model: Model, rate_hz: int, *, skips: bool = True) -> None:
        model.load("cpu")
        card = card_of(model)
        self.lock = SampleLock(rate_hz, SoxrResampler, card)
        self.state, self.coming = State.LIVE, cast(Any, None)
        slots = Slots(model)
        slots.open(0, 0, {})
        self.link = Link(slots, self._answer)
        casting = type("Casting", (), {"card": card})
        self.performer: Any = Part(self.link, casting)
        self.silence = Silence(self, Ears(SoxrResampler)) if skips else None
        self.heard = bytearray()

    def _answer(self, position: int, pcm: bytes) -> None:
        self.lock.answer(position, pcm, 0.0, 0.0)
        if self.silence is not None:
            self.silence.answer()

    def say(self, line: Signal, chunk_s: float = 0.020, listen_every: int = 1) -> Signal:
        chunk = round(self.lock.rate_hz * chunk_s)
        for n, at in enumerate(range(0, len(line), chunk)):
            position, pcm = self.lock.feed(line[at : at + chunk].tobytes(), 0.0)
            kept_back = self.silence is not None and self.silence.lasts
            if self.silence is not None:
                self.silence.ear.push(pcm)
            if pcm and not kept_back:
                self.link.audio(0, position, pcm)
            if self.silence is not None:
                self.silence.answer()
                if n % listen_every == 0:
                    self.silence.ear._block.listen()
            self.heard += self.lock.take()
        if self.silence is not None:
            self.silence.wake()
        self.link.audio(0, *self.lock.finish(0.0))
        self.heard += self.lock.take()
        return np.frombuffer(bytes(self.heard), "<i2")


def nothing(heard: Signal) -> NDArray[np.bool_]:
    """Where there are ten zeros and more in a row: no input has that."""
    zeros = np.concatenate([[False], heard == 0, [False]])
    edges = np.flatnonzero(np.diff(zeros.astype(np.int8)))
    found = np.zeros(len(heard), np.bool_)
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        found[begin:end] = end - begin >= 10
    return found


def level_db(signal: NDArray[Any]) -> float:
    return float(10 * np.log10(np.square(signal.astype(np.float64)).mean() / 32768**2 + 1e-12))


@pytest.mark.parametrize("listen_every", [1, 4])
@pytest.mark.parametrize("chunk_s", [0.010, 0.020, 0.0417])
async def test_the_mirror_is_heard_whole_but_for_silence(chunk_s: float, listen_every: int) -> None:
    said, speaks = words_and_pauses(HZ)
    desk = Desk(MirrorModel(slots=1), HZ)
    heard = desk.say(said, chunk_s, listen_every)
    assert len(heard) == len(said)  # the lock holds
    assert desk.lock.skipped_s > 2.0
    assert float(nothing(heard).sum()) / HZ == pytest.approx(desk.lock.skipped_s, abs=0.02)
    # No word is cut; 5 ms come in from silence where the worker is heard again.
    lost = np.where(speaks, said.astype(np.float64) - heard, 0.0)
    assert level_db(lost) < level_db(said[speaks]) - 34
    assert desk.lock.silent_s == 0.0
    assert desk.lock.heard == pytest.approx(len(said) - desk.lock.skipped_s * HZ, abs=2)
    # What is not the input is silence, or on the way from it.
    odd = heard != said
    assert np.abs(heard[odd]).max(initial=0) <= np.abs(said[odd]).max(initial=0)
    # The worker's positions are the session's: in order, never twice.
    sent = desk.link.sent
    assert all(a[1] <= b[0] or b[0] < a[1] <= b[1] for a, b in itertools.pairwise(sent))


async def test_half_a_second_is_waited_for() -> None:
    said, speaks = words_and_pauses(HZ)
    desk = Desk(MirrorModel(slots=1), HZ)
    heard = desk.say(said)
    skipped = np.flatnonzero(nothing(heard))
    ends = np.flatnonzero(speaks[:-1] & ~speaks[1:])
    for end in ends:
        after = skipped[skipped > end]
        assert len(after) == 0 or after[0] - end > (HANG_S - 0.1) * HZ


async def test_a_voice_with_a_state_goes_on_as_if_the_pause_was_short() -> None:
    said, speaks = words_and_pauses(HZ)
    whole = Desk(cast(Model, PitchModel(slots=1)), HZ, skips=False).say(said)
    desk = Desk(cast(Model, PitchModel(slots=1)), HZ)
    heard = desk.say(said)
    assert len(heard) == len(whole)
    assert desk.lock.skipped_s > 2.0
    starts = np.flatnonzero(~speaks[:-1] & speaks[1:])
    for start in starts:  # as loud, in every part of the word and of its beginning
        for at in range(8):
            part = slice(start + at * HZ // 20, start + (at + 1) * HZ // 20)
            if level_db(whole[part]) > -45:
                assert level_db(heard[part]) == pytest.approx(level_db(whole[part]), abs=2.5)
    quiet = np.flatnonzero(heard == 0)
    assert len(quiet) > HZ


async def test_noise_that_swells_is_heard_and_steady_noise_is_not() -> None:
    chance = np.random.default_rng(5)
    steady = chance.normal(0, 100, 6 * HZ).astype(np.int16)
    desk = Desk(MirrorModel(slots=1), HZ)
    desk.say(steady)
    assert desk.lock.skipped_s > 4.0
    door = steady.copy()
    door[3 * HZ : 3 * HZ + 2400] *= 30  # no speech, but something
    desk = Desk(MirrorModel(slots=1), HZ)
    heard = desk.say(door)
    slam = slice(3 * HZ + 240, 3 * HZ + 2400)
    assert np.array_equal(heard[slam], door[slam])


async def test_many_sessions_share_ears() -> None:
    ears = Ears(SoxrResampler)
    desks = [Desk(MirrorModel(slots=1), 16_000, skips=False) for _ in range(40)]
    silences = [Silence(desk, ears) for desk in desks]
    assert [len(block.free) for block in ears._blocks] == [0, 24]
    chance = np.random.default_rng(1)
    for _ in range(10):
        pcm = chance.normal(0, 30, 1600).astype("<i2").tobytes()
        for desk, silence in zip(desks, silences, strict=True):
            desk.silence = silence
            desk.lock.feed(pcm, 0.0)
            silence.ear.push(pcm)
        for block in ears._blocks:
            block.listen()
    assert all(silence.lasts for silence in silences)
    for silence in silences:
        silence.ear.close()
        silence.ear.close()
    assert [len(block.free) for block in ears._blocks] == [32, 32]


# on real processes

CONFIG = """
[models.mirror]
engine = "understudy.models.mirror:MirrorModel"
slots = 4
workers = {workers}

[models.pitch]
engine = "understudy.models.pitch:PitchModel"
slots = 4
price_per_h = 1.0

[voices.mirror]
model = "mirror"
skip_silence = true

[voices.high]
model = "pitch"
params = {{ pitch = 5 }}
understudy = "none"
skip_silence = true
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def new() -> Server:
        servers.append(Server(tmp_path / "data", config=CONFIG.format(workers=1)))
        return servers[-1]

    yield new
    for server in servers:
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log, server.log


async def converse(
    server: Server, voice: str, said: Signal, at_s: dict[float, Callable[[], Any]] | None = None
) -> tuple[Signal, Any, Any, int]:
    """Says it at the pace of speech; (heard, last usage, ended, times live)."""
    heard, lives, live = bytearray(), 0, asyncio.Event()
    async with Client(server.url).stream(voice, "alice", HZ) as stream:

        async def speak() -> None:
            await live.wait()
            loop = asyncio.get_running_loop()
            began, chunk = loop.time(), HZ // 50
            todo = sorted((at_s or {}).items())
            for at in range(0, len(said), chunk):
                while todo and todo[0][0] * HZ <= at:
                    await asyncio.to_thread(todo.pop(0)[1])
                await stream.send(said[at : at + chunk])
                await asyncio.sleep(began + (at + chunk) / HZ - loop.time())
            await stream.stop()

        speaking = asyncio.create_task(speak())
        async for item in stream:
            if isinstance(item, bytes):
                heard += item
            elif isinstance(item, wire.Live):
                lives += 1
                live.set()
        await speaking
    return np.frombuffer(bytes(heard), "<i2"), stream.usage, stream.ended, lives


async def test_silence_is_not_billed_and_words_are_whole(start: Callable[[], Server]) -> None:
    server = start()
    said, speaks = words_and_pauses(HZ)
    heard, usage, ended, _ = await converse(server, "mirror", said)
    assert len(heard) == len(said)
    assert usage.skipped_s > 2.0
    assert usage.silent_s < 0.5
    assert ended.lead_s < len(said) / HZ - 2.0
    total_s = ended.lead_s + usage.skipped_s + usage.silent_s
    assert total_s == pytest.approx(len(said) / HZ, abs=1.2)  # `usage` comes once a second
    if usage.silent_s == 0:
        lost = np.where(speaks, said.astype(np.float64) - heard, 0.0)
        assert level_db(lost) < level_db(said[speaks]) - 35
    rows = json.loads(urllib.request.urlopen(server.url + "/v1/usage").read())["usage"]
    assert rows[0]["lead_s"] == pytest.approx(ended.lead_s, abs=0.01)


@pytest.mark.parametrize("why", ["drain", "crash"])
async def test_a_session_that_is_silent_moves_all_the_same(
    start: Callable[[], Server], why: str
) -> None:
    server = start()
    said, _ = words_and_pauses(HZ)
    pause = np.random.default_rng(9).normal(0, NOISE, 5 * HZ).astype(np.int16)
    said = np.concatenate([said[: 4 * HZ], pause, said[4 * HZ :]])

    def go_away() -> None:
        if why == "crash":
            (process,) = server.workers("pitch")
            process.send_signal(signal.SIGKILL)
            return
        (worker,) = (one for one in workers(server, "pitch") if one["seats"])
        assert run(server, "drain", worker["id"]).returncode == 0

    heard, usage, ended, lives = await converse(server, "high", said, {5.5: go_away})
    assert len(heard) == len(said)
    assert lives == 2
    assert ended.reason == "stopped"
    assert usage.skipped_s > 2.0
    word = slice(-6 * HZ, None)
    assert level_db(heard[word]) == pytest.approx(level_db(said[word]), abs=4)
