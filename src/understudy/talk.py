"""Microphone to speakers on a sound card: through the stream's own pipe, or a running server."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from understudy.client import Stream
from understudy.config import Config
from understudy.core import wire
from understudy.core.errors import ConfigError
from understudy.offline import Pipe, open_pipe

RATE_HZ: Final = 24_000
BLOCK: Final = RATE_HZ // 100
BYTES_PER_BLOCK: Final = BLOCK * 2
MAX_BEHIND_BLOCKS: Final = 20  # 200 ms, as in the stream: beyond it the oldest input is shed
RESERVE_BLOCKS: Final = 4  # 40 ms against an uneven line


class NoSoundCard(ConfigError):
    code = "no_sound_card"


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise ConfigError(
            "talk needs the sound card library: pip install 'understudy[local]'"
        ) from None
    except OSError as error:  # the wheel for Linux uses the system's PortAudio
        raise ConfigError(
            f"talk needs PortAudio ({error}); on Debian: apt-get install libportaudio2"
        ) from None
    return sounddevice


def list_devices() -> str:
    """The microphones and speakers there are. Raises NoSoundCard."""
    devices = list(_sounddevice().query_devices())
    if not devices:
        raise NoSoundCard(
            "this machine has no sound card; use the page in a browser on another machine, or "
            "`understudy convert` for files"
        )
    lines = []
    for number, device in enumerate(devices):
        kinds = [
            word
            for word, count in (
                ("microphone", device["max_input_channels"]),
                ("speaker", device["max_output_channels"]),
            )
            if count
        ]
        lines.append(f"{number:3d}  {device['name']}  ({', '.join(kinds)})")
    return "\n".join(lines)


class Performer:
    """Between two sound card callbacks: blocks in, blocks out, on a thread of its own."""

    reserve_bytes = 0  # what is saved up before the first block, and after a hole

    def __init__(self) -> None:
        self._out = bytearray()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._saving = True
        self.over = threading.Event()  # it ended by itself
        self.error: Exception | None = None
        self.shed_blocks = 0
        self.underruns = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when its thread has ended."""
        raise NotImplementedError

    def put(self, pcm: bytes) -> None:
        """A block of the microphone."""
        raise NotImplementedError

    def _run(self) -> None:
        raise NotImplementedError

    def get(self, nbytes: int) -> bytes:
        """Exactly `nbytes`: of output, or of silence until there is a whole block (no holes)."""
        with self._lock:
            if len(self._out) < nbytes + self.reserve_bytes * self._saving:
                self.underruns += 1
                self._saving = True
                return bytes(nbytes)
            self._saving = False
            pcm = bytes(self._out[:nbytes])
            del self._out[:nbytes]
        return pcm

    def _give(self, made: bytes) -> None:
        with self._lock:
            self._out += made
            # Two clocks drift: a backlog would be delay for ever.
            surplus = len(self._out) - MAX_BEHIND_BLOCKS * BYTES_PER_BLOCK
            if surplus > 0:
                del self._out[: surplus + surplus % 2]


