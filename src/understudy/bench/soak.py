"""Whether anything grows: as many `mirror` sessions as this machine holds, for half an hour.

`understudy up` serves the mirror on always-on workers; streams of 20 ms frames at 24 kHz come from
generator processes of their own (bench/edge_streams.py): the delay of a frame is from when it was
sent to when the last byte of its echo was read. First a search finds the most streams at
p99 <= 20 ms: more by half until windows fail, then closing in, and at last a window of 30 s, with a
tenth less each time until one passes. These are held; each minute gives its p50 and p99, and the
memory (RSS) and open file descriptors of the server and its workers.

Generators, server and workers share the cores, so the number says what this machine holds with its
load on it, not what an edge can do (`bench edge` does). A stream pauses for some ms between two
minutes, while its generator counts. Growth is by least squares over the minutes after the first
two (a tenth of a short run), as caches fill and the allocator settles.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from understudy.bench.accounts import growth
from understudy.bench.edge_processes import children
from understudy.bench.server import (
    Server,
    all_met,
    as_table,
    figure,
    load_average,
    rss_mb,
    serving,
)
from understudy.bench.world import Say

P99_MS: Final = 20.0
GENERATORS: Final = 2
WORKERS: Final = 2
SLOTS: Final = 512
FLAT_MB_PER_MIN: Final = 0.2
FLAT_MS_PER_MIN: Final = 0.2
SMALLER: Final = 0.9
CONFIG: Final = """\
[models.mirror]
engine = "understudy.models.mirror:MirrorModel"
slots = {slots}
workers = {workers}

[voices.mirror]
model = "mirror"

