"""From what the store keeps to what the scaling policy sees. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from understudy.core.fleet import Fleet, Seat, SessionRow, Worker, WorkerState
from understudy.core.ledger import Role
from understudy.core.policy_view import Away, Drain, Key, Pool, Session, Stage
from understudy.core.policy_view import Worker as PoolWorker

DEFAULT_BOOT_S = 10.0
READY = WorkerState.READY


@dataclass(frozen=True, slots=True)
class Wanted:
    """What configuration and deployments say of a model."""

    model: str
    revision: str
    slots: int
    keep: int | None = None  # so many workers are always on; None: as many as the policy wants
    price_per_h: float = 0.0
    boot_s: float = DEFAULT_BOOT_S  # until a load has been seen
    drain: Drain = Drain.MOVE
    misfits: frozenset[str] = frozenset()  # revisions whose sessions cannot go on on the newest


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sessions that came and went, as counted from look to look."""

    live: frozenset[tuple[Key, str]] = frozenset()
    arrived: Mapping[Key, int] = field(default_factory=dict)
    ended: Mapping[Key, int] = field(default_factory=dict)

    def after(self, fleet: Fleet) -> Traffic:
        live = frozenset(((row.model, row.region), row.id) for row in fleet.sessions)
        if live == self.live:
            return self
        arrived, ended = dict(self.arrived), dict(self.ended)
        for key, _ in live - self.live:
            arrived[key] = arrived.get(key, 0) + 1
        for key, _ in self.live - live:
            ended[key] = ended.get(key, 0) + 1
        return Traffic(live, arrived, ended)


def last_seats(seats: Iterable[Seat]) -> dict[tuple[str, Role], Seat]:
    """Where each session is in each role, or goes."""
    return {(seat.session, seat.role): seat for seat in seats}


def waiting_for(
    rows: Iterable[SessionRow],
    seats: Mapping[tuple[str, Role], Seat],
    model: str,
    region: str,
    asker: SessionRow | None = None,
) -> list[SessionRow]:
    """Who wants a slot of the model in this region and has none: for a lead, or, as long as
    nobody performs at all, for an understudy. With `asker`, only those who came before."""
    found = []
    for row in rows:
        if asker is not None and (row.started_s, row.id) >= (asker.started_s, asker.id):
            break
        if row.region != region or (row.id, Role.LEAD) in seats or row.orphaned_s is not None:
            continue
        covers = row.understudy == model and (row.id, Role.UNDERSTUDY) not in seats
        if row.model == model or covers:
            found.append(row)
    return found


def pool_of(
    fleet: Fleet,
    wanted: Wanted,
    region: str,
    traffic: Traffic | None = None,
    *,
    held: bool = False,
    asker: SessionRow | None = None,
) -> Pool:
    """One model in one region. `held`: its loads fail, so none is to be started now; `asker`:
    who asks for a slot, and is overtaken by nobody who came later."""
    rows = {row.id: row for row in fleet.sessions}
    seats = last_seats(fleet.seats)
    seated: dict[str, list[Session]] = {}
    where = {worker.id: worker for worker in fleet.workers}
    away = []
    for (_, role), seat in seats.items():
        worker, row = where.get(seat.worker), rows.get(seat.session)
        if worker is None or row is None or worker.model != wanted.model:
            continue
        seated.setdefault(worker.id, []).append(_session(row))
        if role is Role.LEAD and row.region == region != worker.region:
            away.append(Away(row.id, worker.id))
    key = (wanted.model, region)
    here = [
        worker
        for worker in fleet.workers
        if (worker.model, worker.region) == key
        and (worker.state is WorkerState.LOADING or (worker.state is READY and worker.linked))
    ]
    waiting = waiting_for(fleet.sessions, seats, wanted.model, region, asker)
    return Pool(
        model=wanted.model,
        region=region,
        revision=wanted.revision,
        slots=wanted.slots,
        boot_s=fleet.boot_s.get(wanted.model, wanted.boot_s),
        price_per_h=wanted.price_per_h,
        workers=tuple(
            _worker(worker, seated.get(worker.id, ()), wanted.misfits) for worker in here
        ),
        waiting=tuple(_session(row) for row in waiting),
        away=tuple(away),
        arrived=traffic.arrived.get(key, 0) if traffic else 0,
        ended=traffic.ended.get(key, 0) if traffic else 0,
        drain=Drain.FINISH if any(w.revision in wanted.misfits for w in here) else wanted.drain,
        keep=wanted.keep,
        held=held,
    )


def _session(row: SessionRow) -> Session:
    return Session(row.id, row.started_s, row.region)


def _worker(worker: Worker, sessions: Sequence[Session], misfits: frozenset[str]) -> PoolWorker:
    ready = worker.state is WorkerState.READY
    draining = worker.draining or worker.revision in misfits
    stage = Stage.DRAINING if draining else Stage.READY if ready else Stage.LOADING
    since_s = worker.ready_s if ready and worker.ready_s is not None else worker.started_s
    return PoolWorker(
        worker.id,
        worker.model,
        worker.revision,
        worker.region,
        stage,
        worker.slots,
        since_s,
        tuple(sorted(sessions, key=lambda s: (s.connected_s, s.id))),
    )
