"""The search for the most streams that a target carries with a low enough p99."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from understudy.bench.edge_processes import LINUX
from understudy.bench.edge_streams import Generator, Measured

MAX_P99_MS: Final = 5.0
WORKERS: Final = 4
SLOTS: Final = 256
FULL_CORE: Final = 0.85  # from here on a core is called full
QUIET: Final = 0.10  # of a core used by other programs: below, a failure is our own

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often things are measured."""

    warm_s: float
    window_s: float
    windows: int  # a step passes if one of them does: what others do only ever adds delay
    disturbed: int  # more windows for a step that fails while other programs are busy
    rounds: int  # of the whole search; the best counts
    growth: float
    resolution: float  # the search ends once it is known to this
    start: int
    one_stream_s: float
    one_stream_rounds: int
    load: int  # streams at which CPU is compared
    load_windows: int
    budget_s: float  # past it, nothing is measured twice any more


FULL: Final = Effort(0.4, 1.6, 2, 6, 2, 1.5, 0.06, 96, 4.0, 5, 120, 3, 200.0)
QUICK: Final = Effort(0.2, 0.8, 2, 2, 1, 2.0, 0.25, 64, 1.5, 2, 60, 1, 35.0)


def most_streams(
    generators: Mapping[str, Generator], effort: Effort, began: float, say: Say
) -> dict[str, dict[str, Any]]:
    """The most streams at p99 <= MAX_P99_MS: the best of the rounds, in which all take turns."""
    found: dict[str, list[Measured | None]] = {name: [] for name in generators}
    steps: dict[str, list[Measured]] = {name: [] for name in generators}
    until = began + effort.budget_s
    for number in range(effort.rounds):
        if number and time.perf_counter() > until:
            break
        for name, generator in generators.items():
            before = max((one.streams for one in found[name] if one), default=0)
            start = round(before * 0.8) or effort.start
            found[name].append(_search(generator, start, effort, until, steps[name], say))
    most: dict[str, dict[str, Any]] = {}
    for name, results in found.items():
        best = max((one for one in results if one), key=lambda one: one.streams, default=None)
        most[name] = {
            "streams": best.streams if best else 0,
            "rounds": [one.streams if one else 0 for one in results],
            "at_best": asdict(best) if best else None,
            "limit": _limit(best),
            "steps": [(one.streams, one.p99_ms) for one in steps[name]],
        }
    return most


def _search(
    generator: Generator,
    start: int,
    effort: Effort,
    until: float,
    steps: list[Measured],
    say: Say,
) -> Measured | None:
    """Grows until a step fails, then closes in from both sides."""
    best: Measured | None = None
    streams, failed = start, WORKERS * SLOTS + 1
    while True:
        measured = _step(generator, streams, effort, until)
        steps.append(measured)
        passed = measured.p99_ms is not None and measured.p99_ms <= MAX_P99_MS
        shown = measured.overrun or f"p99 {measured.p99_ms:.1f} ms"
        say(f"{generator.target.name}: {streams} streams, {shown}")
        if passed:
            best = measured
        else:
            failed = streams
        least = best.streams if best else 0
        if failed - least <= max(1, effort.resolution * failed) or failed <= 4:
            break
        if failed > WORKERS * SLOTS:
            streams = min(round(streams * effort.growth), WORKERS * SLOTS)
        else:
            streams = (least + failed) // 2
    generator.resize(0)
    return best


def _step(generator: Generator, streams: int, effort: Effort, until: float) -> Measured:
    """The best of a few windows: of more where other programs were in the way."""
    best: Measured | None = None
    windows, disturbed = effort.windows, effort.disturbed
    while best is None or (windows and time.perf_counter() < until):
        generator.resize(streams)
        measured = generator.measure(effort.warm_s, effort.window_s)
        if disturbed and measured.cpu.get("others", 0.0) > QUIET:
            disturbed -= 1
        else:
            windows -= 1
        if best is None or _p99_ms(measured) < _p99_ms(best):
            best = measured
        if _p99_ms(best) <= MAX_P99_MS:
            break
    return best


def _p99_ms(measured: Measured) -> float:
    return math.inf if measured.p99_ms is None else measured.p99_ms


def _limit(best: Measured | None) -> str:
    """What was full at the last step that passed, so what a higher figure would need."""
    if best is None or not LINUX:
        return "unknown"
    if best.streams == WORKERS * SLOTS:
        return "the slots of this benchmark: the figure is a lower bound"
    if best.cpu.get("proxy", 0.0) >= FULL_CORE:
        return "the proxy's core"
    if best.cpu["workers"] + best.cpu["generator"] >= FULL_CORE:
        return "the core of generator and echoes: the figure is a lower bound"
    return "no core was full: latency, or other programs on this machine"
