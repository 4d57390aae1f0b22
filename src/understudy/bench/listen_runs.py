"""The process that `bench listen` measures in: nothing else runs in it, and its threads are set
before NumPy is loaded. A job comes as JSON on standard input, its figures go to standard output.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

RATE_HZ: Final = 16000
SILERO_CHUNK: Final = 512  # samples: 32 ms
SILERO_CONTEXT: Final = 64
WARM_UP: Final = 10
WARM_UP_NS: Final = 200_000_000  # of a case, after which it is warm enough
CASE_BUDGET_NS: Final = 1_500_000_000  # slow cases run less often
LEAST_SHARE: Final = 20  # ... but not under a 20th
BINS: Final = 48
SLICES: Final = 10  # of a case's runs, in their order, to see whether it stays as fast

Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Case:
    subject: str
    what: str
    variant: str
    run: Run
    batch: int = 1
    seconds: float = 0.0


def cold(job: Mapping[str, Any]) -> dict[str, float]:
    """From a fresh interpreter to the first answer, in ms."""
    start = time.perf_counter_ns()
    from understudy.lab.runtime import Listener

    imported = time.perf_counter_ns()
    import numpy as np

    audio = np.zeros(RATE_HZ, np.float32)
    began = time.perf_counter_ns()
    listener = Listener(job["path"])
    opened = time.perf_counter_ns()
    listener.label(audio)
    heard = time.perf_counter_ns()
    times = (imported - start, opened - began, heard - opened)
    return dict(
        zip(("import_ms", "session_ms", "first_run_ms"), (t / 1e6 for t in times), strict=True)
    )


def warm(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    cases = [case for subject in job["subjects"] for case in cases_of(subject, job)]
    cases += silero(job["silero"], job["threads"])
    return measure(cases, job["runs"], job["rounds"])


def cases_of(subject: Mapping[str, Any], job: Mapping[str, Any]) -> Iterator[Case]:
    """All that is measured of one model."""
    import numpy as np

    from understudy.lab.frontend import FrontEnd, Streaming
    from understudy.lab.runtime import Listener

    name, threads = subject["name"], job["threads"]
    rng = np.random.default_rng(3)
    longest = int(max(job["seconds"]) * RATE_HZ)
    audio = (0.05 * rng.standard_normal((max(job["batches"]), longest))).astype(np.float32)

    def label(listener: Any, seconds: float, batch: int) -> Run:
        clips = np.ascontiguousarray(audio[:batch, : int(seconds * RATE_HZ)])
        return lambda: listener.label_batch(clips)

    for variant, path in subject["clip"].items():
        listener = Listener(path, threads)
        for seconds in job["seconds"] if variant != "inside" else [1.0]:
            yield Case(name, "label", variant, label(listener, seconds, 1), 1, seconds)
        for batch in job["batches"][1:]:
            yield Case(name, "label", variant, label(listener, 1.0, batch), batch, 1.0)
    if subject["net"] is not None:
        yield from _torch_cases(subject, job, audio)
    for variant, path in subject["stream"].items():
        listener = Listener(path, threads)
        for count in job["batches"]:
            slots = listener.slots(count)
            hop = np.ascontiguousarray(audio[:count, : listener.frontend.hop])
            seconds = listener.frontend.hop / RATE_HZ
            step = _bound(slots.step, hop)
            yield Case(name, "hop", variant, step, count, seconds)
    if subject["mel"]:
        frontend = FrontEnd()
        second, hop = audio[0, :RATE_HZ].copy(), audio[:1, : frontend.hop].copy()
        streaming = Streaming(frontend)
        yield Case("mel", "1 s", "scipy", lambda: frontend.features(second), 1, 1.0)
        yield Case("mel", "hop", "scipy", lambda: streaming.step(hop), 1, 0.01)


def _bound(step: Callable[[Any], Any], given: Any) -> Run:
    return lambda: step(given)


def _torch_cases(subject: Mapping[str, Any], job: Mapping[str, Any], audio: Any) -> Iterator[Case]:
    """Torch eager, with the same front end before it."""
    import numpy as np
    import torch

    from understudy.lab.frontend import FrontEnd
    from understudy.lab.nets import build

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    net, frontend = build(**subject["net"]).eval(), FrontEnd()
    second = np.ascontiguousarray(audio[:1, :RATE_HZ])

    def run() -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(frontend.batch(second))).numpy()

    yield Case(subject["name"], "label", "torch eager", run, 1, 1.0)


def silero(path: str | None, threads: int) -> list[Case]:
    """The anchor: silero-vad's own ONNX file on one chunk of 32 ms, as its wrapper feeds it."""
    if path is None:
        return []
    import numpy as np

    from understudy.lab.runtime import open_session

    session = open_session(path, threads)
    given: dict[str, Any] = {
        "input": np.zeros((1, SILERO_CONTEXT + SILERO_CHUNK), np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(RATE_HZ, np.int64),
    }
    given["input"][:] = 0.05 * np.random.default_rng(4).standard_normal(given["input"].shape)

    def run() -> None:
        given["state"] = session.run(None, given)[1]

    return [Case("silero-vad", "chunk", "fp32", run, 1, SILERO_CHUNK / RATE_HZ)]


def measure(cases: Sequence[Case], runs: int, rounds: int) -> list[dict[str, Any]]:
    """Each case's figures. The cases take turns, `rounds` times around, so that a busy moment of
    the machine falls on all of them, the anchor included."""
    counts = []
    for case in cases:
        spent, least = 0, CASE_BUDGET_NS
        for _ in range(WARM_UP):
            start = time.perf_counter_ns()
            case.run()
            took = time.perf_counter_ns() - start
            spent, least = spent + took, max(1, min(least, took))
            if spent > WARM_UP_NS:
                break
        fits = max(runs // LEAST_SHARE, min(runs, CASE_BUDGET_NS // least))
        counts.append(max(1, fits // rounds))
    walls: list[list[int]] = [[] for _ in cases]
    cpu = [0] * len(cases)
    for _ in range(rounds):
        for at, (case, count) in enumerate(zip(cases, counts, strict=True)):
            case.run()  # not counted: it fetches what the others pushed out of the caches
            began = time.process_time_ns()
            for _ in range(count):
                start = time.perf_counter_ns()
                case.run()
                walls[at].append(time.perf_counter_ns() - start)
            cpu[at] += time.process_time_ns() - began
    return [figures(*found) for found in zip(cases, walls, cpu, strict=True)]


def figures(case: Case, walls: Sequence[int], cpu_ns: int) -> dict[str, Any]:
    """In µs. `drift_percent`: how far the medians of ten slices of the runs lie apart."""
    import numpy as np

    found = np.asarray(walls) / 1e3
    p50, p95, p99 = np.percentile(found, (50, 95, 99))
    slices = [float(np.median(one)) for one in np.array_split(found, min(SLICES, len(found)))]
    most = max(float(np.percentile(found, 99.5)), float(found.min()) * 1.001)
    counts, edges = np.histogram(found, BINS, (float(found.min()), most))
    return {
        "subject": case.subject,
        "what": case.what,
        "variant": case.variant,
        "seconds": case.seconds,
        "batch": case.batch,
        "runs": len(found),
        "min_us": round(float(found.min()), 1),
        "mean_us": round(float(found.mean()), 1),
        "p50_us": round(float(p50), 1),
        "p95_us": round(float(p95), 1),
        "p99_us": round(float(p99), 1),
        "max_us": round(float(found.max()), 1),
        "cpu_us": round(cpu_ns / len(found) / 1e3, 1),
        "drift_percent": round(100 * (max(slices) / min(slices) - 1), 1),
        "histogram": {
            "edges_us": [round(float(edge), 1) for edge in edges],
            "counts": [int(count) for count in counts],
        },
    }


def main() -> None:
    job = json.load(sys.stdin)
    json.dump({"cold": cold, "warm": warm}[job["kind"]](job), sys.stdout)


if __name__ == "__main__":
    main()