class Here(Performer):
    """In this process, with no network."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe
        self._in: queue.Queue[bytes | None] = queue.Queue()

    def stop(self) -> None:
        self._in.put(None)
        self._thread.join()

    def put(self, pcm: bytes) -> None:
        self._in.put(pcm)

    def _run(self) -> None:
        while (pcm := self._in.get()) is not None:
            # Sheds what is too old, and answers it with silence in its place.
            if self._in.qsize() > MAX_BEHIND_BLOCKS:
                self.shed_blocks += 1
                made = bytes(len(pcm))
            else:
                made = self._pipe.push(pcm)
            self._give(made)


class There(Performer):
    """Through a running server, or the nearest of several: it outlives the one it is at."""

    reserve_bytes = RESERVE_BLOCKS * BYTES_PER_BLOCK

    def __init__(self, stream: Stream, say: Callable[[str], None]) -> None:
        super().__init__()
        self._stream = stream
        self._say = say
        self._loop = asyncio.new_event_loop()
        self._in: asyncio.Queue[bytes | None] = asyncio.Queue()

    def stop(self) -> None:
        self._put(None)
        self._thread.join()

    def put(self, pcm: bytes) -> None:
        self._put(pcm)

    def _put(self, pcm: bytes | None) -> None:
        with contextlib.suppress(RuntimeError):  # the call is over
            self._loop.call_soon_threadsafe(self._in.put_nowait, pcm)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._call())
        except Exception as error:
            self.error = error
        self.over.set()

    async def _call(self) -> None:
        async with self._stream as stream:
            speaking = asyncio.create_task(self._speak())
            try:
                async for item in stream:
                    if isinstance(item, bytes):
                        self._give(item)
                    elif isinstance(item, wire.Live):
                        where = stream.edge.region or stream.edge.url
                        delay = f"{item.latency_ms:.0f} ms of its own"
                        self._say(f"live: {item.voice} ({item.role}, {where}), {delay}")
                    elif isinstance(item, wire.Label):
                        self._say(f"{item.label} ({item.score:.2f})")
                    elif isinstance(item, wire.Queued | wire.Loading):
                        eta = "" if item.eta_s is None else f", about {item.eta_s:.0f} s"
                        self._say(f"{type(item).__name__.lower()}{eta}")
            finally:
                speaking.cancel()

    async def _speak(self) -> None:
        while (pcm := await self._in.get()) is not None:
            await self._stream.send(pcm)
        await self._stream.stop()


def talk(
    config: Config,
    voice: str,
    params: Mapping[str, float],
    source: str | None,
    target: str | None,
    say: Callable[[str], None],
) -> None:
    """Runs until Ctrl-C. Raises UnknownVoice, BadParams, ConfigError or NoSoundCard."""
    pipe = open_pipe(config, voice, params, RATE_HZ)

    def begun(cards_s: float) -> None:
        latency_s = cards_s + pipe.lock.latency / RATE_HZ
        say(f"live: {voice}, about {latency_s * 1e3:.0f} ms mouth to ear; Ctrl-C stops")

    _perform(Here(pipe), source, target, begun, say)


def call(
    stream: Stream, source: str | None, target: str | None, say: Callable[[str], None]
) -> None:
    """Runs until Ctrl-C, or the stream's end. Raises Refused, Unreachable or NoSoundCard.

    `stream` is at RATE_HZ, and is opened here.
    """

    def begun(cards_s: float) -> None:
        say(f"calling; the sound card takes {cards_s * 1e3:.0f} ms; Ctrl-C stops")

    _perform(There(stream, say), source, target, begun, say)


def _perform(
    performer: Performer,
    source: str | None,
    target: str | None,
    begun: Callable[[float], None],
    say: Callable[[str], None],
) -> None:
    sounddevice = _sounddevice()
    list_devices()

    def callback(indata: Any, outdata: Any, frames: int, time: Any, status: Any) -> None:
        performer.put(bytes(indata))
        outdata[:] = performer.get(len(outdata))

    try:
        stream = sounddevice.RawStream(
            samplerate=RATE_HZ,
            blocksize=BLOCK,
            device=(_device(source), _device(target)),
            dtype="int16",
            channels=1,
            latency="low",
            callback=callback,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise NoSoundCard(
            f"the sound card cannot be opened ({error}); `understudy talk --devices` lists them, "
            "--input and --output choose"
        ) from None
    performer.start()
    with stream:
        begun(sum(stream.latency))
        with contextlib.suppress(KeyboardInterrupt):
            performer.over.wait()
    performer.stop()
    if performer.error is not None:
        raise performer.error
    say(f"shed {performer.shed_blocks} blocks, {performer.underruns} underruns")


def _device(chosen: str | None) -> int | str | None:
    return int(chosen) if chosen is not None and chosen.isdigit() else chosen
