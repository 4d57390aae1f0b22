"""Sessions that move between real processes, and what the user hears of it."""

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server import Server
from tests.speech import speech
from understudy import Client
from understudy.client import Stream
from understudy.config import ConfigFile
from understudy.core import wire
from understudy.offline import convert_pcm

RATE_HZ = 24_000
CHUNK = 480
CONFIG = """
[models.pitch]
engine = "understudy.models.pitch:PitchModel"
slots = 8
workers = 1

[models.heavy]
engine = "understudy.models.pitch:PitchModel"
slots = 2
load_s = {load_s}
price_per_h = 1.0

[fleet]
max_nodes = {max_nodes}

[voices.low]
model = "pitch"
params = {{ pitch = -5 }}

[voices.high]
model = "pitch"
params = {{ pitch = 6 }}

[voices.star]
model = "heavy"
params = {{ pitch = 7, formant = 2 }}

[voices.proud]
model = "heavy"
params = {{ pitch = 7, formant = 2 }}
understudy = "none"
"""

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def new(load_s: float = 0.0, max_nodes: int = 4) -> Server:
        config = CONFIG.format(load_s=load_s, max_nodes=max_nodes)
        servers.append(Server(tmp_path / "data", config=config))
        return servers[-1]

    yield new
    for server in servers:
        server.stop()


