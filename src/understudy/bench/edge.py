"""The benchmark of the edge: how many 20 ms streams one core relays, beside nginx in the same run.

What is compared, each on the same core with the generator on another:

- direct: generator → picows echo server. No hop: the floor of every figure.
- nginx: generator → nginx → the same echo server. One worker process that copies bytes.
- edge: generator → `understudy up` → echo workers (no DSP) on the link. The edge
  reads and checks every message, holds each session's sample lock, and meters it.

Both proxies take part in two connections, the client's and the upstream's. nginx has an upstream
connection for each stream; the edge has one for each worker.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from understudy.bench.edge_servers import LINUX, Servers, busy_s, nginx_version, own_s
from understudy.bench.edge_streams import FRAME_BYTES, PERIOD_S, Generator, Measured

MAX_P99_MS: Final = 5.0
MIN_SHARE_OF_NGINX: Final = 0.5
MAX_ADDED_P99_MS: Final = 2.0
WORKERS: Final = 4
SLOTS: Final = 256
FULL_CORE: Final = 0.85  # from here on a core is called full


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often things are measured."""

    warm_s: float
    window_s: float
    windows: int  # a step passes if one of them does: others' work only ever adds delay
    rounds: int  # of the whole search; the best counts
    growth: float
    resolution: float  # the search ends once it is known to this
    start: int
    one_stream_s: float
    one_stream_rounds: int
    load: int  # streams at which CPU is compared
    load_windows: int


FULL: Final = Effort(0.4, 2.0, 3, 2, 1.5, 0.06, 96, 4.0, 5, 120, 3)
QUICK: Final = Effort(0.2, 0.8, 2, 1, 2.0, 0.25, 64, 1.5, 2, 60, 1)

Say = Callable[[str], None]


