"""A fleet in virtual time, driven by the very functions that drive the real one.

What is assumed, and no more:

- A connect is placed by the policy's `place` at once. Whoever gets no slot is covered by the
  understudy of the region, an always-on CPU worker with many slots; where that is full, or the
  policy has none, the session is silent. It gets its lead by a move in a plan. A slot in another
  region is a lead too; the figures say how many minutes were spent so far away.
- `decide` is called after every change (a connect, an end, a worker that became ready) and
  whenever the last plan asked to look again, until a plan asks for nothing; it sees what a store
  knows, never how long anybody will stay.
- A worker holds one voice in one region, is ready `boot_s` after its start, and is billed from
  its start to its stop. A planned move is make-before-break, and takes no time here.
- It ends with the last session of the trace; what still runs is billed to that moment.

A plan that breaks a rule (a slot taken twice, a busy worker stopped, a limit passed) raises
Broken: the world trusts no policy.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from understudy.core.fleet import Request
from understudy.core.policy_view import (
    Away,
    Key,
    Move,
    Plan,
    Pool,
    Session,
    Stage,
    View,
    Worker,
)
from understudy.sim.record import Record, Rental, Setup, Stay
from understudy.sim.traffic import Visit

REVISION: Final = "r1"
MOST_ROUNDS: Final = 1000  # of plans without a change in time: beyond, a policy runs in circles


class Broken(Exception):
    """A plan that cannot be carried out."""


class Policy(Protocol):
    """`decide` and `place` of core/policy.py, or of another system; `memory` is its own."""

    @property
    def name(self) -> str: ...

    @property
    def has_understudy(self) -> bool: ...

    def first(self) -> Any: ...

    def place(self, view: View, request: Request, memory: Any) -> str | None: ...

    def decide(self, view: View, now: float, memory: Any) -> tuple[Plan, Any]: ...


class _Machine:
    """A worker as the world has it, and the frozen copy that the policy sees."""

    __slots__ = ("rental", "sessions", "slots", "stage", "view")

    def __init__(self, rental: Rental, slots: int) -> None:
        self.rental = rental
        self.slots = slots
        self.stage = Stage.LOADING
        self.sessions: dict[int, Session] = {}
        self.view = self.freeze(rental.start_s)

    def freeze(self, since_s: float) -> Worker:
        rental = self.rental
        self.view = Worker(
            rental.worker,
            rental.voice,
            REVISION,
            rental.region,
            self.stage,
            self.slots,
            since_s,
            tuple(self.sessions.values()),
        )
        return self.view


class _Place:
    """One (voice, region)."""

    __slots__ = ("arrived", "away", "changed", "ended", "key", "machines", "view", "waiting")

    def __init__(self, key: Key, setup: Setup) -> None:
        self.key = key
        self.machines: dict[str, _Machine] = {}
        self.waiting: dict[int, Session] = {}
        self.away: dict[int, Away] = {}
        self.arrived = self.ended = 0
        self.changed = False
        self.view = Pool(*key, REVISION, setup.slots, setup.boot_s, setup.gpu_per_h)

    def freeze(self) -> Pool:
        if self.changed:
            old = self.view
            self.view = Pool(
                old.model,
                old.region,
                old.revision,
                old.slots,
                old.boot_s,
                old.price_per_h,
                tuple([machine.view for machine in self.machines.values()]),
                tuple(self.waiting.values()),
                tuple(self.away.values()),
                self.arrived,
                self.ended,
            )
            self.changed = False
        return self.view


class World:
    def __init__(self, visits: Sequence[Visit], policy: Policy, setup: Setup) -> None:
        self._policy, self._setup = policy, setup
        self._memory = policy.first()
        self._visits = visits
        self._record = Record(visits)
        keys = sorted({(visit.voice, visit.region) for visit in visits})
        self._places = {key: _Place(key, setup) for key in keys}
        self._machines: dict[str, tuple[_Place, _Machine]] = {}
        self._at: dict[int, tuple[str, str, float]] = {}  # visit -> worker, role, since when
        self._covered = {region: 0 for _, region in keys}
        self._silent: dict[str, deque[int]] = {region: deque() for _, region in keys}
        self._heap: list[tuple[float, int, str, Any]] = []  # (t, order, what, whom)
        self._order = 0
        regions = sorted(self._covered)
        self._rtt_s = {(a, b): setup.rtt_s for a in regions for b in regions if a != b}
        self._view = View(tuple(place.view for place in self._places.values()), self._rtt_s)
        self._look_s: float | None = None

    def run(self) -> Record:
        visits, record, heap = self._visits, self._record, self._heap
        if not visits:
            return record
        record.start_s = now = visits[0].start_s
        index = 0
        live = 0
        while index < len(visits) or live:
            due = [heap[0][0]] if heap else []
            if index < len(visits):
                due.append(visits[index].start_s)
            if self._look_s is not None:
                due.append(self._look_s)
            now = max(now, min(due))
            if heap and heap[0][0] <= now:
                _, _, what, whom = heapq.heappop(heap)
                if what == "end":
                    self._end(whom, now)
                    live -= 1
                else:
                    self._ready(whom, now)
            elif index < len(visits) and visits[index].start_s <= now:
                self._connect(index, now)
                self._push(visits[index].end_s, "end", index)
                index += 1
                live += 1
            self._look(now)
        record.end_s = now
        for place, machine in list(self._machines.values()):
            self._stop(place, machine, now)
        return record

    def _push(self, at_s: float, what: str, whom: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_s, self._order, what, whom))

    # --- What happens to the fleet ---

    def _connect(self, index: int, now: float) -> None:
        visit = self._visits[index]
        place = self._places[visit.voice, visit.region]
        place.arrived += 1
        session = Session(str(index), now, visit.region)
        request = Request(session.id, visit.voice, visit.region)
        chosen = self._policy.place(self._freeze(), request, self._memory)
        place.changed = True
        if chosen is not None:
            self._seat(index, session, chosen, now)
            return
        place.waiting[index] = session
        if self._policy.has_understudy:
            self._silent[visit.region].append(index)
            self._cover(visit.region, now)

    def _cover(self, region: str, now: float) -> None:
        """The understudy takes those who hear nothing, first come, first served."""
        silent = self._silent[region]
        while silent and self._covered[region] < self._setup.understudy_slots:
            index = silent.popleft()
            if index in self._places[self._key(index)].waiting:
                self._covered[region] += 1
                self._at[index] = (f"understudy-{region}", "understudy", now)

    def _key(self, index: int) -> Key:
        return self._visits[index].voice, self._visits[index].region

    def _end(self, index: int, now: float) -> None:
        place = self._places[self._key(index)]
        place.ended += 1
        place.changed = True
        place.waiting.pop(index, None)
        self._leave(index, now)

    def _leave(self, index: int, now: float) -> None:
        if (at := self._at.pop(index, None)) is None:
            return
        worker, role, since_s = at
        if now > since_s:
            self._record.stays.append(Stay(index, worker, role, since_s, now))
        if role == "lead":
            place, machine = self._machines[worker]
            del machine.sessions[index]
            machine.freeze(machine.view.since_s)
            place.changed = True
            home = self._places[self._key(index)]
            if home.away.pop(index, None):
                home.changed = True
        else:
            region = self._visits[index].region
            self._covered[region] -= 1
            self._cover(region, now)

    def _seat(self, index: int, session: Session, worker: str, now: float) -> None:
        if worker not in self._machines:
            raise Broken(f"{worker} does not run")
        place, machine = self._machines[worker]
        if machine.stage is Stage.LOADING or len(machine.sessions) >= machine.slots:
            raise Broken(f"{worker} has no free slot")
        if place.key[0] != self._visits[index].voice:
            raise Broken(f"{worker} has another voice")
        machine.sessions[index] = session
        machine.freeze(machine.view.since_s)
        place.changed = True
        home = self._places[self._key(index)]
        if home is not place:
            home.away[index] = Away(session.id, worker)
            home.changed = True
        self._at[index] = (worker, "lead", now)

    def _ready(self, worker: str, now: float) -> None:
        if worker not in self._machines:
            return  # it was stopped while it loaded
        place, machine = self._machines[worker]
        machine.stage = Stage.READY
        machine.rental.ready_s = now
        machine.freeze(now)
        place.changed = True

    # --- The controller ---

    def _freeze(self) -> View:
        if any(place.changed for place in self._places.values()):
            self._view = View(
                tuple([place.freeze() for place in self._places.values()]), self._rtt_s
            )
        return self._view

    def _look(self, now: float) -> None:
        for _ in range(MOST_ROUNDS):
            plan, self._memory = self._policy.decide(self._freeze(), now, self._memory)
            self._record.looks += 1
            self._look_s = plan.look_again_s
            if not (plan.moves or plan.stops or plan.starts):
                return
            self._act(plan, now)
        raise Broken(f"{self._policy.name} never rests at {now:.2f} s")

    def _act(self, plan: Plan, now: float) -> None:
        for move in plan.moves:
            self._move(move, now)
        for stop in plan.stops:
            place, machine = self._machines[stop.worker]
            if machine.sessions:
                raise Broken(f"{stop.worker} is busy and must not be stopped")
            self._stop(place, machine, now)
        for start in plan.starts:
            if self._is_at_limit():
                raise Broken("more was started than the limits allow")
            place = self._places[start.model, start.region]
            rental = Rental(f"w{len(self._record.rentals)}", start.model, start.region, now)
            self._record.rentals.append(rental)
            machine = _Machine(rental, self._setup.slots)
            place.machines[rental.worker] = machine
            place.changed = True
            self._machines[rental.worker] = (place, machine)
            self._push(now + self._setup.boot_s, "ready", rental.worker)

    def _is_at_limit(self) -> bool:
        setup, nodes = self._setup, len(self._machines) + 1
        if setup.max_nodes is not None and nodes > setup.max_nodes:
            return True
        limit = setup.budget_per_h
        return limit is not None and nodes * setup.gpu_per_h > limit + 1e-9

    def _move(self, move: Move, now: float) -> None:
        index = int(move.session)
        place = self._places[self._key(index)]
        if move.source is None:
            if (session := place.waiting.pop(index, None)) is None:
                raise Broken(f"session {index} does not wait")
        else:
            if self._at[index][0] != move.source:
                raise Broken(f"session {index} is not on {move.source}")
            session = self._machines[move.source][1].sessions[index]
        self._leave(index, now)
        self._seat(index, session, move.target, now)

    def _stop(self, place: _Place, machine: _Machine, now: float) -> None:
        machine.rental.stop_s = now
        del place.machines[machine.rental.worker]
        del self._machines[machine.rental.worker]
        place.changed = True


def simulate(visits: Sequence[Visit], policy: Policy, setup: Setup | None = None) -> Record:
    return World(visits, policy, setup or Setup()).run()
