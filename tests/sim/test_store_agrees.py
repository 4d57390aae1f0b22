"""The differential test: the simulator's world and a real store show the policy the same fleet.

Every event of a simulated trace is also written to a real SqliteStore, through the calls that the
edge and the controller make. At each look, what the controller would build from the store must be
what the simulator shows; `decide` being pure, the plans are then identical, and so they are asked
to be. At each connect, the store's own transaction must choose the worker that the simulator chose.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from understudy.core import policy
from understudy.core.fleet import EdgeRow, Link, Request, SessionRow, Worker, WorkerState
from understudy.core.policy_view import Memory, Plan, Pool, Rules, Stage, View
from understudy.core.pools import Traffic, Wanted, pool_of
from understudy.sim.record import Setup
from understudy.sim.traffic import Made, Visit, make
from understudy.sim.world import REVISION, World
from understudy.store.sqlite import SqliteStore

T = TypeVar("T")


def normal(pool: Pool) -> Pool:
    """Sessions of a worker in the order in which they connected; what is learnt of boots apart."""
    workers = tuple(
        replace(w, sessions=tuple(sorted(w.sessions, key=lambda s: (s.connected_s, s.id))))
        for w in sorted(pool.workers, key=lambda w: (w.since_s, w.id))
    )
    return replace(pool, workers=workers, boot_s=10.0)


class Shadow:
    """A policy for the simulator that keeps a store beside it and compares."""

    name = "shadow"
    has_understudy = True

    def __init__(self, store: SqliteStore, rules: Rules, visits: Sequence[Visit]) -> None:
        self.store, self.rules, self.visits = store, rules, visits
        self.now = 0.0
        self.loop = asyncio.new_event_loop()
        self.traffic = Traffic()
        self.looks = self.placed = self.moved = 0
        self.users: dict[str, SessionRow] = {}
        self.workers: dict[str, Stage] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def first(self) -> Memory:
        self.do(self.store.open())
        for region in {visit.region for visit in self.visits}:
            self.do(self.store.beat(EdgeRow(region, region, "")))
        return Memory()

    def place(self, view: View, request: Request, memory: Memory) -> str | None:
        self._follow(view)
        at = self.visits[int(request.session)].start_s
        row = SessionRow(
            request.session, request.session, request.model, request.model, "", request.region,
            request.region, at,
        )  # fmt: skip
        self.users[row.id] = row
        self.do(self.store.begin(row))
        asked = replace(request, revision=REVISION, edge=request.region)
        found = self.do(self.store.place(asked))
        chosen = policy.place(view, self.rules, request)
        assert (found.worker if found else None) == chosen
        self.placed += 1
        return chosen

    def decide(self, view: View, now: float, memory: Memory) -> tuple[Plan, Memory]:
        self.now = now
        self._follow(view)
        fleet = self.do(self.store.look())
        self.traffic = self.traffic.after(fleet)
        wanted = {pool.model: Wanted(pool.model, REVISION, pool.slots, None, pool.price_per_h)
                  for pool in view.pools}  # fmt: skip
        pools = tuple(
            pool_of(fleet, wanted[pool.model], pool.region, self.traffic) for pool in view.pools
        )
        measured = fleet.rtt_s()
        far = {pair: rtt_s for pair, rtt_s in view.rtt_s.items() if pair in measured}
        assert far == {pair: measured[pair] for pair in far}
        assert [normal(pool) for pool in pools] == [normal(pool) for pool in view.pools]
        mine, _ = policy.decide(self._like(view, pools), self.rules, now, memory)
        plan, memory = policy.decide(self._like(view, view.pools), self.rules, now, memory)
        assert mine == plan
        for move in plan.moves:
            self.moved += 1
            assert self.do(self.store.move(move.session, move.source, move.target, "test"))
            self._leave(move.session, keep=move.target)
        for stop in plan.stops:
            assert self.do(self.store.retire(stop.worker))
            self.do(self.store.gone(stop.worker, now, "not needed"))
            del self.workers[stop.worker]
        self.looks += 1
        return plan, memory

    def _like(self, view: View, pools: tuple[Pool, ...]) -> View:
        return View(tuple(normal(pool) for pool in pools), view.rtt_s)

    def _leave(self, session: str, keep: str | None = None) -> None:
        for seat in self.do(self.store.look()).seats:
            if seat.session == session and seat.worker != keep:
                edge = self.users[session].edge
                self.do(self.store.release(session, seat.worker, seat.slot, edge))

    def _follow(self, view: View) -> None:
        """Writes what has happened in the world since the last look: starts, loads and ends."""
        there: set[str] = set()
        for pool in view.pools:
            for worker in pool.workers:
                there |= {session.id for session in worker.sessions}
                if worker.id not in self.workers:
                    self.do(
                        self.store.rent(
                            Worker(
                                worker.id, worker.model, worker.revision, worker.region,
                                worker.slots, WorkerState.LOADING, worker.since_s,
                                pool.price_per_h,
                            )
                        )
                    )  # fmt: skip
                elif self.workers[worker.id] is not worker.stage:
                    for region in {pool.region for pool in view.pools}:
                        far_s = view.rtt_s.get((region, worker.region), 9.0)
                        rtt_s = 0.0 if region == worker.region else far_s
                        self.do(self.store.link(Link(worker.id, region, rtt_s)))
                    self.do(self.store.ready(worker.id, worker.since_s))
                self.workers[worker.id] = worker.stage
            there |= {session.id for session in pool.waiting}
        for name in self.users.keys() - there:
            self.do(self.store.end(name, "stopped", self.now, self.users[name].edge))
            del self.users[name]


@pytest.mark.parametrize("limit", [None, 3])
def test_the_store_shows_the_policy_what_the_simulator_does(
    tmp_path: Path, limit: int | None
) -> None:
    visits = make(Made(at_once=12.0, hours=0.4, seed=7))
    store = SqliteStore(tmp_path / "shadow.db")
    rules = Rules(max_nodes=limit)
    shadow = Shadow(store, rules, visits)
    World(visits, shadow, Setup(max_nodes=limit)).run()
    shadow.do(store.close())
    shadow.loop.close()
    assert shadow.placed == len(visits) > 20
    assert shadow.looks > 3 * len(visits)
    assert shadow.moved > 5
