"""The simulated days of docs/benchmarks.md: bill, understudy minutes, restraint and speed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from understudy.core.policy_view import Rules
from understudy.sim import frontier, traffic
from understudy.sim.record import Setup
from understudy.sim.traffic import Made, Visit

TARGETS: Final = {"day200": (1.03, 0.0006), "day20": (1.12, 0.0010)}
MOVES_A_SESSION_HOUR: Final = 4.0
WALL_S: Final = 30.0
UNSEEN: Final = {
    "made20": Made(at_once=20.0, hours=48.0, seed=101),
    "made200": Made(at_once=200.0, hours=24.0, seed=102),
}
QUICK_HOURS: Final = 6.0


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Every trace at hand by every policy; {"checks": [{name, value, target, met}], "traces"}.

    `audio` only says where to look: traces are in the folder `traces` beside it, or in
    $UNDERSTUDY_TRACES. The made-up ones have no target: nothing was tuned on them.
    """
    say = progress or (lambda _: None)
    checks: list[dict[str, Any]] = []
    traces: dict[str, Any] = {}
    for name, visits in _traces(audio):
        if quick:
            begin_s = visits[0].start_s
            visits = [v for v in visits if v.start_s < begin_s + QUICK_HOURS * 3600.0]
        rows: dict[str, Any] = {}
        for policy in ("understudy", *frontier.BASELINES):
            say(f"{name}, {policy}")
            begun = time.perf_counter()
            figures = frontier.one(visits, policy, Rules(), Setup())
            rows[policy] = figures | {"wall_s": round(time.perf_counter() - begun, 2)}
        say(f"{name}, understudy, near GPUs only")
        rows["understudy, near only"] = frontier.one(
            visits, "understudy", Rules(far_rtt_s=0.0), Setup()
        )
        traces[name] = rows
        if name in TARGETS:
            checks += _checks(name, rows["understudy"])
    return {"checks": checks, "traces": traces, "quick": quick}


def _traces(audio: Path | None) -> Iterator[tuple[str, list[Visit]]]:
    folders = [Path(named).expanduser()] if (named := os.environ.get("UNDERSTUDY_TRACES")) else []
    folders += [audio.parent / "traces"] if audio is not None else []
    for name in TARGETS:
        for folder in folders:
            if (path := folder / f"{name}.csv.gz").is_file():
                yield name, traffic.read(path)
                break
    for name, made in UNSEEN.items():
        yield name, traffic.make(made)


def _checks(name: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    ratio, share = TARGETS[name]
    limits = (
        ("bill / bound", row["ratio"], ratio),
        ("share of minutes on the understudy", row["understudy_share"], share),
        ("seconds of silence", row["silent_s"], 0.0),
        ("moves a session-hour", row["moves_per_session_hour"], MOVES_A_SESSION_HOUR),
        ("seconds to simulate it", row["wall_s"], WALL_S),
    )
    return [
        {
            "name": f"{name}: {what}",
            "value": value,
            "target": f"<= {limit:g}",
            "met": value <= limit,
        }
        for what, value, limit in limits
    ]


def table(result: Mapping[str, Any]) -> str:
    lines = []
    for one in result["checks"]:
        mark = "ok  " if one["met"] else "MISS"
        lines.append(f"{mark} {one['name']:<46} {one['value']:>10.4f}   {one['target']}")
    for name, rows in result["traces"].items():
        lines.append(f"{name}:")
        for policy, row in rows.items():
            lines.append(
                f"  {policy:<22} bill/bound {row['ratio']:.4f}, understudy"
                f" {row['understudy_share']:.4%}, far {row['far_share']:.3%}, silent"
                f" {row['silent_s']:.0f} s, p99 wait {row['wait_s']['p99']:.1f} s,"
                f" {row['moves_per_session_hour']:.2f} moves/h, GPUs ${row['gpu_usd']:.0f}"
                f" + CPUs ${row['understudy_cpu_usd']:.0f}"
            )
    return "\n".join(lines)
