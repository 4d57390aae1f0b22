"""Finds the worker that answers, but too late. Pure: time and figures are passed in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

WINDOW_S: Final = 3.0
SHARE: Final = 0.4  # of a window that users did not hear: too much
APART_S: Final = 10.0  # between two verdicts: a slow moment of our own must not empty the fleet


class Hearing(NamedTuple):
    """What one session has missed so far of the worker that performs it."""

    worker: str
    session: str
    silent_s: float


class Watch:
    """Compares each worker's sessions with how they were a window ago."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._then: dict[tuple[str, str], float] = {}
        self._last_s: float | None = None

    def look(self, now: float, hearings: Iterable[Hearing]) -> str | None:
        """The worker to be emptied, if there is one: all of its sessions miss much, while those
        of some other worker do not, so that it is neither us nor the network."""
        if self._since_s is not None and now - self._since_s < WINDOW_S:
            return None
        hearings = list(hearings)
        before, since_s = self._then, self._since_s
        self._then = {(h.worker, h.session): h.silent_s for h in hearings}
        self._since_s = now
        if since_s is None or now - since_s > 2 * WINDOW_S:  # we were away ourselves
            return None
        least: dict[str, float] = {}  # what the luckiest session of each worker missed
        for hearing in hearings:
            was_s = before.get((hearing.worker, hearing.session))
            if was_s is not None:
                share = (hearing.silent_s - was_s) / (now - since_s)
                least[hearing.worker] = min(share, least.get(hearing.worker, share))
        slow = [worker for worker, share in least.items() if share > SHARE]
        well = any(share < SHARE / 4 for share in least.values())
        if len(slow) != 1 or not well or (self._last_s or -APART_S) + APART_S > now:
            return None
        self._last_s = now
        return slow[0]
