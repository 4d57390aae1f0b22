"""A piece of a trace through the real controller with real worker processes, and through the
simulator: do they cost the same?

The real run has one edge a region, real WebSocket clients that send audio, SQLite and a process a
node, all on this machine. The fleet's clock (what rows, bills and the policy's times are in) runs
`SPEED` times as fast as real time, so a boot of 10 s takes 1 s here: the process's own start, and
a wait for the rest. Audio runs at the pace of speech. The simulator is given the mean boot that
was measured. Nobody starts in another region, on either side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from understudy.catalog import Catalog
from understudy.client import Client
from understudy.config import ConfigFile
from understudy.controller.loop import Controller
from understudy.core.fleet import EdgeRow, SessionRow, Worker
from understudy.core.ledger import Role
from understudy.core.policy_view import Plan, Rules, View
from understudy.edge.api import build_app
from understudy.edge.door import Door
from understudy.edge.edge import Edge
from understudy.edge.gate import Gate, listen
from understudy.edge.overview import Overview
from understudy.providers.local import LocalProvider
from understudy.resample import SoxrResampler
from understudy.sim import report
from understudy.sim.baselines import Understudy
from understudy.sim.record import Setup
from understudy.sim.traffic import Made, Visit, make, read
from understudy.sim.world import simulate
from understudy.store.sqlite import SqliteStore

SPEED: Final = 10.0
PIECE_S: Final = 600.0
PIECE_AT_S: Final = 19 * 3600.0  # a busy hour of the first day
RAMP_S: Final = 60.0
BOOT_S: Final = 10.0
LOOK_S: Final = 0.025
CHUNK_S: Final = 0.1
RATE_HZ: Final = 16_000
WITHIN: Final = 0.05

CONFIG: Final = """
[models.cover]
engine = "understudy.models.mirror:MirrorModel"
slots = 64
workers = 1

[voices.cover]
model = "cover"
"""
MODEL: Final = """
[models.{name}]
engine = "understudy.models.mirror:MirrorModel"
load_s = {load_s}
price_per_h = 0.4

[voices.{name}]
model = "{name}"
understudy = "cover"
"""


class FastClock:
    """The fleet's time runs SPEED times as fast; what is heard and waited for does not."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._epoch = time.time()

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return self._epoch + (time.monotonic() - self._began) * SPEED

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class Played:
    """What the real fleet did, in its own time from 0 on."""

    workers: list[Worker] = field(default_factory=list)
    sessions: list[SessionRow] = field(default_factory=list)
    heard_s: dict[Role, float] = field(default_factory=dict)
    silent_s: float = 0.0
    end_s: float = 0.0
    plans: list[tuple[float, View, Plan]] = field(default_factory=list)


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """{"checks": [{name, value, target, met}], "real", "simulated", ...}; `audio` only says where
    to look for traces."""
    say = progress or (lambda _: None)
    logging.getLogger("understudy").setLevel(logging.ERROR)
    logging.getLogger("picows").setLevel(logging.ERROR)
    name, visits = _piece(audio, PIECE_S / 5 if quick else PIECE_S)
    say(f"{len(visits)} sessions of {name} at {SPEED:g} times their pace, with real processes")
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        played = asyncio.run(_play(visits, Path(folder), say))
    rented = [worker for worker in played.workers if worker.model != "cover"]
    gpu_s = sum((worker.stopped_s or played.end_s) - worker.started_s for worker in rented)
    boots = [w.ready_s - w.started_s for w in rented if w.ready_s is not None]
    boot_s = float(np.mean(boots))
    say(f"{len(boots)} boots of {boot_s:.1f} s on average; now the simulator")
    setup = Setup(boot_s=boot_s, understudy_slots=64)
    simulated = report.figures(simulate(visits, Understudy(Rules(far_rtt_s=0.0)), setup), setup)
    ratio = gpu_s / simulated["gpu_s"]
    covered = played.heard_s.get(Role.UNDERSTUDY, 0.0)
    real = {
        "gpu_s": round(gpu_s, 1),
        "ratio": round(gpu_s / simulated["bound_gpu_s"], 4),
        "boots": len(rented),
        "boot_s": {
            "mean": round(boot_s, 2),
            "min": round(min(boots), 2),
            "max": round(max(boots), 2),
        },
        "sessions": len(played.sessions),
        "understudy_share": round(covered / max(1e-9, sum(played.heard_s.values())), 5),
        "silent_s": round(played.silent_s, 3),
        "plans": len(played.plans),
    }
    checks = [
        {
            "name": "bill, real over simulated",
            "value": round(ratio, 4),
            "target": f"{1 - WITHIN:g} to {1 + WITHIN:g}",
            "met": abs(ratio - 1) <= WITHIN,
        },
    ]
    return {
        "checks": checks,
        "trace": name,
        "speed": SPEED,
        "real": real,
        "simulated": {
            key: simulated[key] for key in ("gpu_s", "bound_gpu_s", "ratio", "boots", "sessions")
        }
        | {"understudy_share": round(simulated["understudy_share"], 5)},
        "quick": quick,
    }


