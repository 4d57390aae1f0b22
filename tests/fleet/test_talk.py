"""`talk` up to the sound card: blocks in, blocks out, in their place, with no growing delay."""

import threading

import numpy as np

from tests.fleet.test_stream import CONFIG, babble
from tests.server import Server
from understudy import Client
from understudy.client import Refused
from understudy.offline import convert_pcm, open_pipe
from understudy.talk import BLOCK, MAX_BEHIND_BLOCKS, RATE_HZ, Here, There


class Watched(Here):
    """Says when each block has been worked on."""

    def __init__(self) -> None:
        super().__init__(open_pipe(CONFIG, "giant", {}, RATE_HZ))
        self.done = threading.Semaphore(0)
        push = self._pipe.push

        def watched(pcm: bytes) -> bytes:
            made = push(pcm)
            self.done.release()
            return made

        self._pipe.push = watched  # type: ignore[method-assign]


def test_what_is_heard_is_the_voice() -> None:
    pcm = babble(RATE_HZ, 1.0)
    performer = Watched()
    latency = performer._pipe.lock.latency
    performer.start()
    heard = b""
    for at in range(0, len(pcm), BLOCK):
        performer.put(pcm[at : at + BLOCK].tobytes())
        performer.done.acquire()
        heard += performer.get(2 * BLOCK)
    performer.stop()
    made = np.frombuffer(heard, np.int16)
    expected = convert_pcm(pcm, RATE_HZ, CONFIG, "giant")
    # The last block may still be between the pipe and the buffer when it is asked for.
    begins = int(np.flatnonzero(made)[0]) - int(np.flatnonzero(expected)[0])
    assert latency <= begins <= latency + 3 * BLOCK
    whole = made[begins : begins + RATE_HZ // 2]
    assert np.array_equal(whole, expected[: len(whole)])


def test_a_backlog_is_shed_not_kept() -> None:
    performer = Watched()
    for _ in range(300):  # 3 s at once, before the thread runs
        performer.put(bytes(2 * BLOCK))
    performer.start()
    performer.stop()
    assert performer.shed_blocks >= 250
    assert len(performer._out) <= 2 * BLOCK * MAX_BEHIND_BLOCKS


def test_no_output_yet_is_silence() -> None:
    performer = Watched()
    assert performer.get(480) == bytes(480)
    assert performer.underruns == 1


def test_through_a_server_it_is_the_same_voice(server: Server) -> None:
    said: list[str] = []
    pcm = babble(RATE_HZ, 0.1)
    performer = There(Client(server.url).stream("mirror", "caller", RATE_HZ), said.append)
    performer.start()
    for at in range(0, len(pcm), BLOCK):
        performer.put(pcm[at : at + BLOCK].tobytes())
    performer.stop()
    assert performer.over.is_set()
    assert performer.error is None
    assert said[0].startswith(f"live: mirror (lead, {server.url})")
    heard = b"".join(performer.get(2 * BLOCK) for _ in range(len(pcm) // BLOCK))
    assert np.array_equal(np.frombuffer(heard, np.int16), pcm)
    assert performer.underruns == 0


def test_a_call_that_is_refused_says_why(server: Server) -> None:
    performer = There(Client(server.url).stream("nobody", "caller", RATE_HZ), print)
    performer.start()
    assert performer.over.wait(30)
    performer.put(bytes(2 * BLOCK))
    performer.stop()
    assert isinstance(performer.error, Refused)
    assert performer.error.code == "unknown_voice"
