"""What is heard when workers freeze: SIGSTOP, under live users; see bench/crash.py for the fleet,
the users and the figures that both have.

- to sound: from the SIGSTOP to the end of the longest time without a sound that its session had in
  the 5 s after it. An edge may find a frozen worker by its silence only.
- to live: to the first `live` after it, which tells who performs instead.
- silence heard counts as for a crash, so it is the length of the hole in the speech.
- a frozen worker's process must not stay: `left behind` are those that still run at the end of a
  round, although the fleet no longer knows them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from understudy.bench import crash
from understudy.bench.crash import Effort
from understudy.bench.server import figure, load_average

SOUND_MS: Final = 1000.0

FULL: Final = Effort(voices=8, users=5, kills=12, rounds=1, pause_s=6.5, settle_s=3.0)
QUICK: Final = Effort(
    voices=1, users=3, kills=1, rounds=1, pause_s=0.5, settle_s=0.1, stretch_s=2.0
)

table = crash.table


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met."""
    effort = QUICK if quick else FULL
    before = load_average()
    rounds = crash.measure(audio, effort, signal.SIGSTOP, progress or (lambda _line: None))
    found = crash.summary(rounds)
    figures = [
        figure("freezes", found["hits"], at_least=effort.kills),
        figure("... of a session that it performed", found["outcomes"]["count"]),
        *crash.figures_of_sessions(found),
        figure("workers that live, taken for dead", max(0, found["given_up"] - found["hits"]),
               at_most=0),
    ]  # fmt: skip
    for share in ("p50", "p95", "max"):
        at_most = SOUND_MS if share == "max" else None
        sounds = found["outcomes"]["sounds_ms"][share]
        figures.append(figure(f"freeze to sound, {share}", sounds, "ms", at_most=at_most))
    for by, one in found["by"].items():
        figures += [
            figure(f"{by}: recoveries", one["count"]),
            figure(f"{by}: freeze to sound, p95", one["sounds_ms"]["p95"], "ms"),
            figure(f"{by}: freeze to live, p95", one["to_live_ms"]["p95"], "ms"),
            figure(f"{by}: freeze to lead, p95", one["to_lead_ms"]["p95"], "ms"),
            figure(f"{by}: silence heard, p95", one["missed_ms"]["p95"], "ms"),
        ]
    return crash.result("freeze", __doc__, audio, quick, before, effort, found, figures)
