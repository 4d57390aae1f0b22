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
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from understudy.bench.edge_processes import LINUX, busy_s, own_s
from understudy.bench.edge_search import (
    FULL,
    MAX_P99_MS,
    QUICK,
    SLOTS,
    WORKERS,
    Effort,
    most_streams,
)
from understudy.bench.edge_servers import Servers, nginx_version
from understudy.bench.edge_streams import FRAME_BYTES, PERIOD_S, Generator, Measured
from understudy.bench.machine import cores

MIN_SHARE_OF_NGINX: Final = 0.5
MAX_ADDED_P99_MS: Final = 2.0
DISTURBED: Final = 0.3  # of a core used by other programs: above, latencies are theirs

Say = Callable[[str], None]


def run(
    audio: Path | None, *, quick: bool = False, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Measures the edge, nginx where it is installed, and no proxy. `audio` is not used: what
    the frames hold makes no difference to a relay."""
    effort = QUICK if quick else FULL
    say = progress or (lambda words: None)
    began, busy, own = time.perf_counter(), busy_s(cores()), own_s()
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
        most = most_streams(generators, effort, began, say)
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


def _others(began: float, busy: float | None, own: float) -> float | None:
    """How many cores other programs used since, of those that we may use."""
    now = busy_s(cores())
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
        if others > DISTURBED:
            lines.append("that is too much: run it again on a quiet machine")
    for target in result["targets"]:
        verdict = {True: "met", False: "NOT met", None: "not known"}[target["met"]]
        lines.append(f"{target['name']}: {target['value']} (target {target['target']}): {verdict}")
    return "\n".join(lines)


def _shown(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
