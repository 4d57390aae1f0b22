"""Sample accounting: the lock between a session's input and its output, and what is overdue.

Positions count samples since the session's start. Two rates meet here: the client's (what
arrives and leaves) and the model's (what crosses the link). PCM is int16 little-endian mono.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from understudy.core.crossing import Crossing, risen
from understudy.core.wire import BYTES_PER_SAMPLE, Card, Spread

OVERDUE_S: Final = 0.200  # an answer later than this is given up
CAUGHT_UP_S: Final = 0.100  # and then everything older than this is, so that gaps are few
RISE_S: Final = 0.005  # in which a performer comes in after silence
TIMINGS: Final = 100  # a few seconds of frames
LATE_S: Final = 30.0  # of input that no listener has heard yet: so late may its labels be


class Resampler(Protocol):
    """A streaming resampler whose output sample k lies where input sample k·in/out lay."""

    shortfall_s: float  # how late its output is, at most

    def push(self, pcm: bytes) -> bytes: ...


Resampling = Callable[[int, int], Resampler]  # (from_hz, to_hz)


class History:
    """A session's recent input at the model's rate, to prime a new worker with."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, bytes]] = deque()
        self.end = 0  # position after the newest sample

    def append(self, pcm: bytes, horizon: int) -> None:
        """Adds input, and forgets what lies wholly before position `horizon`."""
        self._chunks.append((self.end, pcm))
        self.end += len(pcm) // BYTES_PER_SAMPLE
        while len(self._chunks) > 1 and self._chunks[1][0] <= horizon:
            self._chunks.popleft()

    @property
    def start(self) -> int:
        """Position of the first sample kept."""
        return self._chunks[0][0] if self._chunks else self.end

    def kept(self, alignment: int = 1) -> tuple[int, bytes]:
        """(position, samples) of what is kept, from the first multiple of `alignment` on."""
        start = self.start
        skip = -start % alignment
        pcm = b"".join(pcm for _, pcm in self._chunks)[skip * BYTES_PER_SAMPLE :]
        return min(start + skip, self.end), pcm

    def since(self, position: int) -> bytes:
        """What is kept from `position` on, which lies within it."""
        if not self._chunks:
            return b""
        pcm = b"".join(pcm for _, pcm in self._chunks)
        return pcm[(position - self.start) * BYTES_PER_SAMPLE :]


