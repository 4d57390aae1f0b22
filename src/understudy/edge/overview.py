"""The fleet as one picture: for the page at /fleet and for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from understudy.core.bill import Bill, Rate, add_up
from understudy.core.errors import StoreAway
from understudy.core.fleet import Deployment, Seat, SessionRow, Worker, WorkerState
from understudy.core.ledger import Role
from understudy.core.pools import DEFAULT_BOOT_S, last_seats
from understudy.core.wire import Loading, Queued
from understudy.edge.edge import Edge
from understudy.edge.listing import UNSAID
from understudy.edge.session import Session
from understudy.seams import Clock

DAY_S: Final = 86_400.0
BILL_S: Final = 5.0  # how old the day's sums may be: they are read from the whole day's rows
PATIENCE_S: Final = 1.0  # with the store: then the sums are the old ones
CURRENCY: Final = "$"


class Overview:
    """Reads one edge's snapshot of the store, and the day's sums now and then."""

    def __init__(
        self, edge: Edge, clock: Clock, deployments: Callable[[], Sequence[Deployment]]
    ) -> None:
        self._edge = edge
        self._clock = clock
        self._deployments = deployments
        self._bill = Bill(0.0, 0.0, 0.0, 0.0)
        self._heard = dict.fromkeys(Role, 0.0)
        self._summed_s = -BILL_S
        self._summing: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Brings the day's sums up to date, if they are old. While the store is away they stay as
        they are: that is when everything else here is looked at."""
        if self._summing is None:
            if self._clock.now() - self._summed_s < BILL_S:
                return
            self._summing = asyncio.get_running_loop().create_task(self._sum())
        summing = self._summing
        done, _ = await asyncio.wait([summing], timeout=PATIENCE_S)
        if done:
            if self._summing is summing:
                self._summing = None
            with contextlib.suppress(StoreAway):
                summing.result()

    async def _sum(self) -> None:
        now = self._clock.wall()
        midnight = now - now % DAY_S  # UTC
        workers, sessions = await self._edge.store.history(midnight)
        boots = self._edge.seating.fleet.boot_s
        rented = {
            spec.name: Rate(
                spec.slots,
                spec.price_per_h,
                boots.get(spec.name, spec.load_s or DEFAULT_BOOT_S),
            )
            for spec in self._edge.config().models.values()
            if spec.workers is None
        }
        # In a thread: a day may have many sessions, and audio must not wait for them.
        self._bill = await asyncio.to_thread(add_up, workers, sessions, rented, midnight, now)
        self._heard = dict(await self._edge.store.heard(midnight))
        self._summed_s = self._clock.now()

    @property
    def bill(self) -> Bill:
        return self._bill

    def is_always_on(self, worker: Worker) -> bool:
        return not self._edge.config().is_rented(worker.model)

    def as_json(self, *, names: bool) -> dict[str, Any]:
        """What `GET /v1/fleet` answers; `names`: with users and their sessions."""
        edge, fleet, config = self._edge, self._edge.seating.fleet, self._edge.config()
        now = self._clock.wall()
        seats = last_seats(fleet.seats)
        up = [worker for worker in fleet.workers if worker.state is not WorkerState.STOPPING]
        price = {True: 0.0, False: 0.0}
        for worker in fleet.workers:
            price[self.is_always_on(worker)] += worker.price_per_h
        regions = {worker.region for worker in up} | {row.region for row in fleet.sessions}
        return {
            "now_s": now,
            "edges": [{"name": row.name, "region": row.region} for row in fleet.edges],
            "regions": sorted(regions | {row.region for row in fleet.edges} | {edge.region}),
            "workers": [self._worker(worker, now) for worker in up],
            "sessions": [self._session(row, seats) for row in fleet.sessions] if names else [],
            "moves": list(edge.moves) if names else [],
            "waiting": sum((row.id, Role.LEAD) not in seats for row in fleet.sessions),
            "bill": {
                "per_h": price[False],
                "today": self._bill.rented,
                "bound_today": self._bill.bound,
                "cpu_per_h": price[True],
                "cpu_today": self._bill.always_on,
                "currency": CURRENCY,
            },
            "minutes": {
                "lead_today_s": self._heard[Role.LEAD],
                "understudy_today_s": self._heard[Role.UNDERSTUDY],
            },
            "limits": {
                "max_nodes": config.rules.max_nodes,
                "budget_per_h": config.rules.budget_per_h,
                "patience": config.rules.patience,
            },
            "failures": self._failures(reasons=names),
        }

    def _worker(self, worker: Worker, now: float) -> dict[str, Any]:
        fleet = self._edge.seating.fleet
        loading = worker.state is WorkerState.LOADING
        spec = self._edge.config().models.get(worker.model)
        boot_s = fleet.boot_s.get(worker.model, (spec and spec.load_s) or None)
        passed_s = now - worker.started_s
        progress, eta_s = 1.0, None
        if loading:
            progress = min(0.99, passed_s / boot_s) if boot_s else 0.0
            eta_s = max(0.0, boot_s - passed_s) if boot_s else None
        return {
            "id": worker.id,
            "model": worker.model,
            "revision": worker.revision,
            "region": worker.region,
            "stage": "draining" if worker.draining else str(worker.state),
            "progress": round(progress, 3),
            "eta_s": eta_s,
            "boot_s": boot_s,
            "slots": worker.slots,
            "price_per_h": worker.price_per_h,
            "always_on": self.is_always_on(worker),
            "since_s": worker.ready_s or worker.started_s,
            "started_s": worker.started_s,
            "seats": [
                {"slot": seat.slot, "session": seat.session, "role": seat.role}
                for seat in fleet.seats
                if seat.worker == worker.id
            ],
        }

    def _session(self, row: SessionRow, seats: dict[tuple[str, Role], Seat]) -> dict[str, Any]:
        session = self._edge.sessions.get(row.id)
        lead, cover = seats.get((row.id, Role.LEAD)), seats.get((row.id, Role.UNDERSTUDY))
        performs = lead or cover  # as far as the store knows; this edge knows better of its own
        worker, role = (performs.worker, performs.role) if performs else (None, None)
        coming = None
        if session is not None:
            part, guest = session.performer, session.coming
            worker, role = (part.worker, part.role) if part else (None, None)
            coming = guest.worker if guest else None
        said = session.said if session else None
        return {
            "session": row.id,
            "user": row.user,
            "voice": row.voice,
            "region": row.region,
            "state": str(session.state) if session else "live",
            "role": role,
            "worker": worker,
            "coming": coming,
            "why": why(session),
            "eta_s": said.eta_s if said else None,
            "started_s": row.started_s,
            "lead_s": session.heard_s(Role.LEAD) if session else 0.0,
            "understudy_s": session.heard_s(Role.UNDERSTUDY) if session else 0.0,
            "silent_s": session.silent_s if session else 0.0,
        }

    def _failures(self, *, reasons: bool) -> list[dict[str, str]]:
        found = {(d.model, d.revision): d.failed for d in self._deployments() if d.failed}
        return [
            {
                "model": model,
                "revision": revision,
                "reason": reason if reasons else UNSAID,
            }
            for (model, revision), reason in {**found, **self._edge.roster.failures}.items()
        ]


def why(session: Session | None) -> str:
    """Why the lead does not perform, in a few words."""
    if session is None or not session.wants_lead:
        return ""
    if isinstance(session.said, Queued):
        return f"all slots are taken: place {session.said.position} in the queue"
    return "the lead is loading" if isinstance(session.said, Loading) else "a slot is sought"
