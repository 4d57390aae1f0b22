"""Two performers of one session for a moment: from the old one's samples to the new one's."""

from __future__ import annotations

import math
import struct
from typing import Final

from understudy.core.wire import BYTES_PER_SAMPLE

FADE_S: Final = 0.010
IN_STEP_S: Final = 0.040  # of input that a newcomer may still have to answer when the fade begins


class Run:
    """Contiguous samples from position `start` on (if None, from the first that are put); a hole
    is filled with silence."""

    def __init__(self, start: int | None = None) -> None:
        self._anywhere = start is None
        self.start = start or 0
        self.pcm = bytearray()

    @property
    def end(self) -> int:
        return self.start + len(self.pcm) // BYTES_PER_SAMPLE

    def put(self, position: int, pcm: bytes | memoryview) -> None:
        if self._anywhere:
            self._anywhere, self.start = False, position
        hole = position - self.end
        if hole > 0:
            self.pcm += bytes(hole * BYTES_PER_SAMPLE)
        self.pcm += pcm[max(0, -hole) * BYTES_PER_SAMPLE :]

    def trim(self, start: int) -> None:
        """Forgets what lies before `start`."""
        if start > self.start:
            del self.pcm[: (start - self.start) * BYTES_PER_SAMPLE]
            self.start = start

    def take(self, samples: int) -> bytes:
        taken = bytes(self.pcm[: samples * BYTES_PER_SAMPLE])
        self.trim(self.start + samples)
        return taken


class Crossing:
    """Gathers what both say until they overlap, then fades from one to the other.

    The weights add up to one (a raised cosine), so two performers that say the same, as two
    workers with one model do, are crossed without a trace.
    """

    def __init__(self, rate_hz: int) -> None:
        self._samples = max(1, round(FADE_S * rate_hz))
        self._in_step = round(IN_STEP_S * rate_hz)
        self._faded = 0
        self.old = Run()
        self.new = Run()
        self.begun = False

    @property
    def over(self) -> bool:
        return self._faded == self._samples

    def join(self, position: int, pcm: bytes | memoryview, sent: int, unanswered: int) -> None:
        """What the newcomer says. `sent`: the next position to be sent; `unanswered`: how many
        samples of input it has yet to answer. Once those are few, the old one is held at `sent`."""
        self.new.put(position, pcm)
        self.new.trim(sent)
        if not self.begun and unanswered <= self._in_step and self.new.start == sent:
            self.begun = True
            self.old = Run(sent)

    def take(self) -> bytes:
        """What can be sent by now; after the fade, all that the newcomer has said."""
        samples = min(self.old.end, self.new.end) - self.new.start
        samples = min(samples, self._samples - self._faded)
        mixed = b""
        if samples > 0:
            old = struct.unpack(f"<{samples}h", self.old.take(samples))
            new = struct.unpack(f"<{samples}h", self.new.take(samples))
            step = math.pi / (self._samples + 1)
            weights = [0.5 - 0.5 * math.cos(step * (self._faded + k + 1)) for k in range(samples)]
            mix = [round(a + (b - a) * w) for a, b, w in zip(old, new, weights, strict=True)]
            mixed = struct.pack(f"<{samples}h", *mix)
            self._faded += samples
        if self.over:
            mixed += self.new.take(self.new.end - self.new.start)
        return mixed


def risen(pcm: bytes | memoryview, samples: int) -> bytes:
    """int16 PCM whose first samples (so many, or all) come in from silence: a raised cosine."""
    count = min(samples, len(pcm) // BYTES_PER_SAMPLE)
    head = struct.unpack(f"<{count}h", pcm[: count * BYTES_PER_SAMPLE])
    step = math.pi / (count + 1)
    gained = [round(x * (0.5 - 0.5 * math.cos(step * (k + 1)))) for k, x in enumerate(head)]
    return struct.pack(f"<{count}h", *gained) + bytes(pcm[count * BYTES_PER_SAMPLE :])
