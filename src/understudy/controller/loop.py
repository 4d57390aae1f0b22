"""The controller: look, decide, act a little, look again. It never trusts an old plan.

All that it knows is in the store and with the provider; what it remembers only makes it better.
So it may stop at any line and another may go on: a worker is recorded before its node is asked
for, is marked before it is returned, and every move is a guarded write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

from understudy.core import policy, supervision
from understudy.core.errors import NoCapacity, StoreAway
from understudy.core.fleet import EdgeRow, Fleet, Node, Worker, WorkerState
from understudy.core.policy_view import Key, Memory, Move, Plan, Pool, Rules, Start, View
from understudy.core.pools import Traffic, Wanted, pool_of
from understudy.core.supervision import supervise
from understudy.seams import Clock, Provider, Store

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
RETRY_S: Final = 5.0  # between two tries to return a node
DARK_S: Final = 30.0  # without an edge, a region gets nothing new; an edge may be restarting
ACT_S: Final = 1.0  # how long moves may take before it looks again
ORPHAN_S: Final = 10.0  # how long a session may be no edge's: its user may come back
RULES: Final = supervision.Rules()


class Controller:
    """Keeps the fleet what the policy wants, for as long as `run` runs."""

    def __init__(
        self,
        store: Store,
        provider: Provider,
        wanted: Callable[[], Sequence[Wanted]],
        rules: Callable[[], Rules],
        clock: Clock,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """`wanted()`: the models there are, as of now; `rules()`: what the operator chose."""
        self._store = store
        self._provider = provider
        self._wanted = wanted
        self._rules = rules
        self._clock = clock
        self._look_s = look_s
        self._news = asyncio.Event()
        self._pools: dict[Key, Pool] = {}
        self._traffic = Traffic()
        self._memory = Memory()
        self._silence = supervision.Memory()
        self._missing: dict[str, float] = {}  # edges that only sessions' rows name, since when
        self._served: dict[str, float] = {}  # region -> when it last had an edge
        self.leads = False  # of all controllers on this database, one does
        self._busy: dict[str, asyncio.Task[None]] = {}  # nodes that are being asked for or returned
        self._asked: dict[str, Node] = {}  # ... the former
        self._short: set[Key] = set()  # pools that want more than the provider has
        self.acted: Callable[[], None] = lambda: None  # an edge has something new to look at
        self.plans: Callable[[float, View, Plan], None] = lambda now, view, plan: None

    def nudge(self) -> None:
        """Something has changed: look soon."""
        self._news.set()

    async def run(self) -> None:
        try:
            while True:
                self._news.clear()
                try:
                    await self.once()
                except StoreAway as away:
                    log.warning("%s", away.message)
                    self._pools = {}  # what was planned may not have been done
                except Exception:
                    log.exception("a look at the fleet failed; looking again")
                    self._pools = {}
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await self._news.wait()
        finally:
            await self.settle()

    async def settle(self) -> None:
        """Waits for what was begun with the provider."""
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def once(self) -> None:
        self.leads = await self._store.is_leader()
        if not self.leads:
            self._memory, self._silence, self._pools = Memory(), supervision.Memory(), {}
            self._served = {}
            return
        now = self._clock.wall()
        busy = set(self._busy)  # what ends while we look may be seen half
        fleet, nodes = await asyncio.gather(self._store.look(), self._provider.nodes())
        busy |= self._busy.keys()
        held = await self._supervise(
            [worker for worker in fleet.workers if worker.id not in busy],
            [node for node in nodes if node.id not in busy],
            fleet.edges,
            now,
        )
        await self._find_ownerless(fleet, now)
        if any(row.orphaned_s is not None for row in fleet.sessions):
            await self._store.expire(now - ORPHAN_S)
        view = self._view(fleet, held)
        # In a thread: levels that were never seen before may take a second to solve, and where
        # this process is an edge too, audio must not wait for that.
        plan, self._memory = await asyncio.to_thread(
            policy.decide, view, self._rules(), now, self._memory
        )
        self.plans(now, view, plan)
        await self._act(plan, fleet)

    async def _supervise(
        self,
        workers: Sequence[Worker],
        nodes: Sequence[Node],
        edges: Sequence[EdgeRow],
        now: float,
    ) -> frozenset[Key]:
        verdict, self._silence = supervise(nodes, workers, edges, RULES, now, self._silence)
        for edge in verdict.dead:
            orphans = await self._store.lose(edge.name, now, edge.beat)
            log.error("edge %s is silent and given up; %d sessions", edge.name, orphans)
        for node in verdict.discard:
            why = node.exited or "hangs, or has lost its link"
            log.warning("node %s (%s) is returned: it %s", node.id, node.model, why)
            self._begin(node.id, self._return(node.id, why))
        leaving = {node.id for node in nodes if node.leaving}
        for worker in workers:
            if worker.id in leaving and not worker.draining:
                log.info("worker %s is emptied: its machine is about to leave", worker.id)
                await self._store.drain(worker.id, True)
        for worker in verdict.lost:
            await self._store.gone(worker.id, None, "its node is no more")
        for worker in workers:  # somebody was about to return it
            if worker.state is WorkerState.STOPPING and worker.id not in self._busy:
                self._begin(worker.id, self._return(worker.id, "not needed"))
        return verdict.held

    async def _find_ownerless(self, fleet: Fleet, now: float) -> None:
        """Sessions of an edge that is not there: written as it was lost."""
        there = {edge.name for edge in fleet.edges} | {""}
        missing = {row.edge for row in fleet.sessions} - there
        self._missing = {name: self._missing.get(name, now) for name in missing}
        for name, since_s in self._missing.items():
            if now - since_s > RULES.edge_s:
                await self._store.lose(name, now)

    def _view(self, fleet: Fleet, held: frozenset[Key]) -> View:
        self._traffic = self._traffic.after(fleet)
        wanted = {want.model: want for want in self._wanted()}
        for worker in fleet.workers:  # of a model that is no more: they finish, and go
            wanted.setdefault(
                worker.model, Wanted(worker.model, worker.revision, worker.slots, keep=0)
            )
        pools: dict[Key, Pool] = {}
        self._short = {key for key in self._short if self._refusal(*key) is not None}
        now = self._clock.wall()
        if not self._served:  # who has just begun to lead does not know who was dark before
            self._served.update({worker.region: now for worker in fleet.workers})
        self._served.update({edge.region: now for edge in fleet.edges})
        serving = {region for region, at_s in self._served.items() if now - at_s < DARK_S}
        for want in wanted.values():
            for region in sorted(serving | {worker.region for worker in fleet.workers}):
                # A region that is dark gets nothing new.
                here = want if region in serving else replace(want, keep=0)
                is_held = (want.model, region) in held | self._short
                pool = pool_of(fleet, here, region, self._traffic, held=is_held)
                old = self._pools.get(pool.key)
                pools[pool.key] = old if old is not None and old == pool else pool
        self._pools = pools
        return View(tuple(pools.values()), fleet.rtt_s())

    async def _act(self, plan: Plan, fleet: Fleet) -> None:
        workers = {worker.id: worker for worker in fleet.workers}
        homes = {row.id: row.region for row in fleet.sessions}
        until = self._clock.now() + ACT_S
        for move in plan.moves:
            if self._clock.now() > until:  # a far store: look again before the rest
                self._pools = {}
                return
            why = self._why(move, workers, homes)
            if await self._store.move(move.session, move.source, move.target, why):
                self.acted()
            else:
                self._look_again(workers[move.target].model)
        for stop in plan.stops:
            if stop.worker in self._busy:
                continue
            if await self._store.retire(stop.worker):
                log.info("worker %s is given back", stop.worker)
                self._begin(stop.worker, self._return(stop.worker, "not needed"))
            else:
                self._look_again(workers[stop.worker].model)
        ahead = list(self._asked.values())
        for start in plan.starts:
            key = (start.model, start.region)
            refusal = self._refusal(*key, ahead)
            if refusal is not None:
                if key not in self._short:
                    log.warning("%s is not started: %s", start.model, refusal)
                self._short.add(key)
            elif node := await self._start(start):
                ahead.append(node)
        if plan.stops or plan.starts:
            self.acted()

    def _refusal(self, model: str, region: str, ahead: Sequence[Node] = ()) -> str | None:
        return self._provider.refusal(Node("", model, "", region), ahead)

    def _look_again(self, model: str) -> None:
        """A race was lost: the policy is to see the model's pools anew, be they as they were."""
        self._pools = {key: pool for key, pool in self._pools.items() if key[0] != model}

    def _why(self, move: Move, workers: dict[str, Worker], homes: dict[str, str]) -> str:
        if move.source is None:
            return "lead ready"
        source, target = workers.get(move.source), workers[move.target]
        if source is not None and source.draining:
            return "drain"
        if source is not None and source.region != target.region == homes.get(move.session):
            return "home"
        return "packing" if source and source.revision == target.revision else "new revision"

    async def _start(self, start: Start) -> Node | None:
        wanted = next((want for want in self._wanted() if want.model == start.model), None)
        if wanted is None:  # taken out of the configuration a moment ago
            return None
        name = f"{self._provider.name}-{secrets.token_hex(4)}"
        await self._store.rent(
            Worker(
                name,
                start.model,
                start.revision,
                start.region,
                wanted.slots,
                WorkerState.LOADING,
                self._clock.wall(),
                wanted.price_per_h,
            )
        )
        node = Node(name, start.model, start.revision, start.region, started_s=self._clock.wall())
        self._asked[name] = node
        self._begin(name, self._ask_for(node))
        return node

    async def _ask_for(self, node: Node) -> None:
        log.info("node %s starts for %s", node.id, node.model)
        try:
            await self._provider.start(node)
        except Exception as error:
            if isinstance(error, NoCapacity | StoreAway):
                log.warning("node %s does not start: %s", node.id, error.message)
            else:
                log.exception("node %s does not start", node.id)
            now = self._clock.wall()
            key = (node.model, node.region)
            self._silence = supervision.crashed(key, RULES, now, self._silence)
            self._look_again(node.model)  # nothing may seem to have changed since it was planned
            await self._store.gone(node.id, self._clock.wall(), f"does not start: {error}")

    async def _return(self, node: str, why: str) -> None:
        try:
            await self._provider.stop(node)
        except Exception as error:
            log.error("node %s cannot be returned (%r); trying again", node, error)
            await self._clock.sleep(RETRY_S)
        else:
            await self._store.gone(node, self._clock.wall(), why)

    def _begin(self, node: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._busy[node] = task

        def done(task: asyncio.Task[None]) -> None:
            self._busy.pop(node, None)
            self._asked.pop(node, None)
            self.nudge()
            if task.cancelled() or (error := task.exception()) is None:
                return
            if isinstance(error, StoreAway):  # the next look finds what is left to do
                log.warning("node %s: %s", node, error.message)
            else:
                log.error("the provider failed with node %s", node, exc_info=error)

        task.add_done_callback(done)
