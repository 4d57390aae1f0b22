"""The controller on a real store, with a provider and a clock that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.controller.loop import Controller
from understudy.core.fleet import EdgeRow, Link, Node, Request, SessionRow, Worker, WorkerState
from understudy.core.ledger import Role
from understudy.core.policy_view import Rules
from understudy.core.pools import Wanted, last_seats
from understudy.seams import Provider, Store
from understudy.store.sqlite import SqliteStore

RENTED = Wanted("miku", "r1", slots=2, boot_s=10.0, price_per_h=0.4)
KEPT = Wanted("pitch", "r1", slots=4, keep=2)
LOOK_S = 0.25
EDGE = EdgeRow("e", "local", "")


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now(self) -> float:
        return self.time_s

    def wall(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the controller waits for its news only")


class Datacentre:
    """seams.Provider in memory: nodes start at once, and die when they are told to."""

    name = "fake"

    def __init__(self) -> None:
        self.there: dict[str, Node] = {}
        self.started = self.stopped = 0
        self.full = False  # nothing can be rented
        self.room: int | None = None  # so many nodes are free, and that is known
        self.leaving: set[str] = set()
        self.gate: asyncio.Event | None = None  # starts and stops take until it is set

    def refusal(self, node: Node, ahead: Iterable[Node] = ()) -> str | None:
        asked = len(self.there) + sum(other.id not in self.there for other in ahead)
        return "no GPU is free" if self.room is not None and asked >= self.room else None

    async def start(self, node: Node) -> None:
        assert node.id not in self.there
        assert self.refusal(node) is None
        self.started += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.full:
            raise RuntimeError("no GPU is free")
        self.there[node.id] = node

    async def stop(self, node: str) -> None:
        self.stopped += 1
        if self.gate is not None:
            await self.gate.wait()
        self.there.pop(node, None)

    async def nodes(self) -> Sequence[Node]:
        return [replace(node, leaving=node.id in self.leaving) for node in self.there.values()]

    async def close(self) -> None:
        self.there.clear()

    async def leave(self) -> None: ...

    def kill(self, node: str) -> None:
        self.there[node] = replace(self.there[node], exited="killed by signal 9")


@dataclass
class World:
    """All but the controller: the store, the nodes, the users, and what an edge does of itself."""

    store: Store
    wanted: list[Wanted] = field(default_factory=lambda: [RENTED])
    rules: Rules = field(default_factory=Rules)
    clock: Hands = field(default_factory=Hands)
    provider: Datacentre = field(default_factory=Datacentre)
    loads: bool = True  # nodes' workers dial in and load
    numbers: Any = field(default_factory=itertools.count)

    def controller(
        self, store: Store | None = None, provider: Provider | None = None
    ) -> Controller:
        return Controller(
            store or self.store,
            provider or self.provider,
            lambda: self.wanted,
            lambda: self.rules,
            self.clock,
        )

    async def look(self, controller: Controller, times: int = 1, every_s: float = LOOK_S) -> None:
        for _ in range(times):
            self.clock.time_s += every_s
            await self.store.beat(EDGE)
            await controller.once()
            await controller.settle()

    async def edge(self) -> None:
        """Links and sessions: workers load, moves are carried out, the dead are told of."""
        for worker in (await self.store.look()).workers:
            node = self.provider.there.get(worker.id)
            if worker.state is WorkerState.LOADING and node and not node.exited and self.loads:
                await self.store.link(Link(worker.id, "e", 0.001))
                await self.store.ready(worker.id, self.clock.wall())
            elif node is not None and node.exited:
                await self.store.unlink(worker.id, "e")
        fleet = await self.store.look()
        seats = last_seats(fleet.seats)
        for seat in fleet.seats:
            led = seat.role is Role.UNDERSTUDY and (seat.session, Role.LEAD) in seats
            if led or seat is not seats[seat.session, seat.role]:
                await self.store.release(seat.session, seat.worker, seat.slot, "e")

    async def live(self, controller: Controller, seconds: float, every_s: float = 1.0) -> None:
        for _ in range(round(seconds / every_s)):
            await self.look(controller, every_s=every_s)
            await self.edge()

    async def come(self, user: str, model: str = "miku", understudy: str = "") -> bool:
        """Whether the user was seated at once."""
        name = f"{user}-{next(self.numbers)}"
        now = self.clock.wall()
        await self.store.begin(SessionRow(name, user, "v", model, understudy, "local", "e", now))
        for role, of in ((Role.LEAD, model), (Role.UNDERSTUDY, understudy)):
            revision = next((want.revision for want in self.wanted if want.model == of), "")
            request = Request(name, of, "local", revision, role=role, edge="e")
            if of and await self.store.place(request):
                return role is Role.LEAD
        return False

    async def go(self, user: str) -> None:
        for row in (await self.store.look()).sessions:
            if row.user == user:
                await self.store.end(row.id, "stopped", self.clock.wall(), "e")

    async def workers(self, model: str = "miku") -> list[Worker]:
        return [worker for worker in (await self.store.look()).workers if worker.model == model]

    async def seats(self) -> dict[str, list[tuple[str, Role]]]:
        """By user."""
        fleet = await self.store.look()
        users = {row.id: row.user for row in fleet.sessions}
        found: dict[str, list[tuple[str, Role]]] = {user: [] for user in users.values()}
        for seat in fleet.seats:
            found[users[seat.session]].append((seat.worker, seat.role))
        return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = SqliteStore(tmp_path / "test.db")
    await store.open()
    await store.beat(EDGE)
    yield World(store)
    await store.close()


async def test_what_is_always_on_is_started_and_given_back_when_it_is_not_wanted(
    world: World,
) -> None:
    world.wanted = [KEPT, RENTED]
    controller = world.controller()
    await world.look(controller)
    pitch = await world.workers("pitch")
    assert [(w.state, w.revision, w.slots, w.region) for w in pitch] == [
        (WorkerState.LOADING, "r1", 4, "local")
    ] * 2
    assert {w.id for w in pitch} == set(world.provider.there)
    assert all(w.id.startswith("fake-") for w in pitch)
    assert await world.workers("miku") == []
    await world.live(controller, 60.0)
    assert world.provider.started == 2
    world.wanted = [replace(KEPT, keep=1)]
    await world.live(controller, 2.0)
    assert len(await world.workers("pitch")) == len(world.provider.there) == 1


async def test_a_worker_is_rented_for_who_waits_and_takes_him_once_it_is_ready(
    world: World,
) -> None:
    world.wanted, world.loads = [replace(KEPT, keep=1), RENTED], False
    controller = world.controller()
    await world.look(controller)
    (pitch,) = await world.workers("pitch")
    await world.store.link(Link(pitch.id, "e", 0.001))
    await world.store.ready(pitch.id, world.clock.wall())
    assert not await world.come("alice", understudy="pitch")
    assert await world.seats() == {"alice": [(pitch.id, Role.UNDERSTUDY)]}
    await world.look(controller, 20)
    told: list[float] = []
    controller.acted = lambda: told.append(world.clock.wall())
    await world.look(controller, 20)
    (miku,) = await world.workers()
    assert (miku.price_per_h, miku.slots) == (0.4, 2)
    assert told == []
    world.loads = True
    await world.edge()
    await world.look(controller)
    both = [(pitch.id, Role.UNDERSTUDY), (miku.id, Role.LEAD)]
    assert await world.seats() == {"alice": both}
    assert [seat.why for seat in (await world.store.look()).seats] == ["connect", "lead ready"]
    assert told == [world.clock.wall()]
    await world.edge()
    assert await world.seats() == {"alice": [(miku.id, Role.LEAD)]}
    assert await world.come("bob")  # there is a free slot, and nobody has to be asked


async def test_idle_workers_are_emptied_and_given_back_after_a_while(world: World) -> None:
    world.wanted = [replace(RENTED, slots=4)]
    controller = world.controller()
    users = [f"u{k}" for k in range(8)]
    for user in users:
        await world.come(user)
    await world.live(controller, 10.0)
    workers = await world.workers()
    assert len(workers) >= 2
    assert sorted(w.taken for w in workers)[-2:] == [4, 4]
    one, other = (w.id for w in workers if w.taken == 4)
    seats = await world.seats()
    for worker in (one, other):  # two are left, on two workers
        for user in [user for user in users if seats[user][0][0] == worker][1:]:
            await world.go(user)
    for _ in range(600):
        await world.live(controller, 10.0, every_s=10.0)
        if len(await world.workers()) == 1:
            break
    (left,) = await world.workers()
    assert left.taken == 2
    assert set(world.provider.there) == {left.id}
    (packed,) = [s for s in (await world.store.look()).seats if s.why == "packing"]
    assert packed.worker == left.id


async def test_a_worker_that_nobody_needs_is_kept_for_a_while_and_given_back(world: World) -> None:
    controller = world.controller()
    for k in range(4):
        await world.come(f"u{k}")
        await world.live(controller, 20.0)
    for k in range(4):
        await world.go(f"u{k}")
    left_s = world.clock.wall()
    await world.look(controller)
    assert len(await world.workers()) >= 1  # somebody may come
    while await world.workers():
        await world.live(controller, 5.0)
        assert world.clock.wall() - left_s < 3600.0
    assert world.provider.there == {}
    workers, _ = await world.store.history(0.0)
    assert {w.reason for w in workers} == {"not needed"}
    assert max(w.stopped_s or 0.0 for w in workers) > left_s + 1.0


async def test_a_worker_that_drains_is_emptied_and_goes(world: World) -> None:
    controller = world.controller()
    await world.come("alice")
    await world.live(controller, 5.0)
    (old,) = await world.workers()
    assert await world.store.drain(old.id, True)
    await world.look(controller)
    assert await world.seats() == {"alice": [(old.id, Role.LEAD)]}  # until another is ready
    await world.edge()
    await world.look(controller)
    new = next(w for w in await world.workers() if w.id != old.id)
    assert (await world.seats())["alice"][-1] == (new.id, Role.LEAD)
    assert (await world.store.look()).seats[-1].why == "drain"
    await world.live(controller, 15.0)
    assert [w.id for w in await world.workers()] == [new.id] == list(world.provider.there)


async def test_what_was_refused_is_tried_again_at_the_next_look(world: World) -> None:
    controller = world.controller()
    await world.come("alice")
    await world.live(controller, 5.0)
    (old,) = await world.workers()
    await world.store.drain(old.id, True)
    await world.look(controller)
    await world.edge()
    await world.look(controller)  # the move
    await world.look(controller)  # a stop, refused: her old seat is not given back yet
    await world.edge()
    await world.look(controller)
    assert old.id not in world.provider.there


async def test_a_new_revision_takes_the_sessions_over_and_the_old_one_goes(world: World) -> None:
    controller = world.controller()
    for user in ("alice", "bob"):
        await world.come(user)
    await world.live(controller, 5.0)
    world.wanted = [replace(RENTED, revision="r2")]
    await world.live(controller, 10.0)
    workers = await world.workers()
    assert {w.revision for w in workers} == {"r2"}
    assert {seats[0][0] for seats in (await world.seats()).values()} <= {w.id for w in workers}
    assert {seat.why for seat in (await world.store.look()).seats} == {"new revision"}


async def test_a_model_that_is_no_more_is_given_back_once_nobody_needs_it(world: World) -> None:
    world.wanted = [KEPT]
    controller = world.controller()
    await world.live(controller, 2.0)
    assert await world.come("alice", "pitch")
    world.wanted = []
    await world.live(controller, 2.0)
    assert [w.taken for w in await world.workers("pitch")] == [1]
    await world.go("alice")
    await world.live(controller, 2.0)
    assert (await world.workers("pitch"), world.provider.there) == ([], {})


async def test_a_node_that_dies_is_replaced_at_first_at_once_then_ever_more_rarely(
    world: World,
) -> None:
    world.wanted, world.loads = [replace(KEPT, keep=1)], False
    controller = world.controller()
    starts = []
    for _ in range(800):  # 200 s; each node dies before the next look
        before = world.provider.started
        await world.look(controller)
        if world.provider.started > before:
            starts.append(world.clock.wall())
        for node in list(world.provider.there):
            world.provider.kill(node)
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert gaps[0] <= 4 * LOOK_S
    assert gaps == sorted(gaps)
    assert gaps[-1] > 20.0
    dead, _ = await world.store.history(0.0)
    assert {w.reason for w in dead if w.stopped_s} == {"killed by signal 9"}


async def test_who_sat_on_a_dead_node_is_seated_on_the_next_one(world: World) -> None:
    controller = world.controller()
    await world.come("alice")
    await world.live(controller, 3.0)
    (dead,) = await world.workers()
    world.provider.kill(dead.id)
    await world.live(controller, 3.0)
    (worker,) = await world.workers()
    assert worker.id != dead.id
    assert await world.seats() == {"alice": [(worker.id, Role.LEAD)]}


async def test_a_node_that_nobody_knows_is_returned(world: World) -> None:
    await world.provider.start(Node("stray", "miku", "r1", "local"))
    await world.look(world.controller())
    assert world.provider.there == {}


async def test_a_worker_without_a_node_is_marked_gone_and_replaced(world: World) -> None:
    world.wanted = [replace(KEPT, keep=1)]
    controller = world.controller()
    await world.live(controller, 2.0)
    (lost,) = world.provider.there
    world.provider.there.clear()
    await world.look(controller, 2)
    (worker,) = await world.workers("pitch")
    assert worker.id != lost
    assert list(world.provider.there) == [worker.id]
    (gone,) = [w for w in (await world.store.history(0.0))[0] if w.id == lost]
    assert gone.reason == "its node is no more"


async def test_a_provider_that_has_nothing_is_asked_ever_more_rarely(world: World) -> None:
    world.wanted, world.provider.full = [replace(KEPT, keep=1)], True
    controller = world.controller()
    await world.look(controller, 800)
    assert 5 < world.provider.started < 20
    assert await world.workers("pitch") == []
    (reason, *_) = {w.reason for w in (await world.store.history(0.0))[0]}
    assert reason == "does not start: no GPU is free"
    world.provider.full = False
    await world.look(controller, 40, every_s=1.0)
    assert len(await world.workers("pitch")) == 1


async def test_what_is_known_not_to_be_had_leaves_no_rows_and_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.wanted, world.provider.room = [replace(KEPT, keep=3)], 1
    controller = world.controller()
    await world.live(controller, 100.0)
    assert world.provider.started == 1
    assert len((await world.store.history(0.0))[0]) == 1
    said = [text for text in caplog.messages if "is not started: no GPU is free" in text]
    assert len(said) == 1
    world.provider.room = 2
    await world.look(controller)  # at once: nothing has failed
    assert (len(await world.workers("pitch")), world.provider.started) == (2, 2)
    world.provider.room = 9
    await world.live(controller, 3.0)
    assert len(await world.workers("pitch")) == 3


async def test_who_is_on_a_node_that_is_about_to_leave_is_moved(world: World) -> None:
    controller = world.controller()
    await world.come("alice")
    await world.live(controller, 5.0)
    (old,) = await world.workers()
    world.provider.leaving.add(old.id)
    await world.live(controller, 15.0)
    (new,) = await world.workers()
    assert new.id != old.id
    assert await world.seats() == {"alice": [(new.id, Role.LEAD)]}
    assert list(world.provider.there) == [new.id]
    (reason,) = {w.reason for w in (await world.store.history(0.0))[0] if w.id == old.id}
    assert reason == "not needed"


async def test_what_is_being_rented_is_not_rented_twice_nor_taken_for_lost(world: World) -> None:
    world.wanted, world.provider.gate = [KEPT], asyncio.Event()
    controller = world.controller()
    for _ in range(8):
        world.clock.time_s += LOOK_S
        await controller.once()
    assert (world.provider.started, world.provider.there) == (2, {})
    assert len(await world.workers("pitch")) == 2
    world.provider.gate.set()
    await controller.settle()
    await world.look(controller, 4)
    assert {w.id for w in await world.workers("pitch")} == set(world.provider.there)
    assert world.provider.started == 2


async def test_what_is_being_returned_is_not_returned_twice(world: World) -> None:
    world.wanted = [replace(KEPT, keep=1)]
    controller = world.controller()
    await world.live(controller, 2.0)
    (dead,) = world.provider.there
    world.provider.kill(dead)
    world.provider.gate = asyncio.Event()
    for _ in range(8):
        world.clock.time_s += LOOK_S
        await controller.once()
        await world.edge()
    assert (world.provider.stopped, world.provider.started) == (1, 2)
    world.provider.gate.set()
    await controller.settle()
    await world.look(controller, 4)
    assert len(world.provider.there) == len(await world.workers("pitch")) == 1
    assert dead not in world.provider.there
    assert (world.provider.stopped, world.provider.started) == (1, 2)


async def test_it_looks_when_it_is_told_and_outlives_a_store_that_fails(world: World) -> None:
    world.wanted = [replace(KEPT, keep=1)]
    fault, looked = Fault(1), asyncio.Event()
    controller = Controller(
        fault.line(world.store),
        world.provider,
        lambda: world.wanted,
        lambda: world.rules,
        world.clock,
        look_s=3600.0,
    )
    controller.acted = looked.set
    running = asyncio.create_task(controller.run())
    while not fault.struck:
        await asyncio.sleep(0)
    assert not looked.is_set()
    controller.nudge()
    await looked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert {w.id for w in await world.workers("pitch")} == set(world.provider.there)


async def test_limits_hold_for_what_is_rented_only(world: World) -> None:
    world.wanted, world.rules = [KEPT, RENTED], Rules(max_nodes=1)
    controller = world.controller()
    for k in range(5):
        await world.come(f"u{k}")
    await world.live(controller, 20.0)
    assert (len(await world.workers("pitch")), len(await world.workers())) == (2, 1)
    assert [seats != [] for seats in (await world.seats()).values()] == [True, True, *[False] * 3]


# --- It may die at any line ---


class Died(Exception):
    """The process is no more, or the line was cut."""


@dataclass
class Fault:
    """The `at`-th call fails, before or after it took effect; `fatal`: and every one after it."""

    at: int
    reads: bool = True  # calls that change nothing are counted, too
    late: bool = False
    fatal: bool = False
    cancels: bool = False
    calls: int = 0
    struck: bool = False

    def line(self, behind: Any) -> Any:
        """A store or a provider, behind a line that fails."""
        return Line(behind, self)

    async def through(self, call: Callable[..., Any], *args: Any) -> Any:
        counts = self.reads or call.__name__ not in ("look", "nodes")
        self.calls += counts
        now = counts and self.calls == self.at
        fails = now or (self.fatal and self.calls >= self.at > 0)
        result = await call(*args) if not fails or (now and self.late) else None
        if fails:
            self.struck = True
            raise asyncio.CancelledError if self.cancels else Died
        return result


class Line:
    def __init__(self, behind: Any, fault: Fault) -> None:
        self._behind, self._fault = behind, fault
        self.name = getattr(behind, "name", "")
        self.refusal = getattr(behind, "refusal", None)  # nothing goes over the line for it

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._fault.through, getattr(self._behind, name))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, 9)),
        st.tuples(st.just("go"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["kill", "drain"]), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([1, 30, 300])),
        st.tuples(st.just("deploy"), st.integers(1, 3)),
    ),
    max_size=12,
)


async def play(steps: list[tuple[str, int]], fault: Fault) -> tuple[World, int]:
    """The story under a controller that fails once; returns what is so in the end."""
    store = SqliteStore(Path(":memory:"))
    await store.open()
    await store.beat(EDGE)
    world = World(store, [replace(KEPT, keep=1), RENTED], Rules(patience=1.0))
    controller = world.controller(fault.line(store), fault.line(world.provider))

    async def look() -> None:
        nonlocal controller
        world.clock.time_s += LOOK_S
        await store.beat(EDGE)
        with contextlib.suppress(Died, asyncio.CancelledError):
            await controller.once()
        await controller.settle()
        if fault.struck and fault.fatal:
            fault.struck, controller = False, world.controller()
        await world.edge()

    await look()
    for step, number in [*steps, ("wait", 60)]:
        users, workers = await world.seats(), (await store.look()).workers
        match step:
            case "come" if f"u{number}" not in users:
                await world.come(f"u{number}", understudy="pitch" if number % 2 else "")
            case "go":
                await world.go(f"u{number}")
            case "kill" if workers and (node := workers[number % len(workers)].id):
                if node in world.provider.there:
                    world.provider.kill(node)
            case "drain" if workers:
                await store.drain(workers[number % len(workers)].id, True)
            case "deploy":
                world.wanted[1] = replace(RENTED, revision=f"r{number}")
            case "wait":
                world.clock.time_s += number
        await look()
        await look()
    for _ in range(80):
        world.clock.time_s += 5.0
        await look()
    return world, fault.calls


async def check(world: World) -> None:
    """Nothing is lost and nothing is double."""
    fleet = await world.store.look()
    assert {w.id for w in fleet.workers} == set(world.provider.there)
    assert not any(node.exited for node in world.provider.there.values())
    assert {w.state for w in fleet.workers} <= {WorkerState.READY}
    assert not any(w.draining for w in fleet.workers)
    assert {w.revision for w in fleet.workers if w.model == "miku"} <= {world.wanted[1].revision}
    for user, seats in (await world.seats()).items():
        assert [role for _, role in seats] == [Role.LEAD], user
    assert len({(s.worker, s.slot) for s in fleet.seats}) == len(fleet.seats)


def count(workers: Sequence[Worker]) -> dict[str, int]:
    return {model: sum(w.model == model for w in workers) for model in ("miku", "pitch")}


@settings(max_examples=50, deadline=None)
@given(STEPS, st.floats(0.0, 1.0), st.builds(Fault, st.just(0), *[st.booleans()] * 4))
def test_the_controller_may_die_at_any_line(
    steps: list[tuple[str, int]], where: float, fault: Fault
) -> None:
    async def story() -> None:
        calm, calls = await play(steps, Fault(0, fault.reads))
        await check(calm)
        world, _ = await play(steps, replace(fault, at=1 + int(where * calls)))
        await check(world)
        there, expected = (await world.store.look()).workers, (await calm.store.look()).workers
        assert count(there) == count(expected)
        assert list(await world.seats()) == list(await calm.seats())
        await calm.store.close()
        await world.store.close()

    asyncio.run(story())