def table(result: dict[str, Any]) -> str:
    lines = [f"A piece of {result['trace']}, {result['speed']:g} times as fast, real processes"]
    for key in ("gpu_s", "ratio", "boots", "sessions", "understudy_share"):
        lines.append(
            f"  {key:18} real {result['real'][key]:>9}   simulated {result['simulated'][key]:>9}"
        )
    for check in result["checks"]:
        mark = "met" if check["met"] else "MISSED"
        lines.append(f"  {check['name']}: {check['value']} (target {check['target']}: {mark})")
    return "\n".join(lines)


def _piece(audio: Path | None, length_s: float) -> tuple[str, list[Visit]]:
    """The piece from 0 on; who is live when it begins connects in its first minute."""
    path = audio.parent / "traces" / "day20.csv.gz" if audio is not None else None
    if path is not None and path.exists():
        name, visits = "day20", read(path)
    else:
        name, visits = "made20", make(Made(at_once=20.0, hours=24.0, seed=101))
    begin_s = visits[0].start_s + PIECE_AT_S
    chosen = [v for v in visits if v.end_s > begin_s and v.start_s < begin_s + length_s]
    early = [v for v in chosen if v.start_s < begin_s]
    ramp_s = min(RAMP_S, length_s / 4)
    piece = []
    for k, visit in enumerate(chosen):
        start_s = visit.start_s - begin_s if k >= len(early) else k / len(early) * ramp_s
        end_s = min(visit.end_s - begin_s, length_s)
        if end_s - start_s > 1.0:
            piece.append(replace(visit, user=f"user-{k}", start_s=start_s, end_s=end_s))
    return name, piece


