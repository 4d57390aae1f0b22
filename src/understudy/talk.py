"""Microphone to speakers in one process, with no network: the stream's own pipe on a sound card."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from understudy.config import Config
from understudy.core.errors import ConfigError
from understudy.offline import Pipe, open_pipe

RATE_HZ: Final = 24_000
BLOCK: Final = RATE_HZ // 100
BYTES_PER_BLOCK: Final = BLOCK * 2
MAX_BEHIND_BLOCKS: Final = 20  # 200 ms, as in the stream: beyond it the oldest input is shed


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

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._in: queue.Queue[bytes | None] = queue.Queue()
        self._out = bytearray()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.shed_blocks = 0
        self.underruns = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._in.put(None)
        self._thread.join()

    def put(self, pcm: bytes) -> None:
        self._in.put(pcm)

    def get(self, nbytes: int) -> bytes:
        """Exactly `nbytes`: of output, or of silence until there is a whole block (no holes)."""
        with self._lock:
            if len(self._out) < nbytes:
                self.underruns += 1
                return bytes(nbytes)
            pcm = bytes(self._out[:nbytes])
            del self._out[:nbytes]
        return pcm

    def _run(self) -> None:
        while (pcm := self._in.get()) is not None:
            # Sheds what is too old, and answers it with silence in its place.
            if self._in.qsize() > MAX_BEHIND_BLOCKS:
                self.shed_blocks += 1
                made = bytes(len(pcm))
            else:
                made = self._pipe.push(pcm)
            with self._lock:
                self._out += made
                # Two clocks drift: a backlog would be delay for ever.
                surplus = len(self._out) - MAX_BEHIND_BLOCKS * BYTES_PER_BLOCK
                if surplus > 0:
                    del self._out[:surplus]


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
    sounddevice = _sounddevice()
    list_devices()
    performer = Performer(pipe)

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
        latency_s = sum(stream.latency) + pipe.lock.latency / RATE_HZ
        say(f"live: {voice}, about {latency_s * 1e3:.0f} ms mouth to ear; Ctrl-C stops")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    performer.stop()
    say(f"shed {performer.shed_blocks} blocks, {performer.underruns} underruns")


def _device(chosen: str | None) -> int | str | None:
    return int(chosen) if chosen is not None and chosen.isdigit() else chosen
