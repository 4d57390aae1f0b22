"""What a listener hears of a stream that was hit: which samples are missing, and for how long.

The listener plays sample k at began + k / rate + one chunk + the stream's median delay + MARGIN_S,
and does not wait for what is late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.bench.server import CHUNK, RATE_HZ, Pcm, Speaker
from understudy.core import wire

MARGIN_S: Final = 0.060  # how long the listener keeps audio before it plays it


@dataclass(slots=True)
class Hit:
    """A worker that was killed or frozen, and where its sessions' streams were."""

    at_s: float
    worker: str
    cover: bool  # it was the understudy's
    heard: dict[int, int]  # user -> samples that had been heard


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one user heard of one hit."""

    by: str  # "free slot", "understudy"; "... of an understudy" where that was hit
    missed_s: float  # zero or too late
    zero_s: float
    stall_s: float
    sounds_s: float  # from the hit to the end of the longest time without a sound after it
    to_live_s: float
    to_lead_s: float | None


def never_zero(pcm: Pcm) -> Pcm:
    """Speech in which each zero that is heard is silence in place of audio."""
    spoken = pcm.copy()
    spoken[spoken == 0] = 1
    return spoken


def _places(speaker: Speaker) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each piece of audio that came: its first sample, and the one after its last."""
    ends = np.array([end for _, end in speaker.arrivals], np.int64)
    return np.concatenate([[0], ends[:-1]]), ends


def lateness_s(speaker: Speaker) -> NDArray[np.float64]:
    """Of each piece of audio that came: how much later than the median its first sample was,
    against when this client sent what that answers."""
    starts, _ = _places(speaker)
    sent = np.array(speaker.late_s)  # of each chunk: how late it was sent
    chunks = np.minimum(starts // CHUNK, len(sent) - 1)
    due_s = (chunks + 1) * CHUNK / RATE_HZ + sent[chunks]
    delays_s = np.array([at_s for at_s, _ in speaker.arrivals]) - speaker.began_s - due_s
    found: NDArray[np.float64] = delays_s - np.median(delays_s)
    return found


def missing(speaker: Speaker, late_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which samples the listener did not hear: they are zero, or came after their time."""
    missed: NDArray[np.bool_] = speaker.heard_pcm == 0
    starts, ends = _places(speaker)
    for at in np.flatnonzero(late_s > MARGIN_S):
        # Much may come at once: each sample has a time of its own, and the last ones are in time.
        start, end = int(starts[at]), int(ends[at])
        until = start // CHUNK * CHUNK + round((late_s[at] - MARGIN_S) * RATE_HZ)
        missed[start : max(start, min(end, until))] = True
    return missed


def outcome_of(
    speaker: Speaker,
    hit: Hit,
    zero: NDArray[np.bool_],
    missed: NDArray[np.bool_],
    late_s: NDArray[np.float64],
    start: int,
    end: int,
) -> Outcome | None:
    """None: the session had moved a moment before, and the worker was not its any more."""
    lives = [told for told in speaker.lives() if told.at_s >= hit.at_s]
    leads = [told for told in speaker.lives("lead") if told.at_s >= hit.at_s]
    if not lives or lives[0].heard > end + RATE_HZ:
        if not missed[start:end].any():
            return None
        to_live_s, by = float("inf"), "nobody"
    else:
        role = lives[0].event.role if isinstance(lives[0].event, wire.Live) else ""
        to_live_s = lives[0].at_s - hit.at_s
        by = "understudy" if role == "understudy" else "free slot"
        by += ", for a killed understudy" if hit.cover else ""
    _, ends = _places(speaker)
    first, last = np.searchsorted(ends, (start, end), side="right")
    # When sounds came, from just before the hit on.
    sounding = [hit.at_s]
    for at in range(int(first), int(last)):
        if not zero[ends[at - 1] if at else 0 : ends[at]].all():
            sounding.append(speaker.arrivals[at][0])
    gaps = np.diff(sounding)
    sounds_s = 0.0  # the listener has heard it all
    if not len(gaps):
        sounds_s = float("inf")
    elif gaps.max() > MARGIN_S:
        sounds_s = sounding[int(gaps.argmax()) + 1] - hit.at_s
    return Outcome(
        by=by,
        missed_s=float(missed[start:end].sum()) / RATE_HZ,
        zero_s=float(zero[start:end].sum()) / RATE_HZ,
        stall_s=max(0.0, float(late_s[first:last].max(initial=0.0))),
        sounds_s=sounds_s,
        to_live_s=to_live_s,
        to_lead_s=leads[0].at_s - hit.at_s if leads else None,
    )