def run(
    audio: Path | None, *, quick: bool = False, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Measures the edge, nginx where it is installed, and no proxy. `audio` is not used: what
    the frames hold makes no difference to a relay."""
    effort = QUICK if quick else FULL
    say = progress or (lambda words: None)
    began, busy, own = time.perf_counter(), busy_s(), own_s()
    with Servers() as servers:
        say("starting an echo server, nginx and an edge with its workers")
        echo = servers.echo()
        nginx = servers.nginx(echo)
        targets = [echo, *([nginx] if nginx else []), servers.edge(WORKERS, SLOTS)]
        generators = {target.name: Generator(target) for target in targets}
        if nginx is None:
            say("nginx is not installed: no comparison")
        one_stream = _one_stream(generators, effort, say)
        same_load = _same_load(generators, effort, say)
        most = _most_streams(generators, effort, say)
    setup = {
        "what": " ".join((__doc__ or "").split()),
        "note": _note(servers.cores.apart),
        "cores": asdict(servers.cores),
        "frame_bytes": FRAME_BYTES,
        "frames_per_s_each_way": round(1 / PERIOD_S),
        "workers": WORKERS,
        "slots_per_worker": SLOTS,
        "nginx": nginx_version(),
        "cpu_of_other_programs": _others(began, busy, own),
    }
    return {
        "quick": quick,
        "setup": setup,
        "one_stream": one_stream,
        "same_load": same_load,
        "most_streams": most,
        "targets": _targets(one_stream, most),
    }


def _note(apart: bool) -> str:
    if apart:
        return "the proxy under test has a core to itself; generator and echoes run on others"
    where = "this machine has one core" if LINUX else "this system does not pin processes"
    return f"{where}: proxy and generator compete for CPU, so the figures are rough"


def _one_stream(
    generators: Mapping[str, Generator], effort: Effort, say: Say
) -> dict[str, dict[str, float | None]]:
    """Round trips of a single stream: medians over the rounds, which take turns."""
    say("one stream")
    rounds: dict[str, list[Measured]] = {name: [] for name in generators}
    for _ in range(effort.one_stream_rounds):
        for name, generator in generators.items():
            generator.resize(1)
            rounds[name].append(generator.measure(effort.warm_s, effort.one_stream_s))
    for generator in generators.values():
        generator.resize(0)
    return {
        name: {
            "p50_ms": _median([one.p50_ms for one in measured]),
            "p95_ms": _median([one.p95_ms for one in measured]),
            "p99_ms": _median([one.p99_ms for one in measured]),
            "added_p50_ms": _added(measured, rounds["direct"], lambda one: one.p50_ms),
            "added_p99_ms": _added(measured, rounds["direct"], lambda one: one.p99_ms),
        }
        for name, measured in rounds.items()
    }


def _added(
    measured: Sequence[Measured],
    direct: Sequence[Measured],
    pick: Callable[[Measured], float | None],
) -> float | None:
    """The median, over the rounds, of what a hop adds to no hop."""
    pairs = [(pick(one), pick(none)) for one, none in zip(measured, direct, strict=True)]
    return _median([a - b for a, b in pairs if a is not None and b is not None])


def _same_load(
    generators: Mapping[str, Generator], effort: Effort, say: Say
) -> dict[str, dict[str, float | None]]:
    """CPU at a load that all carry easily: steadier on a busy machine than any latency."""
    say(f"{effort.load} streams")
    windows: dict[str, list[Measured]] = {name: [] for name in generators}
    for _ in range(effort.load_windows):
        for name, generator in generators.items():
            generator.resize(effort.load)
            windows[name].append(generator.measure(effort.warm_s, effort.window_s))
            generator.resize(0)
    trips_per_s = effort.load / PERIOD_S
    return {
        name: {
            "streams": effort.load,
            "p99_ms": _median([one.p99_ms for one in measured]),
            **{
                f"{role}_cpu_us_per_round_trip": _median(
                    [one.cpu[role] / trips_per_s * 1e6 for one in measured if role in one.cpu]
                )
                for role in ("proxy", "workers", "generator")
            },
        }
        for name, measured in windows.items()
    }


def _most_streams(
    generators: Mapping[str, Generator], effort: Effort, say: Say
) -> dict[str, dict[str, Any]]:
    """The most streams at p99 <= MAX_P99_MS: the best of the rounds, in which all take turns."""
    found: dict[str, list[Measured | None]] = {name: [] for name in generators}
    steps: dict[str, list[Measured]] = {name: [] for name in generators}
    for _ in range(effort.rounds):
        for name, generator in generators.items():
            before = max((one.streams for one in found[name] if one), default=0)
            start = round(before * 0.8) or effort.start
            found[name].append(_search(generator, start, effort, steps[name], say))
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
    generator: Generator, start: int, effort: Effort, steps: list[Measured], say: Say
) -> Measured | None:
    """Grows until a step fails, then closes in from both sides."""
    best: Measured | None = None
    streams, failed = start, WORKERS * SLOTS + 1
    while True:
        measured = _step(generator, streams, effort)
        steps.append(measured)
        passed = measured.p99_ms is not None and measured.p99_ms <= MAX_P99_MS
        shown = "overrun" if measured.p99_ms is None else f"p99 {measured.p99_ms:.1f} ms"
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


def _step(generator: Generator, streams: int, effort: Effort) -> Measured:
    """The best of a few windows."""
    best: Measured | None = None
    for _ in range(effort.windows):
        generator.resize(streams)
        measured = generator.measure(effort.warm_s, effort.window_s)
        if measured.p99_ms is None:
            best = best or measured
            continue
        if best is None or best.p99_ms is None or measured.p99_ms < best.p99_ms:
            best = measured
        if measured.p99_ms <= MAX_P99_MS or measured.p99_ms > 10 * MAX_P99_MS:
            break
    assert best is not None
    return best


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


def _others(began: float, busy: float | None, own: float) -> float | None:
    """How many cores other programs used since, of those that we may use."""
    now = busy_s()
    if busy is None or now is None:
        return None
    return round(max(0.0, now - busy - (own_s() - own)) / (time.perf_counter() - began), 2)


def _targets(
    one_stream: Mapping[str, Mapping[str, float | None]], most: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    added = one_stream["edge"]["added_p99_ms"]
    share = None
    if most.get("nginx", {}).get("streams"):
        share = round(most["edge"]["streams"] / most["nginx"]["streams"], 2)
    return [
        {
            "name": f"streams a core at p99 <= {MAX_P99_MS:g} ms, as a share of nginx's",
            "value": share,
            "target": f">= {MIN_SHARE_OF_NGINX:g}",
            "met": None if share is None else share >= MIN_SHARE_OF_NGINX,
        },
        {
            "name": "p99 that the edge adds at one stream, ms",
            "value": added,
            "target": f"< {MAX_ADDED_P99_MS:g}",
            "met": None if added is None else added < MAX_ADDED_P99_MS,
        },
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None


def table(result: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{'':8}{'one stream, ms':>22}{'added p99':>11}"
        f"{'CPU µs a round trip':>21}{'most streams':>14}",
    ]
    for name, one in result["one_stream"].items():
        load, most = result["same_load"][name], result["most_streams"][name]
        lines.append(
            f"{name:8}{'p50 ' + _shown(one['p50_ms']) + '  p99 ' + _shown(one['p99_ms']):>22}"
            f"{_shown(one['added_p99_ms']):>11}"
            f"{_shown(load['proxy_cpu_us_per_round_trip'], 1):>21}{most['streams']:>14}"
        )
    lines += ["", *(f"{name}: {one['limit']}" for name, one in result["most_streams"].items())]
    lines += ["", result["setup"]["note"]]
    if (others := result["setup"]["cpu_of_other_programs"]) is not None:
        lines.append(f"other programs used {others:.0%} of a core meanwhile")
    for target in result["targets"]:
        verdict = {True: "met", False: "NOT met", None: "not known"}[target["met"]]
        lines.append(f"{target['name']}: {target['value']} (target {target['target']}): {verdict}")
    return "\n".join(lines)


def _shown(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