class Speaker:
    """Says a recording at the pace of speech, over and over, and keeps all that it hears."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.said = bytearray()
        self.heard = bytearray()
        self.events: list[tuple[int, wire.ServerEvent]] = []  # (samples heard before it, event)
        self._news = asyncio.Event()
        self._pcm = speech(RATE_HZ).tobytes()
        self._speaking = asyncio.create_task(self._speak())
        self._listening = asyncio.create_task(self._listen())

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            at = len(self.said) % (len(self._pcm) - CHUNK * 2)
            self.said += self._pcm[at : at + CHUNK * 2]
            await self.stream.send(self._pcm[at : at + CHUNK * 2])
            await asyncio.sleep(began + len(self.said) / 2 / RATE_HZ - loop.time())

    async def _listen(self) -> None:
        async for item in self.stream:
            if isinstance(item, bytes):
                self.heard += item
            else:
                self.events.append((len(self.heard) // 2, item))
            self._news.set()
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                self._news.clear()
                if self._listening.done():
                    self._listening.result()
                    raise AssertionError(f"the stream is over: {self.stream.ended}")
                await self._news.wait()

    async def until_heard(self, seconds: float) -> None:
        goal = len(self.heard) + round(seconds * RATE_HZ) * 2
        await self.until(lambda: len(self.heard) >= goal)

    async def until_live(self, role: str, times: int = 1) -> int:
        """Until a worker has taken the role for the n-th time; how much was heard before."""

        def lives() -> list[int]:
            found = [(at, e) for at, e in self.events if isinstance(e, wire.Live)]
            return [at for at, event in found if event.role == role]

        await self.until(lambda: len(lives()) >= times)
        return lives()[times - 1]

    async def stop(self) -> tuple[Any, Any]:
        """(said, heard) as int16."""
        self._speaking.cancel()
        await self.stream.stop()
        await self._listening
        said, heard = bytes(self.said), bytes(self.heard)
        return np.frombuffer(said, "<i2"), np.frombuffer(heard, "<i2")


def fleet(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(urllib.request.urlopen(server.url + "/v1/fleet").read())
    return answer


def workers(server: Server, model: str) -> list[dict[str, Any]]:
    return [worker for worker in fleet(server)["workers"] if worker["model"] == model]


async def gone(server: Server, worker: str) -> None:
    await seen(server, lambda state: worker not in {w["id"] for w in state["workers"]})


async def seen(server: Server, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while not holds(state := await asyncio.to_thread(fleet, server)):
            await asyncio.sleep(0.05)
    return state


def run(server: Server, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "understudy", *map(str, words), "--data", str(server.data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def unmoved(server: Server, said: Any, voice: str) -> Any:
    return convert_pcm(said, RATE_HZ, ConfigFile(server.config).current(), voice)


def differ(a: Any, b: Any) -> Any:
    """The positions at which two streams of one length are not the same."""
    assert len(a) == len(b)
    return np.flatnonzero(a != b)


async def test_from_zero_the_understudy_performs_and_the_lead_takes_over(start: Start) -> None:
    server = start(load_s=0.6)
    async with Client(server.url).stream("star", "alice") as stream:
        speaker = Speaker(stream)
        await speaker.until_live("understudy")
        assert isinstance(stream.live, wire.Live)
        assert stream.live.voice == "high"  # the nearest that is always on
        latency = stream.live.latency_samples
        took_over = await speaker.until_live("lead")
        await speaker.until_heard(1.0)
        said, heard = await speaker.stop()
    assert stream.live.latency_samples == latency  # a move changes no latency
    assert any(isinstance(event, wire.Loading) for _, event in speaker.events)
    understudy, lead = unmoved(server, said, "high"), unmoved(server, said, "star")
    as_understudy, as_lead = differ(heard, understudy), differ(heard, lead)
    assert len(heard) == len(said)
    # It is the understudy to the sample, then a fade of 10 ms, then the lead to the sample.
    assert as_lead[-1] - as_understudy[0] < 0.010 * RATE_HZ
    assert abs(int(as_understudy[0]) - took_over) < 0.1 * RATE_HZ
    assert stream.ended is not None
    assert stream.ended.understudy_s == pytest.approx(took_over / RATE_HZ, abs=0.1)
    total_s = stream.ended.understudy_s + stream.ended.lead_s
    assert total_s == pytest.approx(len(heard) / RATE_HZ, abs=0.002)
    # When the last user has left, the GPU is given back; the understudy stays.
    state = await seen(server, lambda s: not [w for w in s["workers"] if not w["always_on"]])
    assert [worker["model"] for worker in state["workers"]] == ["pitch"]
    usage = json.loads(urllib.request.urlopen(server.url + "/v1/usage").read())["usage"]
    assert usage[0]["understudy_s"] == pytest.approx(stream.ended.understudy_s, abs=0.001)
    assert usage[0]["lead_s"] == pytest.approx(stream.ended.lead_s, abs=0.001)


async def test_draining_moves_sessions_without_a_trace(start: Start) -> None:
    server = start()
    async with Client(server.url).stream("star", "alice") as stream:
        speaker = Speaker(stream)
        await speaker.until_live("lead")
        await speaker.until_heard(2.5)
        moves = 0
        while moves < 2:
            (worker,) = (w for w in workers(server, "heavy") if w["seats"])
            result = await asyncio.to_thread(run, server, "drain", worker["id"])
            assert result.returncode == 0, result.stderr
            moves += 1
            await speaker.until_live("lead", 1 + moves)
            await speaker.until_heard(0.5)
            await gone(server, worker["id"])
        said, heard = await speaker.stop()
    # From the first lead on, nothing tells that it moved: one model, rebuilt from its input.
    first = (await speaker.until_live("lead")) + RATE_HZ // 10
    assert differ(heard[first:], unmoved(server, said, "star")[first:]).size == 0
    assert stream.ended is not None
    assert [m["why"] for m in fleet(server)["moves"]][-2:] == ["drain", "drain"]
    assert run(server, "drain", "nobody").returncode == 1


async def test_with_no_understudy_a_user_queues_and_is_told_so(start: Start) -> None:
    server = start(load_s=0.3, max_nodes=1)
    client = Client(server.url)
    async with client.stream("proud", "a") as first, client.stream("proud", "b") as second:
        speakers = [Speaker(first), Speaker(second)]
        for speaker in speakers:
            await speaker.until_live("lead")
            assert isinstance(speaker.events[0][1], wire.Loading)
        async with client.stream("proud", "c") as third:
            waits = Speaker(third)
            await waits.until(lambda: any(isinstance(e, wire.Queued) for _, e in waits.events))
            assert not waits.heard  # silence, not somebody else's voice
            await speakers[0].stop()
            await waits.until_live("lead")
            await waits.stop()
        await speakers[1].stop()
    assert third.ended is not None
    assert third.ended.understudy_s == 0


async def test_beyond_the_limit_the_understudy_goes_on_until_a_slot_is_free(start: Start) -> None:
    server = start(max_nodes=1)
    client = Client(server.url)
    async with client.stream("star", "a") as first, client.stream("star", "b") as second:
        speakers = [Speaker(first), Speaker(second)]
        for speaker in speakers:
            await speaker.until_live("lead")
        async with client.stream("star", "c") as third:
            covered = Speaker(third)
            await covered.until_live("understudy")
            await covered.until(lambda: any(isinstance(e, wire.Queued) for _, e in covered.events))
            await speakers[0].stop()
            await covered.until_live("lead")
            await covered.stop()
        await speakers[1].stop()
    assert third.ended is not None
    assert third.ended.lead_s > 0
    assert third.ended.understudy_s > 0


async def test_when_its_gpu_dies_the_session_goes_on_elsewhere(start: Start) -> None:
    server = start()
    client = Client(server.url)
    async with (
        client.stream("star", "a") as first,
        client.stream("star", "b") as second,
        client.stream("star", "c") as third,  # its worker is another one, and has a slot free
    ):
        speakers = [Speaker(stream) for stream in (first, second, third)]
        for speaker in speakers:
            await speaker.until_live("lead")
        await speakers[0].until_heard(2.5)
        state = fleet(server)
        on = {row["user"]: row["worker"] for row in state["sessions"]}
        assert len(set(on.values())) == 2
        (process,) = (w for w in server.workers() if on["c"] in w.cmdline())
        process.send_signal(signal.SIGKILL)
        (alone,) = (s for s, name in zip(speakers, "abc", strict=True) if name == "c")
        # No slot is free: the understudy covers for it until another GPU has loaded.
        await alone.until_live("understudy", 1)
        await alone.until_live("lead", 2)
        moves = [m for m in fleet(server)["moves"] if m["why"] == "crash"]
        assert [m["source"] for m in moves] == [on["c"]]
        await alone.until_heard(0.5)
        said, heard = await alone.stop()
        await speakers[0].stop()
        await speakers[1].stop()
    tail = RATE_HZ // 4
    assert len(said) == len(heard)
    assert differ(heard[-tail:], unmoved(server, said, "star")[-tail:]).size == 0


BUNDLE = """
name = "shipped"
engine = "model:Scale"
slots = 4
understudy = "high"
"""
MODEL = '''
from understudy.models.mirror import MirrorModel


class Scale(MirrorModel):
    """The input, at half its level."""

    GAIN = {gain}

    def load(self, device):
        {load}

    def step(self, frames, active):
        return frames * self.GAIN * active[:, None]
'''


def write_bundle(folder: Path, gain: float, load: str = "pass") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "voice.toml").write_text(BUNDLE)
    (folder / "model.py").write_text(MODEL.format(gain=gain, load=load))
    return folder


async def test_a_voice_is_shipped_updated_and_rolled_back_under_a_live_session(
    start: Start, tmp_path: Path
) -> None:
    server = start()
    bundle = write_bundle(tmp_path / "bundle", 0.5)
    result = await asyncio.to_thread(run, server, "deploy", bundle)
    assert result.returncode == 0, result.stderr
    async with Client(server.url).stream("shipped", "alice") as stream:
        speaker = Speaker(stream)
        await speaker.until_live("lead")
        await speaker.until_heard(0.3)
        write_bundle(bundle, 0.25)
        result = await asyncio.to_thread(run, server, "deploy", bundle, "--json")
        revision = json.loads(result.stdout)["revision"]
        await speaker.until_live("lead", 2)
        await speaker.until_heard(0.3)
        state = fleet(server)
        assert [m["why"] for m in state["moves"]][-1] == "new revision"
        row = next(w for w in state["workers"] if w["id"] == state["sessions"][0]["worker"])
        assert row["revision"] == revision
        # One that fails its check changes nothing.
        write_bundle(bundle, 0.75, load="raise RuntimeError('no weights')")
        result = await asyncio.to_thread(run, server, "deploy", bundle)
        assert result.returncode == 1
        assert "no weights" in result.stderr
        result = await asyncio.to_thread(run, server, "rollback", "shipped")
        assert result.returncode == 0, result.stderr
        await speaker.until_live("lead", 3)
        await speaker.until_heard(0.3)
        said, heard = await speaker.stop()
    assert len(said) == len(heard)
    tail = RATE_HZ // 5
    assert np.allclose(heard[-tail:], said[-tail:] * 0.5, atol=1)
    quarter = np.abs(heard - said * 0.25) <= 1
    assert quarter.sum() > 0.3 * RATE_HZ
    assert run(server, "rollback", "shipped").returncode == 1  # the first one: nothing is older
    assert run(server, "rollback", "nobody").returncode == 1


async def test_a_revision_that_fails_to_load_on_the_fleet_never_takes_traffic(
    start: Start, tmp_path: Path
) -> None:
    server = start()
    flag = tmp_path / "broken"
    broken = f"import pathlib; assert not pathlib.Path({str(flag)!r}).exists(), 'out of memory'"
    bundle = write_bundle(tmp_path / "bundle", 0.5)
    assert (await asyncio.to_thread(run, server, "deploy", bundle)).returncode == 0
    async with Client(server.url).stream("shipped", "alice") as stream:
        speaker = Speaker(stream)
        await speaker.until_live("lead")
        write_bundle(bundle, 0.25, load=broken)
        assert (await asyncio.to_thread(run, server, "deploy", bundle)).returncode == 0
        flag.touch()  # here it passes, there it fails: the check ran on another machine, say
        state = await seen(server, lambda s: bool(s["failures"]))
        assert "out of memory" in state["failures"][0]["reason"]
        await speaker.until_heard(1.0)
        said, heard = await speaker.stop()
    tail = RATE_HZ // 2
    assert np.allclose(heard[-tail:], said[-tail:] * 0.5, atol=1)
