"""The figures of a simulated day, all of them computed from what happened, and the lower bound."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from understudy.core.bill import bound_gpu_s
from understudy.sim.record import Record, Setup
from understudy.sim.traffic import Visit


def bound_of(visits: Iterable[Visit], boot_s: float, slots: int) -> float:
    """core.bill.bound_gpu_s of a trace."""
    spans = (((visit.voice, visit.region), visit.start_s, visit.end_s) for visit in visits)
    return bound_gpu_s(spans, boot_s, slots)


def figures(record: Record, setup: Setup) -> dict[str, Any]:
    visits = record.visits
    live_s = sum(visit.end_s - visit.start_s for visit in visits)
    gpu_s = sum((rental.stop_s or 0.0) - rental.start_s for rental in record.rentals)
    bound_s = bound_of(visits, setup.boot_s, setup.slots)
    lead_s = understudy_s = far_s = 0.0
    region = {rental.worker: rental.region for rental in record.rentals}
    first_lead: dict[int, float] = {}
    leads: dict[int, int] = {}
    for stay in record.stays:
        if stay.role == "lead":
            lead_s += stay.end_s - stay.start_s
            if region[stay.worker] != visits[stay.visit].region:
                far_s += stay.end_s - stay.start_s
            first_lead[stay.visit] = min(stay.start_s, first_lead.get(stay.visit, stay.start_s))
            leads[stay.visit] = leads.get(stay.visit, 0) + 1
        else:
            understudy_s += stay.end_s - stay.start_s
    waits = sorted(
        first_lead.get(index, visit.end_s) - visit.start_s for index, visit in enumerate(visits)
    )
    # Each lead after the first was a move, and so was the first one of those who waited for it.
    between = sum(count - 1 for count in leads.values())
    entered = sum(first_lead[index] > visits[index].start_s for index in first_lead)
    hours = live_s / 3600.0
    regions = len({visit.region for visit in visits})
    span_h = (record.end_s - record.start_s) / 3600.0
    return {
        "sessions": len(visits),
        "gpu_s": round(gpu_s, 2),
        "bound_gpu_s": round(bound_s, 2),
        "ratio": round(gpu_s / bound_s, 5) if bound_s else None,
        "silent_s": round(max(0.0, live_s - lead_s - understudy_s), 3),
        "understudy_share": round(understudy_s / live_s, 7) if live_s else 0.0,
        "far_share": round(far_s / live_s, 7) if live_s else 0.0,
        "wait_s": {
            "p50": round(_percentile(waits, 0.50), 3),
            "p95": round(_percentile(waits, 0.95), 3),
            "p99": round(_percentile(waits, 0.99), 3),
            "max": round(waits[-1], 3) if waits else 0.0,
        },
        "moves_per_session_hour": round((between + entered) / hours, 4) if hours else 0.0,
        "moves": {"lead_to_lead": between, "understudy_to_lead": entered},
        "boots": len(record.rentals),
        "session_s": round(live_s, 2),
        "understudy_s": round(understudy_s, 2),
        "gpu_usd": round(gpu_s / 3600.0 * setup.gpu_per_h, 2),
        "understudy_cpu_usd": round(regions * span_h * setup.cpu_per_h, 2),
    }


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def write_events(record: Record, folder: Path) -> None:
    """workers.csv has every GPU worker; placements.csv who was heard where and when. A session of
    role `understudy` was on the region's always-on CPU worker, which is no GPU and not listed. A
    worker that was stopped while it loaded has no ready_s."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "workers.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("worker", "voice", "region", "start_s", "ready_s", "stop_s"))
        for rental in record.rentals:
            out.writerow(
                (
                    rental.worker,
                    rental.voice,
                    rental.region,
                    _exact(rental.start_s),
                    _exact(rental.ready_s),
                    _exact(rental.stop_s),
                )
            )
    with (folder / "placements.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("user", "worker", "role", "from_s", "to_s"))
        for stay in sorted(record.stays, key=lambda stay: (stay.start_s, stay.visit)):
            user = record.visits[stay.visit].user
            out.writerow((user, stay.worker, stay.role, _exact(stay.start_s), _exact(stay.end_s)))


def _exact(t_s: float | None) -> str:
    return "" if t_s is None else f"{t_s:.6f}"