async def _play(visits: Sequence[Visit], folder: Path, say: Callable[[str], None]) -> Played:
    clock = FastClock()
    load_s = BOOT_S / SPEED
    names = sorted({visit.voice for visit in visits})
    config = folder / "understudy.toml"
    models = [MODEL.format(name=name, load_s=load_s) for name in names]
    config.write_text(CONFIG + "".join(models))
    file = ConfigFile(config)
    store = SqliteStore(folder / "understudy.db")
    await store.open()
    catalog = Catalog(file, store)
    provider = LocalProvider(
        lambda model, revision: json.dumps(catalog.spec(model, revision)), lambda node: "secret"
    )
    regions = sorted({visit.region for visit in visits})
    edges, tasks = {}, []
    loop = asyncio.get_running_loop()
    urls = {}
    for region in regions:
        sock = listen("127.0.0.1", 0)
        edge = Edge(
            store,
            catalog.current,
            lambda node, secret: True,
            lambda token, user: None,
            SoxrResampler,
            clock,
            row=EdgeRow(f"edge-{region}", region, f"http://127.0.0.1:{sock.getsockname()[1]}"),
        )
        await edge.open()
        door = Door("127.0.0.1", clock)
        overview = Overview(edge, clock, lambda: ())
        gate = Gate(sock, edge, build_app(edge, overview, door), door, clock)
        provider.urls[region] = f"ws://127.0.0.1:{gate.port}/v1/link"
        urls[region] = f"http://127.0.0.1:{gate.port}"
        edges[region] = edge
        tasks += [
            loop.create_task(role)
            for role in (
                *(gate.run(), edge.run(), edge.seating.run()),
                *(edge.run_ledger(), edge.run_beat(), edge.run_distances()),
            )
        ]
    played = Played()
    controller = Controller(
        store,
        provider,
        catalog.wanted,
        lambda: Rules(far_rtt_s=0.0),
        clock,
        look_s=LOOK_S,
    )
    controller.plans = lambda now, view, plan: (
        played.plans.append((now, view, plan))
        if (plan.moves or plan.starts or plan.stops)
        else None
    )

    def moved() -> None:
        for edge in edges.values():
            edge.seating.nudge()

    controller.acted = moved
    for edge in edges.values():
        edge.seating.changed = controller.nudge
    try:
        control = loop.create_task(controller.run())
        await _cards(names, catalog, edges.values())
        begin_s = clock.wall()
        played.silent_s = await _visit_all(visits, urls, say)
        played.end_s = clock.wall() - begin_s
        control.cancel()
        await asyncio.gather(control, return_exceptions=True)
        for edge in edges.values():
            await edge.settle()
            await edge.write_ledger()
        workers, sessions = await store.history(0.0)
        played.workers = [_since(worker, begin_s) for worker in workers]
        played.sessions = list(sessions)
        played.heard_s = dict(await store.heard(0.0))
        return played
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await provider.close()
        await store.close()


def _since(worker: Worker, begin_s: float) -> Worker:
    return replace(
        worker,
        started_s=worker.started_s - begin_s,
        ready_s=None if worker.ready_s is None else worker.ready_s - begin_s,
        stopped_s=None if worker.stopped_s is None else worker.stopped_s - begin_s,
    )


async def _cards(names: Sequence[str], catalog: Catalog, edges: Any) -> None:
    """What `understudy up` learns by loading each model once."""
    from understudy.worker.loading import build_model
    from understudy.worker.slots import card_of

    for name in names:
        spec = catalog.current().models[name]
        card = card_of(build_model(spec.engine, spec.slots, spec.options))
        for edge in edges:
            edge.roster.learn_card(name, spec.revision, card)
    for edge in edges:
        while not edge.roster.ready("cover"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _visit_all(
    visits: Sequence[Visit], urls: dict[str, str], say: Callable[[str], None]
) -> float:
    """Every visit as a real stream; returns the seconds that were silent."""
    began = time.monotonic()
    chunk = np.full(round(RATE_HZ * CHUNK_S), 1000, "<i2").tobytes()
    silent: list[float] = []

    async def visit_one(visit: Visit) -> None:
        await asyncio.sleep(max(0.0, began + visit.start_s / SPEED - time.monotonic()))
        end_s = began + visit.end_s / SPEED
        async with Client(urls[visit.region]).stream(
            visit.voice, visit.user, sample_rate=RATE_HZ
        ) as stream:

            async def speak() -> None:
                due = time.monotonic()
                while time.monotonic() < end_s:
                    await stream.send(chunk)
                    due += CHUNK_S
                    await asyncio.sleep(max(0.0, min(due, end_s) - time.monotonic()))
                await stream.stop()

            speaking = asyncio.create_task(speak())
            last = 0.0
            async for item in stream:
                if not isinstance(item, bytes):
                    last = getattr(item, "silent_s", last)
            silent.append(last)
            await speaking

    async def tick() -> None:
        while True:
            await asyncio.sleep(10.0)
            say(f"{(time.monotonic() - began) * SPEED:.0f} s of the trace, {len(silent)} over")

    ticking = asyncio.create_task(tick())
    async with asyncio.TaskGroup() as group:
        for visit in visits:
            group.create_task(visit_one(visit))
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    return sum(silent)
