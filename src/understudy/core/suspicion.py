"""Whether a session kills its workers: nobody knows, but worker after worker may tell. Pure.

Where workers die one after the other as soon as they take a session, it is kept apart for a while,
so that those who shared them part company, then seated alone, and in the end stopped.
"""

from __future__ import annotations

import zlib
from typing import Final

QUICK_S: Final = 5.0  # a worker that dies so soon after it took a session speaks against it
TOGETHER_S: Final = 0.3  # who came within this of each other came together
FORGIVEN_S: Final = 60.0  # after so long without, deaths are forgotten
SUSPICIOUS: Final = 2  # deaths in a row
FATAL: Final = 5
APART_S: Final = 4.0


class Suspicion:
    """Of one session."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.deaths = 0  # in a row
        self._died_s = 0.0
        self._apart_until_s: float | None = None

    def died(self, now: float, opened_s: float | None, newest_s: float) -> None:
        """Its worker has. `opened_s`: since when that had the session, if it had; `newest_s`: since
        when it had the session that came last."""
        if opened_s is not None and opened_s < newest_s - TOGETHER_S:
            return  # it went well until somebody else came
        if now - self._died_s > FORGIVEN_S:
            self.deaths = 0
        self._died_s = now
        quick = opened_s is None or now - opened_s < QUICK_S
        self.deaths = self.deaths + 1 if quick else 0
        if self.suspicious:
            # Each session for a time of its own: they are to come back one by one.
            share = zlib.crc32(f"{self._name}{self.deaths}".encode()) % 1000 / 1000
            self._apart_until_s = now + APART_S * (0.25 + share)

    @property
    def suspicious(self) -> bool:
        """It should have a worker of its own."""
        return self.deaths >= SUSPICIOUS

    @property
    def fatal(self) -> bool:
        """It is to be stopped."""
        return self.deaths >= FATAL

    @property
    def is_apart(self) -> bool:
        """No lead is to take it now."""
        return self._apart_until_s is not None

    def is_over(self, now: float) -> bool:
        """Whether the time apart has just passed."""
        over = self._apart_until_s is not None and now > self._apart_until_s
        if over:
            self._apart_until_s = None
        return over
