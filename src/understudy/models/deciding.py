"""From a listener's scores, frame by frame, to labels: few, once each, and the same after a move.

A decision depends on the last seconds only. A fresh slot says nothing of its first frames, and
does not know what held before: so one that was primed with enough input decides as one that
stayed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple, Protocol

from understudy.core.wire import Control
from understudy.lab.frontend import Floats

SETTLE: Final = 20  # frames of a fresh slot that nothing is said of
SMOOTH: Final = 3  # frames that a score is the mean of
HYSTERESIS: Final = 0.15  # what has begun ends that far below the threshold
MEMORY_S: Final = 2.5  # what went before does not count

Numbers = Mapping[str, float]


class Decided(NamedTuple):
    """`start` and `at` in frames since the slot was opened: the frame that it is about, and the
    number of frames that were heard when it was decided."""

    start: int
    at: int
    label: int
    score: float


class Deciding(Protocol):
    """One slot's decisions."""

    heard: int  # frames so far

    def hear(self, scores: Floats, numbers: Numbers) -> list[Decided]:
        """scores [frames, labels] of the next frames; `numbers`: the controls."""
        ...


@dataclass(slots=True)
class Changes:
    """What holds now, with hysteresis: for scores of every frame, such as voice activity.

    A foreground label begins when its smoothed score reaches `threshold`, from where it rose. The
    background begins when no foreground score has come near that for `hold` ms, from where it
    fell.
    """

    foreground: Sequence[int]
    background: int
    frame_ms: float
    heard: int = 0  # frames
    _last: deque[list[float]] = field(default_factory=lambda: deque(maxlen=SMOOTH))
    _now: int | None = None  # the label that holds, if that is known
    _rose: int = 0  # since this frame some foreground score is high ...
    _fell: int = 0  # ... and since this one none is

    CONTROLS: ClassVar[Mapping[str, Control]] = {
        "threshold": Control(0.05, 0.95, 0.5, ""),
        "hold": Control(0.0, 1000.0, 200.0, "ms"),
    }

    def hear(self, scores: Floats, numbers: Numbers) -> list[Decided]:
        threshold = numbers["threshold"]
        low = max(threshold - HYSTERESIS, threshold / 2)
        hold = max(1, round(numbers["hold"] / self.frame_ms))
        decided = []
        for frame in scores.tolist():
            self._last.append(frame)
            self.heard += 1
            smooth = [sum(label) / len(self._last) for label in zip(*self._last, strict=True)]
            score, best = max((smooth[label], label) for label in self.foreground)
            if score >= low:
                self._fell = self.heard
            else:
                self._rose = self.heard
            if self.heard < SETTLE:
                continue
            if score >= threshold and self._now != best:
                self._now = best
                start = max(0, self._rose - SMOOTH + 1)
                decided.append(Decided(start, self.heard, best, score))
            elif self.heard - self._fell >= hold and self._now != self.background:
                self._now = self.background
                decided.append(Decided(self._fell, self.heard, self.background, 1 - score))
        return decided


@dataclass(slots=True)
class Moments:
    """What was said just now: for scores of a sliding window, such as keywords.

    A foreground label is said when its smoothed score reaches `threshold`, no label was in the
    last `pause` ms, and its score has been low since it was said last (G. Chen, C. Parada and
    G. Heigold, ICASSP 2014, with re-arming).
    """

    foreground: Sequence[int]
    window: int  # frames that a score is about
    frame_ms: float
    heard: int = 0
    _last: deque[list[float]] = field(default_factory=lambda: deque(maxlen=SMOOTH))
    _armed: set[int] = field(default_factory=set)
    _said: int = -1_000_000  # at this frame

    CONTROLS: ClassVar[Mapping[str, Control]] = {
        "threshold": Control(0.05, 0.99, 0.7, ""),
        "pause": Control(0.0, 2000.0, 700.0, "ms"),
    }

    def hear(self, scores: Floats, numbers: Numbers) -> list[Decided]:
        threshold = numbers["threshold"]
        low = max(threshold - HYSTERESIS, threshold / 2)
        pause = round(numbers["pause"] / self.frame_ms)
        decided = []
        for frame in scores.tolist():
            self._last.append(frame)
            self.heard += 1
            smooth = [sum(label) / len(self._last) for label in zip(*self._last, strict=True)]
            self._armed.update(label for label in self.foreground if smooth[label] < low)
            best = smooth.index(max(smooth))
            ready = self.heard >= SETTLE and self.heard - self._said >= pause
            if ready and best in self._armed and smooth[best] >= threshold:
                self._armed.discard(best)
                self._said = self.heard
                start = max(0, self.heard - self.window)
                decided.append(Decided(start, self.heard, best, smooth[best]))
        return decided
