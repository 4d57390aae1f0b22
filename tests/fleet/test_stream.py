"""The stream through a real server and real workers: what goes in comes out, in its place."""

import asyncio
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from picows import WSMsgType

from tests.server import Server
from understudy import Client
from understudy.client import Refused, Stream
from understudy.config import parse, template
from understudy.core import wire
from understudy.offline import convert_pcm

CONFIG = parse(template(), "template")


def babble(rate_hz: int, seconds: float = 1.5) -> NDArray[np.int16]:
    """A voiced sound with a moving pitch, pauses and noise."""
    t = np.arange(round(rate_hz * seconds)) / rate_hz
    phase = np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.5 * t)) / rate_hz
    voice = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 12))
    hiss = np.random.default_rng(1).normal(0, 0.1, len(t))
    gate = np.sin(2 * np.pi * 2 * t) > -0.5
    return np.asarray((voice * gate + hiss) * 6000, np.int16)


async def collect(stream: Stream) -> tuple[NDArray[np.int16], list[wire.ServerEvent]]:
    heard, events = b"", list[wire.ServerEvent]()
    async for item in stream:
        if isinstance(item, bytes):
            heard += item
        else:
            events.append(item)
    return np.frombuffer(heard, np.int16), events


async def through(
    url: str, pcm: NDArray[np.int16], rate_hz: int, voice: str, user: str, chunk: int
) -> tuple[NDArray[np.int16], list[wire.ServerEvent]]:
    async with Client(url).stream(voice, user, rate_hz) as stream:
        events = list[wire.ServerEvent]()
        while not stream.live:
            event = await anext(aiter(stream))
            assert not isinstance(event, bytes)
            events.append(event)
        for at in range(0, len(pcm), chunk):
            await stream.send(pcm[at : at + chunk])
        await stream.stop()
        heard, more = await collect(stream)
        return heard, events + more


@pytest.mark.parametrize(
    ("voice", "rate_hz", "chunk"),
    [
        ("mirror", 24_000, 480),
        ("mirror", 11_025, 331),
        ("chipmunk", 24_000, 240),
        ("giant", 48_000, 960),
        ("robot", 16_000, 77),
        ("natural-up", 44_100, 4000),
    ],
)
async def test_the_stream_is_the_file_sample_for_sample(
    server: Server, voice: str, rate_hz: int, chunk: int
) -> None:
    pcm = babble(rate_hz)
    heard, events = await through(server.url, pcm, rate_hz, voice, f"{voice}{rate_hz}", chunk)
    assert np.array_equal(heard, convert_pcm(pcm, rate_hz, CONFIG, voice))
    if voice == "mirror":
        assert np.array_equal(heard, pcm)
    assert isinstance(events[0], wire.Live)
    ended = events[-1]
    assert isinstance(ended, wire.Ended)
    assert ended.reason == "stopped"
    assert ended.lead_s == pytest.approx(len(pcm) / rate_hz, abs=0.01)


async def test_output_is_sent_when_its_input_plus_the_latency_has_come(server: Server) -> None:
    rate_hz = 24_000
    pcm = babble(rate_hz, 1.0)
    async with Client(server.url).stream("chipmunk", "locked", rate_hz) as stream:
        items = aiter(stream)
        live = await anext(items)
        assert isinstance(live, wire.Live)
        await stream.send(pcm)
        heard = b""
        expected = len(pcm) - live.latency_samples
        while len(heard) // 2 < expected:
            item = await anext(items)
            if isinstance(item, bytes):
                heard += item
        assert len(heard) // 2 == expected  # no more without more input
        await stream.stop()
        rest, _ = await collect(stream)
        assert len(heard) // 2 + len(rest) == len(pcm)


async def test_params_change_the_voice_while_talking(server: Server) -> None:
    rate_hz = 24_000
    t = np.arange(rate_hz) / rate_hz
    tone = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 15))
    pcm = np.asarray(8000 * np.asarray(tone), np.int16)
    async with Client(server.url).stream("natural-up", "slider", rate_hz) as stream:
        await stream.send(pcm)
        await stream.set_params(pitch=-5.0)
        await stream.send(pcm)
        await stream.stop()
        heard, _ = await collect(stream)
    assert len(heard) == 2 * len(pcm)
    for part, semitones in ((heard[6000:20_000], 3), (heard[32_000:46_000], -5)):
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 18))
        f0 = 150 * 2 ** (semitones / 12)
        per_bin = rate_hz / (1 << 18)
        low, high = int(f0 / 1.2 / per_bin), int(f0 * 1.2 / per_bin)
        found = (low + int(np.argmax(spectrum[low:high]))) * per_bin
        assert 1200 * np.log2(found / f0) == pytest.approx(0, abs=10)


async def test_bad_params_while_talking_are_refused_and_the_stream_goes_on(server: Server) -> None:
    pcm = babble(24_000, 0.5)
    errors = []
    heard = b""
    async with Client(server.url).stream("chipmunk", "clumsy", 24_000) as stream:
        await stream.set_params(pitch=99.0)
        await stream.set_params(volume=3.0)
        await stream.send(pcm)
        await stream.stop()
        try:
            async for item in stream:
                if isinstance(item, wire.Error):
                    errors.append(item.code)
                elif isinstance(item, bytes):
                    heard += item
        except Refused:
            pytest.fail("a refused slider must not end the stream")
    assert errors == ["bad_params", "bad_params"]
    assert len(heard) == 2 * len(pcm)


