"""The ledger: what each user heard, as intervals that only grow; accounting adds them up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LONGEST_S: Final = 60.0  # of an interval, so that a day's or an hour's use adds up right


class Role(StrEnum):
    LEAD = "lead"
    UNDERSTUDY = "understudy"


@dataclass(frozen=True, slots=True)
class Interval:
    """What one worker performed for one session, `samples` at `rate_hz`; gaps do not count.

    Named by (session, seq). It is written again as it grows; the larger count is the true one,
    so a write may be late, repeated or out of order.
    """

    session: str
    seq: int
    user: str
    voice: str
    model: str
    worker: str
    region: str
    role: Role
    rate_hz: int
    samples: int
    at_s: float  # Unix time of the last count

    @property
    def seconds(self) -> float:
        return self.samples / self.rate_hz


@dataclass(frozen=True, slots=True)
class Use:
    """What one user heard of one voice, in seconds."""

    user: str
    voice: str
    sessions: int
    lead_s: float
    understudy_s: float


class Meter:
    """Cuts one connection's heard samples into intervals: one a performer and minute."""

    def __init__(self, rate_hz: int, first_seq: int = 0) -> None:
        self.rate_hz = rate_hz
        self.next_seq = first_seq
        self._base = 0  # samples heard when the current interval began
        self._written = -1  # samples of the current interval that were last handed out

    def performer(self, heard: int) -> None:
        """A new worker performs from here on."""
        if heard > self._base:
            self.next_seq += 1
        self._base = heard
        self._written = -1

    def take(self, heard: int) -> tuple[int, int] | None:
        """(seq, samples) of the current interval if it has grown since the last call."""
        samples = heard - self._base
        if samples <= 0 or samples == self._written:
            return None
        self._written = samples
        taken = self.next_seq, samples
        if samples >= LONGEST_S * self.rate_hz:
            self.performer(heard)
        return taken


def add_up(intervals: Iterable[Interval]) -> list[Use]:
    """Intervals to what each user heard of each voice, ordered by user and voice."""
    totals: dict[tuple[str, str], tuple[set[str], dict[Role, float]]] = {}
    for interval in intervals:
        sessions, seconds = totals.setdefault((interval.user, interval.voice), (set(), {}))
        sessions.add(interval.session)
        seconds[interval.role] = seconds.get(interval.role, 0.0) + interval.seconds
    return [
        Use(
            user,
            voice,
            len(sessions),
            seconds.get(Role.LEAD, 0.0),
            seconds.get(Role.UNDERSTUDY, 0.0),
        )
        for (user, voice), (sessions, seconds) in sorted(totals.items())
    ]
