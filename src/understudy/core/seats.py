"""Which slot a session should have, of what an edge knows of the fleet. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from understudy.core import policy
from understudy.core.fleet import Fleet, Placement, Request, Seat, SessionRow, Worker, WorkerState
from understudy.core.policy_view import Rules, View
from understudy.core.pools import Wanted, pool_of


def choose(
    fleet: Fleet, row: SessionRow, request: Request, rtt_s: Mapping[str, float]
) -> Placement | None:
    """The slot that a session of an edge should have; `rtt_s`: the edge's links."""
    free = tuple(w for w in fleet.workers if w.taken < w.slots and w.id in rtt_s)
    alone = tuple(worker for worker in free if not worker.taken)
    if request.apart and alone:
        free = alone
    wanted = Wanted(request.model, request.revision, slots=1, misfits=request.misfits)
    regions = {request.region} | {worker.region for worker in free}
    pools = [
        pool_of(replace(fleet, workers=free), wanted, region, asker=row)
        for region in sorted(regions)
    ]
    far: dict[tuple[str, str], float] = {}
    for worker in free:
        pair = (request.region, worker.region)
        far[pair] = min(rtt_s[worker.id], far.get(pair, rtt_s[worker.id]))
    chosen = policy.place(View(tuple(pools), far), Rules(), request)
    found = next((worker for worker in free if worker.id == chosen), None)
    slot = free_slot(found, fleet.seats)
    return None if found is None or slot is None else Placement(found.id, slot)


def free_slot(worker: Worker | None, seats: Sequence[Seat]) -> int | None:
    """The lowest one, if the worker takes anybody."""
    if worker is None or worker.state is not WorkerState.READY or worker.draining:
        return None
    taken = {seat.slot for seat in seats if seat.worker == worker.id}
    return next((slot for slot in range(worker.slots) if slot not in taken), None)