class SampleLock:
    """Holds one session's output to its input: output sample k answers input sample k.

    It is sent once input sample k + `latency` has arrived; what is missing becomes silence in
    its exact place. `latency` is in samples at the client's rate and never changes, whoever
    performs: it is the largest of all that may.
    """

    def __init__(self, rate_hz: int, resampling: Resampling, *cards: Card) -> None:
        """`cards`: of the lead, and of the understudy if there is one; their rates agree."""
        self.rate_hz = rate_hz
        self.model_hz = next((card.sample_rate for card in cards if card.sample_rate), rate_hz)
        self._lookahead = max(card.latency + card.frame - 1 for card in cards)  # model's rate
        self._down: Resampler | None = None
        self._up: Resampler | None = None
        latency_s = self._lookahead / self.model_hz
        if rate_hz != self.model_hz:
            self._down = resampling(rate_hz, self.model_hz)
            self._up = resampling(self.model_hz, rate_hz)
            latency_s += self._down.shortfall_s + self._up.shortfall_s
        self.latency = math.ceil(latency_s * rate_hz - 1e-9)
        # An alignment more: the first multiple of it may lie that far into what is kept.
        self._context = max(
            math.ceil(card.context_s * self.model_hz) + card.alignment for card in cards
        )
        self.history = History()
        # A listener has heard up to here: what came later is kept for whoever listens next.
        self.listened: int | None = 0 if any(card.listens for card in cards) else None
        self.received = 0  # client samples in
        self.sent = 0  # client samples out
        self.silent_s = 0.0
        self.skipped_s = 0.0  # of silence that nobody was asked for
        self._rising = False  # a performer is heard again after that
        self._half = b""  # half a sample waiting for its other byte
        self._next = 0  # position of the next output sample, at the model's rate
        self._out = bytearray()  # output that may not leave yet
        # Unanswered input: (its end, when it came, when it was due at the pace of speech).
        self._due: deque[tuple[int, float, float]] = deque()
        self._began: float | None = None  # when the first sample came
        self._finishing = False
        self._crossing: Crossing | None = None
        self._queue_s: deque[float] = deque(maxlen=TIMINGS)
        self._step_s: deque[float] = deque(maxlen=TIMINGS)

    def fits(self, card: Card) -> bool:
        """Whether a model can perform here: at this rate, within this latency."""
        return (
            card.listens == (self.listened is not None)
            and card.sample_rate in (0, self.model_hz)
            and card.latency + card.frame - 1 <= self._lookahead
        )

    def feed(self, pcm: bytes, now: float) -> tuple[int, bytes]:
        """Takes input; returns (position, PCM) at the model's rate for the worker, maybe empty."""
        if self._half or len(pcm) % BYTES_PER_SAMPLE:
            pcm = self._half + pcm
            whole = len(pcm) - len(pcm) % BYTES_PER_SAMPLE
            self._half, pcm = pcm[whole:], pcm[:whole]
        self.received += len(pcm) // BYTES_PER_SAMPLE
        return self._enter(pcm, now)

    def finish(self, now: float) -> tuple[int, bytes]:
        """No more input: returns the silence that pushes the last samples out of the model."""
        self._finishing = True
        # One frame more than the latency: the model's frames need not end where the input did.
        tail_s = self.latency / self.rate_hz + (self._lookahead + 1) / self.model_hz
        return self._enter(bytes(math.ceil(tail_s * self.rate_hz) * BYTES_PER_SAMPLE), now)

    def _enter(self, pcm: bytes, now: float) -> tuple[int, bytes]:
        if self._down is not None:
            pcm = self._down.push(pcm)
        position = self.history.end
        if pcm:
            if self._began is None:
                self._began = now
            # A client may run ahead; that is no lateness of the engine's.
            due = max(now, self._began + position / self.model_hz)
            # What is unanswered, and the context before it: enough for any worker to go on.
            self.history.append(pcm, self._horizon())
            self._due.append((self.history.end, now, due))
        return position, pcm

    def _horizon(self) -> int:
        """Input before this position is needed no more."""
        if self.listened is None:
            return self._next - self._context
        late = self.history.end - round(LATE_S * self.model_hz)
        return max(late, min(self.listened, self._next)) - self._context

    def context(self, card: Card) -> tuple[int, bytes]:
        """(position, PCM) that a fresh worker needs to go on where the last one stopped."""
        return self.history.kept(card.alignment)

    def answer(self, position: int, pcm: bytes | memoryview, step_s: float, now: float) -> None:
        """Takes output of who performs; what was sent already, or given up, is ignored."""
        if self.listened is not None:
            self.listened = max(self.listened, position + len(pcm) // BYTES_PER_SAMPLE)
        if self._crossing is not None and self._crossing.begun:
            self._crossing.old.put(position, pcm)
            self._cross(step_s, now)
            return
        ahead = position - self._next
        if ahead < 0:
            pcm = pcm[-ahead * BYTES_PER_SAMPLE :]
        elif ahead:
            self._silence(position)
        self._sound(pcm, step_s, now)

    # a move: join, until `crossing` is false; or leave, or part

    def meet(self) -> None:
        """Another worker is being primed, to perform soon."""
        self._crossing = Crossing(self.model_hz)

    @property
    def crossing(self) -> bool:
        return self._crossing is not None

    def join(
        self, position: int, pcm: bytes | memoryview, card: Card, step_s: float, now: float
    ) -> None:
        """Takes output of the newcomer, whose card is given."""
        assert self._crossing is not None
        end = position + len(pcm) // BYTES_PER_SAMPLE
        unanswered = self.history.end - (end + card.latency + card.frame - 1)
        self._crossing.join(position, pcm, self._next, unanswered)
        if self._crossing.begun:
            self._cross(step_s, now)

    def leave(self, now: float) -> None:
        """Who performed is gone: the newcomer is heard from here on."""
        if self._crossing is not None:
            run, self._crossing = self._crossing.new, None
            if run.pcm:
                self.answer(run.start, bytes(run.pcm), 0.0, now)

    def part(self, now: float) -> None:
        """The newcomer is gone: who performed goes on."""
        if self._crossing is not None:
            run, self._crossing = self._crossing.old, None
            if run.pcm:
                self.answer(run.start, bytes(run.pcm), 0.0, now)

    @property
    def fading(self) -> bool:
        """Whether what is heard waits for both performers."""
        return self._crossing is not None and self._crossing.begun

    @property
    def newcomer_is_ahead(self) -> bool:
        crossing = self._crossing
        return crossing is not None and crossing.begun and crossing.new.end > crossing.old.end

    def _cross(self, step_s: float, now: float) -> None:
        assert self._crossing is not None
        self._sound(self._crossing.take(), step_s, now)
        if self._crossing.over:
            self._crossing = None

    def _sound(self, pcm: bytes | memoryview, step_s: float, now: float) -> None:
        if not pcm:
            return
        self._next += len(pcm) // BYTES_PER_SAMPLE
        if self._rising:
            self._rising = False
            pcm = risen(pcm, round(RISE_S * self.model_hz))
        self._leave(pcm)
        came = None
        while self._due and self._due[0][0] - self._lookahead <= self._next:
            came = self._due.popleft()[1]
        if came is not None:
            self._step_s.append(step_s)
            self._queue_s.append(max(0.0, now - came - step_s))

    @property
    def answered(self) -> int:
        """Position of the next output sample, at the model's rate."""
        return self._next

    def pass_over(self, sent: int) -> None:
        """Nobody is asked for the answers to input from position `sent` on: silence in their
        place, up to now. What was asked for before that is waited for."""
        until = self.history.end - self._lookahead
        if self._next < sent - self._lookahead or until <= self._next:
            return
        samples = until - self._next
        self.skipped_s += samples / self.model_hz
        self._next = until
        self._rising = True
        self._leave(bytes(samples * BYTES_PER_SAMPLE))
        while self._due and self._due[0][0] - self._lookahead <= self._next:
            self._due.popleft()

    def is_overdue(self, now: float) -> bool:
        return bool(self._due) and now - self._due[0][2] > OVERDUE_S

    def give_up(self, now: float) -> int | None:
        """Puts silence where an answer is overdue.

        Returns the input position that the worker should go on from, or None: nothing is overdue.
        """
        if not self.is_overdue(now):
            return None
        assert self._crossing is None or not self._crossing.begun, "leave or part first"
        end = self._due[0][0]
        while self._due and now - self._due[0][2] > CAUGHT_UP_S:
            end = self._due.popleft()[0]
        self._silence(max(self._next, end - self._lookahead))
        if self.listened is not None:  # labels may come late, so nothing is skipped for long
            return max(0, self.history.end - round(LATE_S * self.model_hz))
        return end

    def abandon(self) -> None:
        """No worker will answer any more: silence for all that is left to send."""
        self._crossing = None
        missing = self.received - self.sent - len(self._out) // BYTES_PER_SAMPLE
        self._due.clear()
        self.silent_s += max(0, missing) / self.rate_hz
        self._out += bytes(max(0, missing) * BYTES_PER_SAMPLE)

    def _silence(self, until: int) -> None:
        samples = until - self._next
        self.silent_s += samples / self.model_hz
        self._next = until
        self._leave(bytes(samples * BYTES_PER_SAMPLE))

    def _leave(self, pcm: bytes | memoryview) -> None:
        self._out += pcm if self._up is None else self._up.push(bytes(pcm))

    def take(self) -> bytes:
        """What may be sent to the client now (whole samples, maybe none)."""
        latency = 0 if self._finishing else self.latency
        allowed = (self.received - latency - self.sent) * BYTES_PER_SAMPLE
        if allowed <= 0 or not self._out:
            return b""
        pcm = bytes(self._out[:allowed])
        del self._out[:allowed]
        self.sent += len(pcm) // BYTES_PER_SAMPLE
        return pcm

    @property
    def done(self) -> bool:
        return self._finishing and self.sent >= self.received

    @property
    def heard(self) -> int:
        """Samples sent that a voice performed: what accounting counts."""
        return max(0, self.sent - round((self.silent_s + self.skipped_s) * self.rate_hz))

    def timings(self) -> tuple[Spread | None, Spread | None]:
        """(queue, engine) over the last answers, ms."""
        return _spread(self._queue_s), _spread(self._step_s)


def _spread(seconds: deque[float]) -> Spread | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return Spread(
        p50=round(ordered[round(0.50 * last)] * 1e3, 3),
        p95=round(ordered[round(0.95 * last)] * 1e3, 3),
    )