[limits]
connections_per_address = 4000
connects_burst = 100000
"""


@dataclass(frozen=True, slots=True)
class Effort:
    minutes: float
    start: int
    window_s: float
    windows: int  # a step passes if one of them does
    confirm_s: float
    resolution: float
    most: int
    sample_s: float = 60.0


FULL: Final = Effort(30.0, 24, 4.0, 2, 30.0, 0.1, WORKERS * SLOTS)
QUICK: Final = Effort(0.1, 4, 1.0, 1, 1.0, 1.0, 4, sample_s=1.0)


class Load:
    """The generator processes."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "understudy.bench.soak_load", url]
        self._processes = [
            subprocess.Popen(
                [*command, f"soak-{number}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for number in range(GENERATORS)
        ]

    def resize(self, count: int) -> None:
        shares = [count // GENERATORS + (k < count % GENERATORS) for k in range(GENERATORS)]
        self._ask([f"resize {share}" for share in shares])

    def measure(self, seconds: float) -> dict[str, Any]:
        """Of the generators, the worst; `overrun`: why one could not go on."""
        answers = [a for a in self._ask([f"measure {seconds}"] * GENERATORS) if a["streams"]]
        overrun = next((a["overrun"] for a in answers if a["overrun"]), None)
        worst = {"overrun": overrun, "streams": sum(a["streams"] for a in answers)}
        for name in ("p50_ms", "p99_ms", "late_p99_ms"):
            worst[name] = None if overrun else max(a[name] for a in answers)
        return worst

    def _ask(self, commands: Sequence[str]) -> list[dict[str, Any]]:
        for process, command in zip(self._processes, commands, strict=True):
            assert process.stdin is not None
            process.stdin.write(command + "\n")
            process.stdin.flush()
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("a load generator has ended; its words are above")
            answers.append(json.loads(line))
        return answers

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Say | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met. `audio` is not used: the
    mirror's work is the same for all of it."""
    say = progress or (lambda _line: None)
    effort = QUICK if quick else FULL
    length_s = 60.0 * (minutes or effort.minutes)
    before = load_average()
    with serving(CONFIG.format(slots=SLOTS, workers=WORKERS)) as server:
        load = Load(f"{server.url.replace('http', 'ws', 1)}/v1/stream")
        try:
            steps, streams = _search(load, effort, say)
            say(f"{streams} streams for {length_s / 60:g} min")
            load.resize(streams)
            samples = _hold(server, load, length_s, effort, say)
        finally:
            load.close()
        tracebacks = server.log.count("Traceback")
    figures = _figures(samples, streams, length_s, tracebacks)
    return {
        "benchmark": "soak",
        "quick": quick,
        "what": " ".join((__doc__ or "").split()),
        "load_average": [before, load_average()],
        "setup": asdict(effort) | {"minutes": length_s / 60.0},
        "steps": steps,
        "streams": streams,
        "samples": samples,
        "figures": figures,
        "met": all_met(figures),
    }


def _search(load: Load, effort: Effort, say: Say) -> tuple[list[dict[str, Any]], int]:
    """The most streams that pass."""
    steps: list[dict[str, Any]] = []

    def passes(streams: int, seconds: float) -> bool:
        for _ in range(effort.windows):
            load.resize(streams)
            measured = load.measure(seconds)
            steps.append({"asked": streams, **measured})
            say(f"{streams} streams: {measured['overrun'] or measured['p99_ms']}")
            if measured["overrun"] is None and measured["p99_ms"] <= P99_MS:
                return True
        return False

    best, failed, streams = 0, effort.most + 1, effort.start
    while True:
        if passes(streams, effort.window_s):
            best = streams
        else:
            failed = streams
        if failed - best <= max(1, effort.resolution * failed):
            break
        grown = min(round(streams * 1.5), effort.most)
        streams = grown if failed > effort.most else (best + failed) // 2
        if streams == best:
            break
    best = max(best, 1)
    while best > 1 and not passes(best, effort.confirm_s):
        best = max(1, int(best * SMALLER))
    return steps, best


def _hold(
    server: Server, load: Load, length_s: float, effort: Effort, say: Say
) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = []
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < length_s:
        left_s = length_s - (time.perf_counter() - began_s)
        measured = load.measure(min(effort.sample_s, max(1.0, left_s)))
        samples.append({"at_s": time.perf_counter() - began_s, **measured, **_sizes(server)})
        say(f"{samples[-1]['at_s'] / 60:.1f} min: p99 {measured['p99_ms']} ms")
    return samples


def _sizes(server: Server) -> dict[str, float]:
    workers = children(server.process.pid)
    return {
        "server_mb": rss_mb(server.process.pid),
        "workers_mb": round(sum(map(rss_mb, workers)), 1),
        "descriptors": sum(map(_descriptors, [server.process.pid, *workers])),
    }


def _descriptors(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def _figures(
    samples: Sequence[dict[str, Any]], streams: int, length_s: float, tracebacks: int
) -> list[dict[str, Any]]:
    overruns = sum(one["overrun"] is not None for one in samples)
    held = [one for one in samples if one["overrun"] is None]
    warm_s = min(120.0, 0.1 * length_s)

    def grows(name: str) -> float:
        return growth([(one["at_s"], one[name]) for one in held if one["at_s"] > warm_s])

    p99 = sorted(one["p99_ms"] for one in held)
    within = sum(value <= P99_MS for value in p99)
    return [
        figure("streams held", streams, at_least=1),
        figure("minutes", length_s / 60.0),
        figure("measurements that did not come to their end", overruns, at_most=0),
        figure("a measurement's p50, the median", sorted(o["p50_ms"] for o in held)[len(held) // 2]
               if held else 0.0, "ms"),
        figure("a measurement's p99, the median", p99[len(p99) // 2] if p99 else 0.0, "ms",
               at_most=P99_MS),
        figure("a measurement's p99, max", p99[-1] if p99 else 0.0, "ms"),
        figure(f"measurements at p99 <= {P99_MS:g} ms", 100.0 * within / max(1, len(samples)),
               "%"),
        figure("delay, p50, grows", grows("p50_ms"), "ms/min", at_most=FLAT_MS_PER_MIN),
        figure("memory of the server", held[-1]["server_mb"] if held else 0.0, "MiB"),
        figure("... grows", grows("server_mb"), "MiB/min", at_most=FLAT_MB_PER_MIN),
        figure("memory of its workers", held[-1]["workers_mb"] if held else 0.0, "MiB"),
        figure("... grows", grows("workers_mb"), "MiB/min", at_most=FLAT_MB_PER_MIN),
        figure("file descriptors", held[-1]["descriptors"] if held else 0.0),
        figure("... grow", grows("descriptors"), "a minute", at_most=0.1),
        figure("tracebacks in the server's log", tracebacks, at_most=0),
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    head = (
        f"{result['streams']} mirror sessions for {result['setup']['minutes']:g} min; load average "
        f"{result['load_average'][0]} to {result['load_average'][1]}"
    )
    return as_table(head, result["figures"])