async def test_a_second_connect_is_refused_or_takes_over(server: Server) -> None:
    client = Client(server.url)
    async with client.stream("mirror", "twice") as first:
        assert isinstance(await anext(aiter(first)), wire.Live)
        with pytest.raises(Refused) as caught:
            async with client.stream("mirror", "twice") as second:
                await collect(second)
        assert caught.value.code == "already_live"
        assert caught.value.retryable
        async with client.stream("mirror", "twice", takeover=True) as third:
            assert isinstance(await anext(aiter(third)), wire.Live)
            await collect(first)
            assert first.ended is not None
            assert first.ended.reason == "taken_over"


async def test_a_lost_connection_is_resumed_as_the_same_session(server: Server) -> None:
    client = Client(server.url)
    first = client.stream("mirror", "commuter")
    async with first:
        items = aiter(first)
        live = await anext(items)
        assert isinstance(live, wire.Live)
        await first.send(babble(24_000, 0.5))
        got = 0
        while got < 12_000:
            item = await anext(items)
            got += len(item) // 2 if isinstance(item, bytes) else 0
        first.drop()  # no stop, no close: a tunnel
    async with client.stream("mirror", "commuter", resume=live.resume) as again:
        back = await anext(aiter(again))
        assert isinstance(back, wire.Live)
        assert back.session == live.session
        pcm = babble(24_000, 0.5)
        await again.send(pcm)
        await again.stop()
        heard, _ = await collect(again)
        assert np.array_equal(heard, pcm)
        assert again.ended is not None
        assert again.ended.lead_s == pytest.approx(1.0, abs=0.02)


async def test_the_client_in_the_docs_works(server: Server, tmp_path: Path) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", docs, re.S)
    source = blocks[0].replace("ws://127.0.0.1:8765", server.url.replace("http", "ws"))
    (tmp_path / "client.py").write_text(source)
    pcm = babble(22_050, 1.0)
    soundfile.write(tmp_path / "in.wav", pcm, 22_050)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("client.py", "in.wav", "out.wav"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert b'"ended"' in output
    heard, rate_hz = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert rate_hz == 22_050
    assert np.array_equal(heard, convert_pcm(pcm, 22_050, CONFIG, "chipmunk"))


async def test_voices_are_listed_with_what_their_sliders_may_do(server: Server) -> None:
    voices = {voice["name"]: voice for voice in await Client(server.url).voices()}
    always_on = {"chipmunk", "giant", "robot", "natural-up", "natural-down", "mirror", "listener"}
    assert {name for name, voice in voices.items() if voice["ready"]} == always_on
    assert {voices[name]["understudy"] for name in always_on} == {None}
    assert set(voices) - always_on == {"miku", "miku-dev", "teto"}
    assert voices["miku"]["understudy"] == "chipmunk"
    assert voices["chipmunk"]["controls"]["pitch"]["unit"] == "semitones"
    assert voices["mirror"]["controls"] == {}
    assert (voices["mirror"]["kind"], voices["mirror"]["labels"]) == ("convert", [])
    assert (voices["listener"]["kind"], voices["listener"]["sample_rate"]) == ("listen", 16_000)
    assert voices["listener"]["labels"] == ["silence", "speech"]
    assert voices["chipmunk"]["latency_ms"] <= 50


async def test_a_voice_is_added_by_three_lines_without_a_restart(server: Server) -> None:
    before = server.config.read_text()
    server.config.write_text(
        before + '\n[voices.helium]\nmodel = "pitch"\nparams = { pitch = 9, formant = 7 }\n'
    )
    try:
        heard, _ = await through(server.url, babble(24_000, 0.3), 24_000, "helium", "h", 480)
        assert len(heard) == 7200
        # A broken edit is reported, and the voices stay.
        server.config.write_text(before + "\n[voices.broken\n")
        names = [voice["name"] for voice in await Client(server.url).voices()]
        assert "helium" in names
        server.wait_for("no valid TOML")
    finally:
        server.config.write_text(before)


async def test_forty_clients_at_once_half_of_them_rude(server: Server) -> None:
    pcm = babble(24_000, 1.0)

    async def polite(k: int) -> None:
        heard, _ = await through(server.url, pcm, 24_000, "mirror", f"polite{k}", 480)
        assert np.array_equal(heard, pcm)

    async def rude(k: int) -> None:
        stream = Client(server.url).stream("mirror", f"rude{k}", 24_000)
        async with stream:
            kind = k % 4
            if kind == 0:  # vanishes mid-word
                await stream.send(pcm[:5000])
                stream.drop()
            elif kind == 1:  # talks nonsense
                stream.send_text("{{{{")
            elif kind == 2:  # a message far too long
                stream._send(WSMsgType.BINARY, bytes(100_000))
            else:  # stops, then goes on talking
                await stream.send(pcm[:5000])
                await stream.stop()
                await stream.send(pcm[:5000])
            try:
                await collect(stream)
            except Exception:
                assert kind != 3

    await asyncio.gather(*(polite(k) for k in range(20)), *(rude(k) for k in range(20)))
    status = await Client(server.url).status()
    assert all(session["user"].startswith("rude") for session in status["sessions"])
