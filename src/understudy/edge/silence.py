"""Silence that costs nothing: while nobody speaks, a session's worker is sent nothing.

For voices with `skip_silence`. The shipped voice activity listens to such sessions, batched over
all of the edge's. Half a second after the last word the edge answers by itself, with silence in
its exact place. It takes as little to wake it as it can: a score far below that of speech, or any
frame that is louder than the quiet before it. Then the worker is sent a little of what came
before, and goes on in its slot: what it hears is speech with shorter pauses.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from understudy.core.audio import Resampler, Resampling, SampleLock
from understudy.core.errors import ConfigError
from understudy.core.session import State
from understudy.models.listener import SHIPPED, open_exported

if TYPE_CHECKING:
    from understudy.edge.part import Part
    from understudy.lab import runtime

log = logging.getLogger(__name__)

HANG_S: Final = 0.5  # of quiet, until it is silence
SCORE: Final = 0.2  # from here on somebody may speak
RISE: Final = 2.0  # in power, over the loudest frame of the quiet before: something is to be heard
FAINT: Final = 16.0  # power of int16 samples that counts as none
FRAME_S: Final = 0.010
PRE_ROLL_S: Final = 0.200  # before the first sample that is to be heard: the model's run-up
BATCH_S: Final = 0.020  # sessions are listened to together, so often
BLOCK: Final = 32  # sessions a batch
SPEECH: Final = 1  # among the labels


class Hushing(Protocol):
    """What an ear needs of its session."""

    def hush(self) -> None: ...

    def wake(self) -> None: ...


class Ears:
    """All sessions of one edge that skip silence."""

    def __init__(self, resampling: Resampling) -> None:
        self._resampling = resampling
        self._exported: runtime.Listener | None = None
        self._blocks: list[Block] = []

    def silence_of(self, session: Hushed) -> Silence | None:
        """None where ONNX Runtime is not installed: nothing is skipped."""
        try:
            return Silence(session, self)
        except ConfigError as error:
            log.warning("no silence is skipped: %s", error)
            return None

    def open(self, rate_hz: int, owner: Hushing) -> Ear:
        """Raises ConfigError where ONNX Runtime is not installed."""
        if self._exported is None:
            self._exported = open_exported(SHIPPED)
        block = next((block for block in self._blocks if block.free), None)
        if block is None:
            block = Block(self._exported)
            self._blocks.append(block)
        ear_hz = self._exported.frontend.rate_hz
        resampler = self._resampling(rate_hz, ear_hz) if rate_hz != ear_hz else None
        return Ear(rate_hz, block, resampler, owner)


class Block:
    """Some sessions that are listened to in one batch."""

    def __init__(self, exported: runtime.Listener) -> None:
        self._slots = exported.slots(BLOCK)
        self._hop = exported.frontend.hop
        self.hang = round(HANG_S * exported.frontend.rate_hz / self._hop)
        self.free = list(range(BLOCK))
        self._ears: dict[int, Ear] = {}
        self._loop = asyncio.get_running_loop()
        self._due = False

    def take(self, ear: Ear) -> int:
        slot = self.free.pop()
        self._slots.reset(slot)
        self._ears[slot] = ear
        return slot

    def give_back(self, slot: int) -> None:
        if self._ears.pop(slot, None) is not None:
            self.free.append(slot)

    def wait(self) -> None:
        """There is something to listen to, soon."""
        if not self._due:
            self._due = True
            self._loop.call_later(BATCH_S, self.listen)

    def listen(self) -> None:
        self._due = False
        hop_bytes = self._hop * 2
        while due := [slot for slot, ear in self._ears.items() if len(ear.waiting) >= hop_bytes]:
            hops = min(len(self._ears[slot].waiting) for slot in due) // hop_bytes
            audio = np.zeros((BLOCK, hops * self._hop), np.float32)
            active = np.zeros(BLOCK, np.bool_)
            active[due] = True
            for slot in due:
                waiting = self._ears[slot].waiting
                audio[slot] = np.frombuffer(bytes(waiting[: hops * hop_bytes]), np.int16)
                del waiting[: hops * hop_bytes]
            audio *= np.float32(1 / 32768)
            scores = self._slots.step(audio, active)
            for slot in due:
                if (ear := self._ears.get(slot)) is not None:
                    ear.heard(scores[slot, :, SPEECH])


class Ear:
    """Whether anybody speaks in one session."""

    def __init__(
        self, rate_hz: int, block: Block, resampler: Resampler | None, owner: Hushing
    ) -> None:
        self._block = block
        self._resampler = resampler
        self._owner = owner
        self._frame = max(1, round(rate_hz * FRAME_S))
        self._rest: NDArray[np.int16] = np.zeros(0, np.int16)
        self._powers: deque[float] = deque(maxlen=block.hang)  # of the last frames
        self._quiet = 0  # hops
        self.waiting = bytearray()
        self._slot = block.take(self)

    def push(self, pcm: bytes) -> None:
        """int16 at the session's rate."""
        self.waiting += pcm if self._resampler is None else self._resampler.push(pcm)
        self._block.wait()
        samples = np.concatenate([self._rest, np.frombuffer(pcm, np.int16)])
        whole = len(samples) - len(samples) % self._frame
        self._rest = samples[whole:]
        # What has not filled its frame yet counts too: an onset must not wait.
        frames = [*samples[:whole].reshape(-1, self._frame)]
        if len(self._rest) > self._frame // 4:
            frames.append(self._rest)
        powers = [float(np.square(frame, dtype=np.float32).mean()) for frame in frames]
        limit = RISE * max(self._powers, default=0.0) + FAINT
        self._powers += powers[: whole // self._frame]
        if powers and max(powers) > limit:
            self._quiet = 0
            self._owner.wake()

    def heard(self, scores: NDArray[np.float32]) -> None:
        """Chances that somebody speaks, a hop each."""
        if scores.max() >= SCORE:
            self._quiet = 0
            self._owner.wake()
            return
        self._quiet += len(scores)
        if self._quiet >= self._block.hang:
            self._owner.hush()

    def close(self) -> None:
        self._block.give_back(self._slot)


class Hushed(Protocol):
    """What `Silence` needs of its session."""

    lock: SampleLock
    state: State
    performer: Part | None
    coming: Part | None


class Silence:
    """A session's silence: while it lasts, its performer is sent nothing."""

    def __init__(self, session: Hushed, ears: Ears) -> None:
        self._session = session
        self._ears = ears
        self._sent: int | None = None  # input from this position on is kept back
        self.ear = ears.open(session.lock.model_hz, self)

    @property
    def lasts(self) -> bool:
        return self._sent is not None

    def hush(self) -> None:
        session = self._session
        part = session.performer
        settled = session.state is State.LIVE and session.coming is None
        if not self.lasts and settled and part is not None and part.is_open:
            self._sent = session.lock.history.end

    def wake(self) -> None:
        """The performer goes on with what was kept back, from a little before it is heard."""
        session, lock = self._session, self._session.lock
        sent, self._sent = self._sent, None
        part = session.performer
        if sent is None or part is None:
            return
        grid = part.casting.card.alignment
        position = (lock.answered - round(PRE_ROLL_S * lock.model_hz)) // grid * grid
        position = max(position, -(-lock.history.start // grid) * grid)
        if position <= sent:  # nothing is left out
            position = sent
        if pcm := lock.history.since(position):
            part.link.audio(part.slot, position, pcm)

    def anew(self) -> Silence:
        """For a new connection, maybe at another rate."""
        self.ear.close()
        return Silence(self._session, self._ears)

    def over(self) -> None:
        """The performer is gone, or the connection begins anew; whoever comes is primed."""
        self._sent = None

    def answer(self) -> None:
        """By the edge, as far as the performer has nothing more to say."""
        if self._sent is not None:
            self._session.lock.pass_over(self._sent)
