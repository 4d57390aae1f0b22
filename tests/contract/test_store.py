"""What every store promises."""

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.postgres import postgres
from understudy.core.errors import AlreadyLive, ConfigError, StoreAway
from understudy.core.fleet import (
    Deployment,
    EdgeRow,
    Link,
    Machine,
    Node,
    Placement,
    Request,
    Seat,
    SessionRow,
    Worker,
    WorkerState,
)
from understudy.core.ledger import Interval, Role
from understudy.core.wire import Card, Control
from understudy.seams import Store
from understudy.store import open_store
from understudy.store.postgresql import CONNECTIONS, PostgresStore
from understudy.store.sqlite import SqliteStore

T = TypeVar("T")

ADAPTERS = ("sqlite", "postgresql")
CARD = Card(24_000, 240, 960, 3.0, 4, {"pitch": Control(-24, 24, 0, "semitones")})
LOADING, READY, STOPPING = WorkerState.LOADING, WorkerState.READY, WorkerState.STOPPING


def row(session: str, user: str = "", **changes: Any) -> SessionRow:
    row = SessionRow(session, user or f"user of {session}", "miku", "m", "", "sf", "edge-1", 100.0)
    return replace(row, **changes)


def worker(name: str, **changes: Any) -> Worker:
    return replace(Worker(name, "m", "r1", "sf", 2, LOADING, 50.0), **changes)


def request(session: str, **changes: Any) -> Request:
    return replace(Request(session, "m", "sf", "r1", edge="edge-1"), **changes)


@pytest.fixture(params=ADAPTERS)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str | Path]:
    """A database that nobody else has."""
    if request.param == "sqlite":
        yield tmp_path / "test.db"
    else:
        name = await with_tables()
        yield postgres().url(name)
        await postgres().drop(name)


@pytest.fixture
async def store(where: str | Path) -> AsyncIterator[Store]:
    store = await open_store(where)
    yield store
    await store.close()


@pytest.fixture
async def other(where: str | Path) -> AsyncIterator[Store]:
    """Another process's, on the same database."""
    other = await open_store(where)
    yield other
    await other.close()


TEMPLATES: list[str] = []


async def with_tables() -> str:
    """A new database on the server, as if a store had been there."""
    if not TEMPLATES:
        name = await postgres().create()
        await (await open_store(postgres().url(name))).close()
        TEMPLATES.append(name)
    return await postgres().create(TEMPLATES[0])


async def up(store: Store, *names: str, **changes: Any) -> None:
    """Workers that have loaded."""
    await store.beat(EdgeRow("edge-1", "sf", ""))
    for name in names:
        await store.rent(worker(name, **changes))
        await store.ready(name, 60.0)
        await store.link(
            Link(name, "edge-1", 0.001 if changes.get("region", "sf") == "sf" else 0.4)
        )


async def come(store: Store, *sessions: str, **changes: Any) -> None:
    """Live sessions, in this order."""
    for number, session in enumerate(sessions):
        await store.begin(row(session, **({"started_s": 100.0 + number} | changes)))


async def seat(store: Store, worker: str, *sessions: str, **changes: Any) -> None:
    """Seats sessions on a worker, which no other could take."""
    for session in sessions:
        assert await store.move(session, None, worker, "connect")


async def seats(store: Store) -> list[tuple[str, str, int]]:
    return [(s.session, s.worker, s.slot) for s in (await store.look()).seats]


# --- Sessions ---


async def test_a_user_has_one_live_stream(store: Store) -> None:
    await store.begin(row("s1", "alice"))
    with pytest.raises(AlreadyLive) as caught:
        await store.begin(row("s2", "alice"))
    assert caught.value.session == "s1"
    await store.begin(row("s3", "bob"))
    await store.end("s1", "stopped", 160.0, "edge-1")
    await store.begin(row("s2", "alice"))
    assert {s.id for s in (await store.look()).sessions} == {"s2", "s3"}


async def test_one_of_those_who_come_as_one_user_at_once_is_let_in(
    store: Store, other: Store
) -> None:
    for number in range(10):
        user = f"user {number}"
        names = [f"{user}, {place}" for place in range(4)]
        asked = [
            one.begin(row(name, user)) for one, name in zip((store, other) * 2, names, strict=True)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        (live,) = [name for name, answer in zip(names, answers, strict=True) if answer is False]
        refused = [answer for answer in answers if isinstance(answer, AlreadyLive)]
        assert [answer.session for answer in refused] == [live] * 3


async def test_what_is_said_twice_is_done_once(store: Store) -> None:
    """Whoever lost a connection cannot know whether it was heard, and says it again."""
    deployment = Deployment("m", "r1", 10.0, "{}")
    for _ in range(2):
        await store.rent(worker("w"))
        await store.begin(row("s", "alice"))
        await store.deploy(deployment)
    fleet = await store.look()
    assert (fleet.workers, fleet.sessions) == ((worker("w"),), (row("s", "alice"),))
    assert list(await store.deployments()) == [deployment]
    await store.ready("w", 60.0)
    await store.rent(worker("w"))  # very late: it is not loading any more
    assert [w.state for w in (await store.look()).workers] == [READY]


async def test_the_first_end_counts(store: Store) -> None:
    await store.begin(row("s1"))
    await store.end("s1", "stopped", 160.0, "edge-1")
    await store.end("s1", "error", 999.0, "edge-1")
    _, (ended,) = await store.history(0.0)
    assert (ended.reason, ended.ended_s) == ("stopped", 160.0)


# --- Seats ---


async def test_slots_are_given_once_and_given_back(store: Store) -> None:
    await up(store, "w")
    await come(store, "s1", "s2", "s3")
    first = await store.place(request("s1"))
    second = await store.place(request("s2"))
    assert first is not None
    assert second is not None
    assert {first.slot, second.slot} == {0, 1}
    assert await store.place(request("s3")) is None
    assert [w.taken for w in (await store.look()).workers] == [2]
    await store.release("s1", "w", first.slot, "edge-1")
    await store.end("s1", "stopped", 1.0, "edge-1")
    assert await store.place(request("s3")) == first
    await store.end("s2", "stopped", 1.0, "edge-1")
    assert [w.taken for w in (await store.look()).workers] == [1]


async def test_asked_again_a_session_gets_the_seat_that_it_has_in_that_role(store: Store) -> None:
    await up(store, "lead", "cover")
    await up(store, "cover2", model="pitch")
    await come(store, "s", understudy="pitch")
    covers = request("s", model="pitch", role=Role.UNDERSTUDY, why="connect")
    covered = await store.place(covers)
    assert covered == Placement("cover2", 0)
    assert await store.place(covers) == covered
    led = await store.place(request("s"))
    assert led is not None
    assert led != covered
    assert await store.place(request("s")) == led
    assert await store.place(covers) == covered
    other = {"lead": "cover", "cover": "lead"}[led.worker]
    assert await store.move("s", led.worker, other, "packing")
    assert await store.place(request("s")) == Placement(other, 0)  # where it goes
    assert [(s.role, s.worker, s.turn) for s in (await store.look()).seats] == [
        (Role.UNDERSTUDY, "cover2", 0),
        (Role.LEAD, led.worker, 1),
        (Role.LEAD, other, 2),
    ]


async def test_an_understudys_seat_leaves_the_session_waiting_for_its_lead(store: Store) -> None:
    await up(store, "pitch", model="pitch")
    await come(store, "covered", understudy="pitch")
    await come(store, "later", started_s=200.0)
    await store.place(request("covered", model="pitch", role=Role.UNDERSTUDY))
    await up(store, "w")
    assert await store.place(request("later")) is None  # `covered` came first
    assert await store.place(request("covered")) == Placement("w", 0)
    assert await store.place(request("later")) == Placement("w", 1)


async def test_the_newest_revision_is_chosen_then_the_fullest_worker(store: Store) -> None:
    await come(store, *"abcdefg")
    await up(store, "empty", slots=3)
    await up(store, "full", slots=3)
    await up(store, "old", revision="r0", slots=3)
    await seat(store, "full", "a")
    await seat(store, "old", "b", "c")
    chosen = []
    for session in "defg":
        placement = await store.place(request(session))
        assert placement is not None
        chosen.append(placement.worker)
    assert chosen == ["full", "full", "empty", "empty"]
    await come(store, "x", "y", started_s=200.0)
    await store.place(request("x"))
    assert await store.place(request("y")) == Placement("old", 2)  # better than none


async def test_nobody_overtakes_who_came_earlier_and_waits(store: Store) -> None:
    await come(store, "first", "second", "third")
    await come(store, "elsewhere", started_s=50.0, region="tokyo")
    await come(store, "covered", started_s=50.0, model="other", understudy="m")
    await up(store, "w", slots=3)
    assert await store.place(request("second")) is None  # `first` and `covered` wait
    assert await store.place(request("first")) is None
    understudy = request("covered", role=Role.UNDERSTUDY)
    assert await store.place(understudy) == Placement("w", 0)
    assert await store.place(request("second")) is None
    assert await store.place(request("first")) == Placement("w", 1)
    assert await store.place(request("second")) == Placement("w", 2)
    assert await store.place(request("third")) is None


async def test_who_came_at_the_same_instant_is_ordered_by_name(store: Store) -> None:
    await come(store, "a", "b", started_s=100.0)
    await up(store, "w")
    assert await store.place(request("b")) is None
    assert await store.place(request("a")) is not None


async def test_a_worker_takes_nobody_unless_it_is_ready_and_wanted(store: Store) -> None:
    await come(store, "s")
    await store.rent(worker("loads"))
    await up(store, "drains", "stops", "went", "far")
    await up(store, "other", model="n")
    await up(store, "away", region="tokyo")
    assert await store.drain("drains", True)
    assert await store.retire("stops")
    assert await store.retire("far")
    await store.gone("went", 70.0, "crashed")
    assert await store.place(request("s")) is None
    for target in ("loads", "drains", "stops", "went", "other", "nobody"):
        assert not await store.move("s", None, target, "lead ready")
    assert await store.drain("drains", False)
    assert await store.place(request("s")) == Placement("drains", 0)


async def test_ended_and_unknown_sessions_get_no_slot(store: Store) -> None:
    await up(store, "w")
    await come(store, "s")
    await store.end("s", "gone", 1.0, "edge-1")
    assert await store.place(request("s")) is None
    assert await store.place(request("nobody")) is None
    assert not await store.move("s", None, "w", "lead ready")
    assert not await store.move("nobody", None, "w", "lead ready")


async def test_a_free_slot_is_found_while_a_fuller_worker_is_being_left(store: Store) -> None:
    await up(store, "a", "b", slots=4)
    await come(store, *"pqrstu")
    await seat(store, "a", *"pqrs")
    await seat(store, "b", "t")
    assert await store.move("s", "a", "b", "packing")  # a: four seats, one of which is being left
    assert await store.place(request("u")) == Placement("b", 2)


async def test_a_move_takes_a_second_seat(store: Store) -> None:
    await up(store, "a", "b")
    await come(store, "s")
    await seat(store, "a", "s")
    assert not await store.move("s", None, "b", "lead ready")  # it sits on a
    assert not await store.move("s", "b", "b", "packing")
    assert await store.move("s", "a", "b", "packing")
    assert (await store.look()).seats == (
        Seat("s", "a", 0, Role.LEAD, 0, "connect"),
        Seat("s", "b", 0, Role.LEAD, 1, "packing"),
    )
    assert [w.taken for w in (await store.look()).workers] == [1, 1]
    assert not await store.move("s", "a", "b", "packing")  # an old plan: it goes to b now
    await store.release("s", "a", 0, "edge-1")
    assert await seats(store) == [("s", "b", 0)]


async def test_a_move_to_where_nothing_is_free_is_refused(store: Store) -> None:
    await up(store, "a")
    await up(store, "b", slots=1)
    await come(store, "s", "t")
    await seat(store, "a", "s")
    await seat(store, "b", "t")
    assert not await store.move("s", "a", "b", "packing")
    await store.end("t", "stopped", 1.0, "edge-1")
    assert await store.drain("b", True)
    assert not await store.move("s", "a", "b", "packing")
    assert await seats(store) == [("s", "a", 0)]


async def test_an_understudy_is_moved_among_its_kind_and_given_up_for_the_lead(
    store: Store,
) -> None:
    await up(store, "p", "q", model="pitch")
    await up(store, "w")
    await come(store, "s", understudy="pitch")
    assert await store.move("s", None, "p", "connect")
    assert not await store.move("s", "p", "w", "lead ready")  # of the lead's kind it has none
    assert await store.move("s", "p", "q", "packing")
    await store.release("s", "p", 0, "edge-1")
    assert await store.move("s", None, "w", "lead ready")
    assert not await store.move("s", "q", "p", "packing")  # who has a lead needs no other
    assert [(s.worker, s.role) for s in (await store.look()).seats] == [
        ("q", Role.UNDERSTUDY),
        ("w", Role.LEAD),
    ]


async def test_only_ones_own_seat_is_released(store: Store) -> None:
    await up(store, "w")
    await come(store, "s", "t")
    await seat(store, "w", "s", "t")
    await store.release("s", "w", 1, "edge-1")
    await store.release("nobody", "w", 0, "edge-1")
    assert await seats(store) == [("s", "w", 0), ("t", "w", 1)]
    await store.release("s", "w", 0, "edge-1")
    await store.release("s", "w", 0, "edge-1")  # again: nothing happens
    assert await seats(store) == [("t", "w", 1)]


async def test_racing_sessions_never_share_a_slot(store: Store, other: Store) -> None:
    names = [f"s{k:02}" for k in range(20)]
    await up(store, "a", slots=2)
    await up(store, "b", slots=3)
    await asyncio.gather(*(store.begin(row(name)) for name in names))
    asked = [one.place(request(name)) for name in names for one in (store, other)]
    moved = [
        one.move(name, None, "b", "lead ready")
        for name, one in zip(reversed(names), (store, other) * 10, strict=True)
    ]
    await asyncio.gather(*asked, *moved)
    taken = [(s.worker, s.slot) for s in (await store.look()).seats]
    assert len(set(taken)) == len(taken)
    for name in names:  # who asked while somebody before it had not yet been seated
        await other.place(request(name))
    taken = [(s.worker, s.slot) for s in (await store.look()).seats]
    assert sorted(taken) == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]
    assert len({s.session for s in (await store.look()).seats}) == 5


# --- Workers ---


async def test_a_worker_loads_is_ready_stops_and_is_gone(store: Store) -> None:
    await store.beat(EdgeRow("edge-1", "sf", ""))
    made = worker("w", price_per_h=0.4)
    await store.rent(made)
    assert (await store.look()).workers == (made,)
    await store.ready("w", 60.5)
    await store.ready("w", 99.0)  # again: the first counts
    assert await store.link(Link("w", "edge-1", 0.001))
    made = replace(made, state=READY, ready_s=60.5, linked=True)
    assert (await store.look()).workers == (made,)
    assert await store.retire("w")
    await store.ready("w", 99.0)
    made = replace(made, state=STOPPING)
    assert (await store.look()).workers == (made,)
    await store.gone("w", 70.0, "not needed")
    await store.gone("w", 99.0, "its node is no more")
    await store.ready("w", 99.0)
    assert (await store.look()).workers == ()
    (gone,), _ = await store.history(0.0)
    made = replace(made, state=WorkerState.GONE, stopped_s=70.0, reason="not needed")
    assert gone == replace(made, linked=False)


async def test_drain_is_a_wish_that_can_be_taken_back(store: Store) -> None:
    await up(store, "w")
    for on in (True, False):
        assert await store.drain("w", on)
        assert [w.draining for w in (await store.look()).workers] == [on]
    await store.gone("w", 70.0, "crashed")
    assert not await store.drain("w", True)
    assert not await store.drain("nobody", True)


async def test_a_busy_worker_is_not_retired_and_a_retired_one_is_not_made_busy(
    store: Store,
) -> None:
    await up(store, "w")
    await come(store, "s", "t")
    await seat(store, "w", "s")
    assert not await store.retire("w")
    await store.release("s", "w", 0, "edge-1")
    assert await store.retire("w")
    assert await store.place(request("s")) is None
    assert not await store.move("s", None, "w", "lead ready")
    await store.gone("w", 70.0, "not needed")
    assert not await store.retire("w")
    assert not await store.retire("nobody")


async def test_who_sits_on_a_worker_that_is_gone_has_no_seat(store: Store) -> None:
    await up(store, "a", "b")
    await come(store, "s", "t")
    await seat(store, "a", "s", "t")
    assert await store.move("t", "a", "b", "packing")
    await store.gone("a", 70.0, "crashed")
    assert await seats(store) == [("t", "b", 0)]
    assert await store.place(request("s")) == Placement("b", 1)


async def test_a_look_is_in_order(store: Store) -> None:
    for name, started_s in (("late", 30.0), ("b", 20.0), ("a", 20.0), ("went", 10.0)):
        await up(store, name, started_s=started_s)
    await store.gone("went", 70.0, "crashed")
    for name, started_s in (("z", 3.0), ("b", 2.0), ("a", 2.0), ("over", 1.0)):
        await store.begin(row(name, started_s=started_s))
    await store.end("over", "stopped", 5.0, "edge-1")
    await seat(store, "late", "z", "a")
    assert await store.move("z", "late", "b", "packing")
    fleet = await store.look()
    assert [w.id for w in fleet.workers] == ["a", "b", "late"]
    assert [s.id for s in fleet.sessions] == ["a", "b", "z"]
    assert [s.turn for s in fleet.seats] == [0, 0, 1]
    assert fleet.seats[-1].worker == "b"


async def test_how_long_a_model_loads_is_learnt_from_the_last_loads(store: Store) -> None:
    await store.save_card("m", "r1", CARD)
    await store.save_card("m", "r2", CARD)
    await store.save_card("never", "r1", CARD)
    assert (await store.look()).boot_s == {}
    for number, boot_s in enumerate([1000.0, 10.0, 11.0, 12.0, 13.0, 14.0]):
        await store.rent(worker(f"w{number}", revision=f"r{number % 2}", started_s=100.0 * number))
        await store.ready(f"w{number}", 100.0 * number + boot_s if number else 30.0)
        await store.gone(f"w{number}", 9000.0, "not needed")
    assert (await store.look()).boot_s == {"m": pytest.approx(12.0)}


async def test_history_has_all_that_was_not_over_at_a_time(store: Store) -> None:
    await up(store, "early", "late", "still")
    await store.gone("early", 70.0, "not needed")
    await store.gone("late", 80.0, "not needed")
    await come(store, "short", "long", "live")
    await store.end("short", "stopped", 110.0, "edge-1")
    await store.end("long", "stopped", 120.0, "edge-1")
    for from_s, names, sessions in (
        (0.0, {"early", "late", "still"}, ["short", "long", "live"]),
        (70.0, {"late", "still"}, ["short", "long", "live"]),
        (110.0, {"still"}, ["long", "live"]),
        (999.0, {"still"}, ["live"]),
    ):
        workers, rows = await store.history(from_s)
        assert {w.id for w in workers} == names
        assert [s.id for s in rows] == sessions


# --- Edges ---


async def test_an_edge_beats_for_as_long_as_it_lives(store: Store, other: Store) -> None:
    edge = EdgeRow("edge-1", "sf", "http://a:1", {"tokyo": "http://b:2"})
    for beat in (1, 2):
        await store.beat(edge)
        assert (await other.look()).edges == (replace(edge, beat=beat),)
    await other.lose("edge-1", 70.0)
    assert (await store.look()).edges == ()


async def test_a_worker_is_used_by_the_edges_that_reach_it(store: Store) -> None:
    await store.beat(EdgeRow("edge-1", "sf", ""))
    await store.beat(EdgeRow("edge-2", "tokyo", ""))
    await store.rent(worker("w"))
    assert await store.link(Link("w", "edge-2", 0.1))
    await store.ready("w", 60.0)
    await come(store, "s", "t")
    assert await store.place(request("s")) is None
    assert not await store.move("s", None, "w", "lead ready")
    assert await store.link(Link("w", "edge-1", 0.2))
    assert await store.link(Link("w", "edge-1", 0.1))  # as measured anew
    fleet = await store.look()
    assert fleet.links == (Link("w", "edge-1", 0.1), Link("w", "edge-2", 0.1))
    assert fleet.rtt_s() == {("sf", "sf"): 0.1, ("tokyo", "sf"): 0.1}
    assert await store.place(request("s")) == Placement("w", 0)
    await store.unlink("w", "edge-1")
    fleet = await store.look()
    assert (fleet.seats, fleet.workers[0].linked) == ((), True)
    await store.unlink("w", "edge-2")
    assert not (await store.look()).workers[0].linked
    await store.gone("w", 70.0, "crashed")
    assert not await store.link(Link("w", "edge-1", 0.1))
    assert not await store.link(Link("nobody", "edge-1", 0.1))


async def test_an_unlinked_worker_keeps_the_seats_of_other_edges(store: Store) -> None:
    await up(store, "w")
    await store.link(Link("w", "edge-2", 0.1))
    await come(store, "s")
    await come(store, "t", edge="edge-2")
    await seat(store, "w", "s", "t")
    await store.unlink("w", "edge-2")
    assert await seats(store) == [("s", "w", 0)]


async def test_a_far_worker_is_taken_where_none_is_near(store: Store) -> None:
    await store.beat(EdgeRow("edge-1", "sf", ""))
    await up(store, "too far", region="moon")
    await up(store, "far", region="tokyo")
    await store.link(Link("far", "edge-1", 0.1))
    await come(store, "s", "t")
    await up(store, "near", slots=1)
    assert await store.place(request("s")) == Placement("near", 0)
    assert await store.place(request("t")) == Placement("far", 0)


async def test_a_session_begins_on_a_slot_that_is_still_free(store: Store) -> None:
    await up(store, "w")
    first = Seat("a", "w", 0, Role.LEAD, 0, "connect")
    assert await store.begin(row("a"), first)
    assert (await store.look()).seats == (first,)
    assert not await store.begin(row("b"), replace(first, session="b"))
    assert await store.place(request("b")) == Placement("w", 1)
    with pytest.raises(AlreadyLive):
        await store.begin(row("c", "user of a"), replace(first, session="c", slot=1))
    assert len((await store.look()).sessions) == 2
    await up(store, "drains", "stops", "went", "afar")
    await store.drain("drains", True)
    await store.retire("stops")
    await store.gone("went", 70.0, "crashed")
    await store.unlink("afar", "edge-1")
    for name in ("drains", "stops", "went", "afar", "nobody"):
        seat = Seat(name, name, 0, Role.LEAD, 0, "connect")
        assert not await store.begin(row(name), seat)
    assert {s.id for s in (await store.look()).sessions} == {
        *("a", "b", "drains", "stops", "went", "afar", "nobody")
    }


async def test_who_begins_and_who_gives_back_never_both_win(store: Store, other: Store) -> None:
    for number in range(20):
        name = f"w{number}"
        await up(store, name)
        seat = Seat(name, name, 0, Role.LEAD, 0, "connect")
        seated, retired = await asyncio.gather(store.begin(row(name), seat), other.retire(name))
        assert seated is not retired


async def test_a_session_is_taken_on_by_another_edge(store: Store) -> None:
    await up(store, "w")
    await store.beat(EdgeRow("edge-2", "tokyo", ""))
    await store.link(Link("w", "edge-2", 0.4))
    await come(store, "s", resume="hash", user="alice")
    await seat(store, "w", "s")
    assert await store.adopt("alice", "other", "edge-2", "tokyo") is None
    assert await store.adopt("bob", "hash", "edge-2", "tokyo") is None
    moved = row("s", "alice", resume="hash", edge="edge-2", region="tokyo", epoch=1)
    assert await store.adopt("alice", "hash", "edge-2", "tokyo") == moved
    assert await seats(store) == []
    there = request("s", edge="edge-2", region="tokyo")
    assert await store.place(request("s")) is None  # the old edge has no say any more
    assert await store.place(there) is None  # sf is too far from tokyo
    await up(store, "near", region="tokyo")
    await store.link(Link("near", "edge-2", 0.1))
    assert await store.place(there) == Placement("near", 0)
    await store.release("s", "near", 0, "edge-1")
    await store.end("s", "gone", 300.0, "edge-1")
    assert (await store.look()).sessions == (moved,)
    await store.end("s", "stopped", 300.0, "edge-2")
    assert await store.adopt("alice", "hash", "edge-2", "tokyo") is None


async def test_the_sessions_of_a_lost_edge_wait_for_another(store: Store) -> None:
    await up(store, "w")
    await come(store, "s1", "s2", "s3", resume="hash")
    await come(store, "other", edge="edge-2")
    await seat(store, "w", "s1", "s2")
    await store.meter([interval("s1", 0, 1, 200.0, worker="w")])
    assert await store.lose("edge-1", 500.0) == 3
    fleet = await store.look()
    assert fleet.links == ()
    assert len(fleet.seats) == 2  # for now: an edge that is only mute may be at work there
    lost = {s.id: (s.edge, s.orphaned_s) for s in fleet.sessions}
    assert lost == dict.fromkeys(("s1", "s2", "s3"), ("", 500.0)) | {"other": ("edge-2", None)}
    assert await store.place(request("s1")) is None
    await come(store, "again", user="user of s3")  # without a token: the old one is over
    taken = await store.adopt("user of s2", "hash", "edge-2", "sf")
    assert taken is not None
    assert taken.orphaned_s is None
    assert await store.expire(500.0) == 0
    assert await store.expire(500.1) == 1
    _, rows = await store.history(0.0)
    ends = {s.id: (s.ended_s, s.reason) for s in rows if s.ended_s is not None}
    assert ends == {"s1": (200.0, "edge_lost"), "s3": (500.0, "edge_lost")}
    assert (await store.look()).seats == ()
    # Who comes back late all the same goes on, if he is not live elsewhere by then.
    assert await store.adopt("user of s3", "hash", "edge-2", "sf") is None
    back = await store.adopt("user of s1", "hash", "edge-2", "sf")
    assert back is not None
    assert (back.id, back.ended_s, back.reason, back.epoch) == ("s1", None, "", 1)


async def test_an_edge_that_has_beaten_since_is_not_lost(store: Store) -> None:
    edge = EdgeRow("edge-1", "sf", "")
    await store.beat(edge)
    await store.beat(edge)
    await come(store, "s", resume="hash")
    assert await store.lose("edge-1", 500.0, 1) == 0
    assert [s.edge for s in (await store.look()).sessions] == ["edge-1"]
    assert await store.adopt("user of s", "hash", "edge-1", "sf", orphan=True) is None
    assert await store.lose("edge-1", 500.0, 2) == 1
    assert await store.adopt("user of s", "hash", "edge-1", "sf", orphan=True) is not None


async def test_the_seat_that_is_asked_for_is_given_if_it_is_free(store: Store) -> None:
    await up(store, "w")
    await come(store, "a", "b")
    first = Seat("a", "w", 0, Role.LEAD, 0, "connect")
    assert not await store.take(first, "edge-2")  # it is not that edge's session
    assert await store.take(first, "edge-1")
    assert not await store.take(first, "edge-1")
    assert not await store.take(replace(first, session="b"), "edge-1")
    assert not await store.take(replace(first, slot=1), "edge-1")  # it has a seat by now
    assert await store.take(replace(first, session="b", slot=1), "edge-1")
    await store.drain("w", True)
    await store.release("b", "w", 1, "edge-1")
    assert not await store.take(replace(first, session="b", slot=1, turn=1), "edge-1")
    assert (await store.look()).seats == (first,)


async def test_another_edges_session_is_ended_by_asking(store: Store) -> None:
    await come(store, "s", resume="hash")
    await store.evict("s", "taken_over")
    assert [s.reason for s in (await store.look()).sessions] == ["taken_over"]
    assert await store.adopt("user of s", "hash", "edge-2", "sf") is None
    await store.end("s", "taken_over", 160.0, "edge-1")
    await store.evict("s", "error")
    _, (ended,) = await store.history(0.0)
    assert (ended.reason, ended.ended_s) == ("taken_over", 160.0)


async def test_when_a_worker_went_is_guessed_from_what_was_heard(store: Store) -> None:
    await up(store, "heard", "unheard")
    await store.rent(worker("loads"))
    await store.meter([interval("s1", 0, 1, 200.0, worker="heard")])
    for name in ("heard", "unheard", "loads"):
        await store.gone(name, None, "its node is no more")
    workers, _ = await store.history(0.0)
    assert {w.id: w.stopped_s for w in workers} == {"heard": 200.0, "unheard": 60.0, "loads": 50.0}


# --- Machines that joined, and their orders ---


def box(name: str, gpus: int = 1, cpus: int = 0, region: str = "sf", price: float = 0.0) -> Machine:
    return Machine(name, region, gpus, cpus, price)


def node(name: str, **changes: Any) -> Node:
    return replace(Node(name, "m", "r1", "sf", started_s=50.0), **changes)


async def wanted(store: Store, machine: str | None = None) -> list[str]:
    return [order.node.id for order in await store.orders(machine) if order.wanted]


async def test_a_machine_beats_for_as_long_as_it_is_offered(store: Store, other: Store) -> None:
    await store.offer(box("b", gpus=8, cpus=2, price=0.4))
    await store.offer(box("a"))
    first = await other.machines()
    assert first == [replace(box("a"), beat=1), replace(box("b", 8, 2, price=0.4), beat=1)]
    await other.offer(box("a", gpus=2, region="tokyo"))  # by whichever edge it has dialled
    a, b = await store.machines()
    assert a == replace(box("a", gpus=2, region="tokyo"), beat=2)
    assert b == first[1]
    await store.withdraw("a")
    await store.withdraw("a")  # again: nothing happens
    assert await other.machines() == [b]


async def test_an_order_goes_to_the_emptiest_machine_of_its_region(store: Store) -> None:
    assert await store.order(node("n0"), light=False) is None
    await store.offer(box("far", gpus=9, region="tokyo"))
    assert await store.order(node("n0"), light=False) is None
    await store.offer(box("one", gpus=1))
    await store.offer(box("two", gpus=2))
    assert [await store.order(node(f"n{k}"), light=False) for k in range(4)] == [
        *("two", "one", "two"),
        None,
    ]
    assert await store.order(node("n0"), light=False) == "two"  # asked again: the same
    assert sorted(await wanted(store, "two")) == ["n0", "n2"]
    assert [(o.node, o.light) for o in await store.orders("one")] == [(node("n1"), False)]


async def test_places_on_gpus_and_on_cpus_are_counted_apart(store: Store) -> None:
    await store.offer(box("b", gpus=1, cpus=2))
    lights = (False, True, True)
    assert [await store.order(node(f"n{k}"), light=on) for k, on in enumerate(lights)] == ["b"] * 3
    for light in (False, True):
        assert await store.order(node("more"), light=light) is None
    kept = [(order.node.id, order.light) for order in await store.orders()]
    assert kept == [("n0", False), ("n1", True), ("n2", True)]


async def test_a_machine_that_leaves_gets_nothing_new_and_keeps_what_it_has(store: Store) -> None:
    await store.offer(box("b", gpus=4))
    await store.order(node("n0"), light=False)
    await store.offer(box("b", gpus=0))
    assert (await store.machines())[0].is_leaving
    assert await store.order(node("n1"), light=False) is None
    assert await wanted(store, "b") == ["n0"]


async def test_an_order_that_is_cancelled_waits_for_the_machines_word(store: Store) -> None:
    await store.offer(box("b", gpus=1))
    await store.order(node("n0"), light=False)
    assert await store.cancel("n0")
    assert await store.cancel("n0")  # there still is something to stop
    assert await wanted(store) == []
    assert await store.order(node("n1"), light=False) is None  # its GPU is not free yet
    await store.report("another", {}, ["n0"])  # which has nothing to say here
    assert await store.cancel("n0")
    await store.report("b", {}, ["n0"])
    assert not await store.cancel("n0")
    assert not await store.cancel("never")
    assert await store.orders() == []
    assert await store.order(node("n1"), light=False) == "b"


async def test_what_was_not_cancelled_is_not_taken_for_stopped(store: Store) -> None:
    await store.offer(box("b"))
    await store.order(node("n0"), light=False)
    await store.report("b", {}, ["n0"])
    assert await wanted(store) == ["n0"]


async def test_the_first_word_on_how_a_node_exited_counts(store: Store) -> None:
    await store.offer(box("b"))
    await store.order(node("n0"), light=False)
    await store.report("another", {"n0": "a rumour"}, [])
    await store.report("b", {"n0": "killed by signal 9"}, [])
    await store.report("b", {"n0": "later words"}, [])
    (order,) = await store.orders()
    assert order.node == node("n0", exited="killed by signal 9")
    assert not await store.cancel("n0")  # nothing is left to be stopped
    assert await store.orders() == []


async def test_what_a_lost_machine_ran_counts_as_exited(store: Store) -> None:
    await store.offer(box("b", gpus=3))
    for name in ("n0", "n1", "n2"):
        await store.order(node(name), light=False)
    await store.cancel("n1")
    await store.report("b", {"n2": "killed by signal 9"}, [])
    await store.withdraw("b")
    assert {order.node.id: order.node.exited for order in await store.orders()} == {
        "n0": "was on a machine that is no more",
        "n1": "was on a machine that is no more",
        "n2": "killed by signal 9",
    }
    for name in ("n0", "n1", "n2"):
        assert not await store.cancel(name)
    assert await store.orders() == []


async def test_a_worker_costs_what_its_machine_does(store: Store) -> None:
    for name in ("heavy", "light"):
        await store.rent(worker(name, price_per_h=0.1))
    await store.offer(box("b", gpus=1, cpus=1, price=2.5))
    await store.order(node("heavy"), light=False)
    await store.order(node("light"), light=True)
    prices = {w.id: w.price_per_h for w in (await store.look()).workers}
    assert prices == {"heavy": 2.5, "light": 0.1}


async def test_of_those_who_order_the_last_gpu_at_once_one_gets_it(
    store: Store, other: Store
) -> None:
    await store.offer(box("b", gpus=3))
    for number in range(10):
        await store.offer(box("b", gpus=number + 1))
        got = await asyncio.gather(
            *(
                ours.order(node(f"n{number}-{k}"), light=False)
                for k, ours in enumerate((store, other, store, other))
            )
        )
        assert sorted(map(str, got)) == ["None", "None", "None", "b"]
    assert len(await wanted(store, "b")) == 10


async def test_an_order_and_its_cancellation_at_once_leave_no_stray(
    store: Store, other: Store
) -> None:
    await store.offer(box("b", gpus=20))
    for number in range(10):
        name = f"n{number}"
        _, cancelled = await asyncio.gather(
            store.order(node(name), light=False), other.cancel(name)
        )
        assert (name in await wanted(store)) is not cancelled


# --- What is learnt and shipped ---


async def test_cards_are_kept(store: Store) -> None:
    await store.save_card("m", "r1", CARD)
    await store.save_card("m", "r1", replace(CARD, slots=8))
    await store.save_card("m", "r2", CARD)
    assert await store.cards() == {("m", "r1"): replace(CARD, slots=8), ("m", "r2"): CARD}


async def test_deployments_are_kept_in_order_and_fail_by_revision(store: Store) -> None:
    made = [
        Deployment("m", "r2", 20.0, '{"b": 2}'),
        Deployment("m", "r1", 10.0, '{"a": 1}'),
        Deployment("n", "r1", 15.0, "{}"),
        Deployment("m", "r1", 30.0, '{"a": 1}'),  # rolled back
    ]
    for deployment in made:
        await store.deploy(deployment)
    by_time = sorted(made, key=lambda d: d.at_s)
    assert list(await store.deployments()) == by_time
    await store.fail("m", "r1", "it does not load")
    failed = [d.failed for d in await store.deployments()]
    assert failed == ["it does not load", "", "", "it does not load"]


# --- The ledger ---


def interval(
    session: str, seq: int, samples: int, at_s: float, user: str = "alice", worker: str = "w1"
) -> Interval:
    return Interval(session, seq, user, "miku", "m", worker, "sf", Role.LEAD, 24_000, samples, at_s)


async def test_the_ledger_only_grows(store: Store) -> None:
    await store.meter([interval("s1", 0, 12_000, 100.0), interval("s1", 1, 500, 101.0)])
    await store.meter([interval("s1", 0, 24_000, 100.5)])
    await store.meter([interval("s1", 0, 12_000, 100.0)])  # a late repeat changes nothing
    await store.meter([])
    assert await store.ledger() == [
        interval("s1", 0, 24_000, 100.5),
        interval("s1", 1, 500, 101.0),
    ]


async def test_the_ledger_is_read_by_user_and_time(store: Store) -> None:
    await store.meter(
        [
            interval("s1", 0, 1, 100.0),
            interval("s2", 0, 2, 200.0, "bob"),
            interval("s1", 1, 3, 300.0),
        ]
    )
    assert [i.samples for i in await store.ledger(user="alice")] == [1, 3]
    assert [i.samples for i in await store.ledger(from_s=200.0, to_s=300.0)] == [2]
    assert await store.ledger(user="nobody") == []


async def test_what_was_heard_in_all_is_summed_by_role(store: Store) -> None:
    assert await store.heard(0.0) == {Role.LEAD: 0.0, Role.UNDERSTUDY: 0.0}
    covered = replace(interval("s2", 0, 8_000, 200.0), role=Role.UNDERSTUDY, rate_hz=16_000)
    await store.meter([interval("s1", 0, 24_000, 100.0), interval("s1", 1, 12_000, 200.0), covered])
    assert await store.heard(0.0) == {Role.LEAD: 1.5, Role.UNDERSTUDY: 0.5}
    assert await store.heard(200.0) == {Role.LEAD: 0.5, Role.UNDERSTUDY: 0.5}


async def test_many_intervals_are_written_in_one_go(store: Store) -> None:
    await store.meter([interval("warm", 0, 1, 1.0)])
    many = [interval(f"s{k:03}", k % 3, k + 1, 100.0 + k) for k in range(1000)]
    started_s = time.perf_counter()
    await store.meter(many)
    assert time.perf_counter() - started_s < 1.0  # a tenth of that, where nothing else runs
    assert await store.ledger(from_s=100.0) == many


# --- Opening ---


async def test_what_is_written_survives_a_reopening(where: str | Path) -> None:
    for expected in (0, 1):
        store = await open_store(where)
        fleet = await store.look()
        assert (len(fleet.workers), len(fleet.sessions), len(fleet.seats)) == (expected,) * 3
        if not expected:
            await up(store, "w")
            await come(store, "s")
            await seat(store, "w", "s")
        await store.close()


VERSION_1 = """
    CREATE TABLE models (name TEXT PRIMARY KEY, card TEXT NOT NULL);
    CREATE TABLE workers (id TEXT PRIMARY KEY, node TEXT NOT NULL, model TEXT NOT NULL,
        region TEXT NOT NULL, slots INTEGER NOT NULL, state TEXT NOT NULL, progress REAL NOT NULL,
        boot_s REAL, reason TEXT NOT NULL);
    CREATE TABLE sessions (id TEXT PRIMARY KEY, user TEXT NOT NULL, voice TEXT NOT NULL,
        model TEXT NOT NULL, region TEXT NOT NULL, edge TEXT NOT NULL, started_s REAL NOT NULL,
        worker TEXT, slot INTEGER, ended_s REAL, reason TEXT NOT NULL);
    CREATE UNIQUE INDEX one_stream_a_user ON sessions (user) WHERE ended_s IS NULL;
    CREATE UNIQUE INDEX one_session_a_slot ON sessions (worker, slot)
        WHERE ended_s IS NULL AND worker IS NOT NULL;
    CREATE INDEX sessions_of_an_edge ON sessions (edge) WHERE ended_s IS NULL;
    CREATE TABLE ledger (session TEXT NOT NULL, seq INTEGER NOT NULL, user TEXT NOT NULL,
        voice TEXT NOT NULL, model TEXT NOT NULL, worker TEXT NOT NULL, region TEXT NOT NULL,
        role TEXT NOT NULL, rate_hz INTEGER NOT NULL, samples INTEGER NOT NULL, at_s REAL NOT NULL,
        PRIMARY KEY (session, seq));
    CREATE INDEX ledger_in_time ON ledger (at_s);
    CREATE INDEX ledger_of_a_user ON ledger (user, at_s);
    PRAGMA user_version = 1;
    INSERT INTO models VALUES ('m', '{}');
    INSERT INTO workers VALUES ('w1', 'n1', 'm', 'sf', 4, 'ready', 1.0, 2.0, '');
    INSERT INTO sessions VALUES
        ('s1', 'alice', 'miku', 'm', 'sf', 'edge-1', 100.0, 'w1', 0, 160.0, 'stopped'),
        ('s2', 'alice', 'miku', 'm', 'sf', 'edge-1', 200.0, 'w1', 1, NULL, '');
    INSERT INTO ledger VALUES
        ('s1', 0, 'alice', 'miku', 'm', 'w1', 'sf', 'lead', 24000, 4800, 150.0);
"""


async def test_a_database_of_version_1_is_brought_along(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    db = sqlite3.connect(path)
    db.executescript(VERSION_1)
    db.close()
    for _ in range(2):  # once is enough
        store = SqliteStore(path)
        await store.open()
        workers, rows = await store.history(0.0)
        assert list(workers) == []  # they died with their server
        assert list(rows) == [
            row("s1", "alice", ended_s=160.0, reason="stopped"),
            row("s2", "alice", started_s=200.0),
        ]
        assert await store.ledger() == [interval("s1", 0, 4800, 150.0)]
        with pytest.raises(AlreadyLive):
            await store.begin(row("s3", "alice"))
        await store.close()
    store = SqliteStore(path)
    await store.open()
    assert await store.lose("edge-1", 300.0) == 1
    await store.meter([interval("s1", 0, 9600, 151.0)])
    assert await store.ledger() == [interval("s1", 0, 9600, 151.0)]
    await store.close()


async def test_a_file_that_is_no_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.write_bytes(b"this is no database at all, " * 100)
    store = SqliteStore(path)
    with pytest.raises(ConfigError, match="move it away"):
        await store.open()
    await store.close()


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "test.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    store = SqliteStore(tmp_path / "test.db")
    with pytest.raises(ConfigError, match="newer"):
        await store.open()
    await store.close()


async def test_a_store_that_there_is_no_driver_for_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match="postgresql://"):
        await open_store("mysql://root:hunter2@localhost/understudy")


# --- A server: PostgreSQL ---

CALL_S = 1.0  # how long calls may take here


@pytest.fixture
async def empty() -> AsyncIterator[str]:
    """A database without tables."""
    name = await postgres().create()
    yield name
    await postgres().drop(name)


@pytest.fixture
async def away(empty: str) -> AsyncIterator[PostgresStore]:
    """A store whose server the test may stop; it gives up soon."""
    store = PostgresStore(postgres().url(empty), call_s=CALL_S)
    await store.open()
    yield store
    await store.close()


async def cut_off(database: str) -> None:
    """Ends all connections to a database, as an operator or a failing proxy would."""
    await postgres().run(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        f" WHERE datname = '{database}' AND pid != pg_backend_pid()"
    )


async def test_processes_that_start_at_once_on_an_empty_database_all_do(empty: str) -> None:
    stores = await asyncio.gather(*(open_store(postgres().url(empty)) for _ in range(4)))
    await stores[0].begin(row("s"))
    assert [len((await store.look()).sessions) for store in stores] == [1, 1, 1, 1]
    for store in stores:
        await store.close()


async def test_the_search_path_says_which_schema(empty: str) -> None:
    url = postgres().url(empty)
    with pytest.raises(ConfigError, match="search_path"):
        await open_store(f"{url}&search_path=a")
    await postgres().run("CREATE SCHEMA a", "CREATE SCHEMA b", database=empty)
    stores = [await open_store(f"{url}&search_path={schema}") for schema in "ab"]
    await stores[0].begin(row("s"))
    assert [len((await store.look()).sessions) for store in stores] == [1, 0]
    assert [await store.is_leader() for store in stores] == [True, True]
    for store in stores:
        await store.close()


async def test_a_database_that_is_not_ours_is_refused(empty: str) -> None:
    url = postgres().url(empty)
    await postgres().run("CREATE TABLE sessions (id TEXT)", database=empty)
    with pytest.raises(ConfigError, match="other tables"):
        await open_store(url)
    await postgres().run("DROP TABLE sessions", database=empty)
    await (await open_store(url)).close()
    await postgres().run("UPDATE understudy_version SET version = 99", database=empty)
    with pytest.raises(ConfigError, match="newer"):
        await open_store(url)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("/test", "/no_such_database_test"), "does not exist"),
        (("//understudy", "//locked:hunter2"), "password"),
        (("?host=", "?host=/no/such/folder"), "No such file"),
        (("@/", "@localhost:1/"), "refused|Connect call failed"),
        (("//understudy@", "//understudy:hunter2@h@st"), "cannot be read"),
        (("//understudy@", "//understudy:hunter2/hunter2@"), "cannot be read"),
        (("//understudy@", "//understudy:hunter2#hunter2@"), "cannot be read"),
        (("//understudy@", "//understudy:hunter2@host:hunter2"), "cannot be read"),
        (("?host=", "?sslmode=hunter2&host="), "options"),
    ],
)
async def test_a_wrong_url_is_refused_with_a_sentence_without_its_password(
    empty: str,
    change: tuple[str, str],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await postgres().run(
        "DROP ROLE IF EXISTS locked", "CREATE ROLE locked LOGIN PASSWORD 'another'"
    )
    url = postgres().url(empty).replace(*change)
    if change[0] == "@/":
        url = url.partition("?")[0]
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigError, match=words) as caught:
        await open_store(url)
    assert "\n" not in caught.value.message
    assert "hunter2" not in f"{caught.value!r} {caught.value.__context__!r} {caplog.text}"


async def test_while_the_server_is_away_calls_fail_and_then_they_work(
    away: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    await up(away, "w", slots=8)
    await come(away, "s1", "s2")
    assert await away.is_leader()
    postgres().stop()
    try:
        started_s = time.monotonic()
        calls = [
            away.look(), away.place(request("s1")), away.begin(row("s3")),
            away.end("s2", "x", 1.0, "edge-1"),
            *(away.meter([interval("s1", k, 1, 100.0)]) for k in range(20)),
        ]  # fmt: skip
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreAway}
        assert time.monotonic() - started_s < 2 * CALL_S
        assert not await away.is_leader()
        assert len([r for r in caplog.records if "is away" in r.message]) == 1
    finally:
        postgres().start()
    assert await away.place(request("s1")) == Placement("w", 0)
    assert await away.is_leader()
    await away.meter([interval("s1", 0, 1, 100.0)])
    assert len((await away.look()).sessions) == 2
    assert "is back" in caplog.text


async def test_a_restart_within_a_calls_time_is_not_noticed(away: PostgresStore) -> None:
    await up(away, "w")
    await come(away, "s")
    postgres().stop()
    call = asyncio.create_task(away.place(request("s")))
    await asyncio.sleep(0.1)
    postgres().start()
    assert await call == Placement("w", 0)


async def test_a_connection_that_is_cut_off_is_not_noticed(away: PostgresStore, empty: str) -> None:
    await up(away, "w")
    for number in range(10):
        name = f"s{number}"
        await come(away, name)
        calls = [away.place(request(name)), away.place(request(name)), away.look(), cut_off(empty)]
        first, second, *_ = await asyncio.gather(*calls)
        assert first == second == Placement("w", 0)
        await away.end(name, "stopped", 1.0, "edge-1")


async def test_a_server_that_hangs_is_given_up_in_time(away: PostgresStore) -> None:
    await up(away, "w")
    assert await away.is_leader()
    processes = postgres().processes()
    for process in processes:
        process.suspend()
    try:
        for _ in range(2):  # the second has no connection left, and gets none
            started_s = time.monotonic()
            calls = [away.look(), away.ready("w", 1.0), away.retire("w"), away.heard(0.0)] * 2
            answers = await asyncio.gather(*calls, away.is_leader(), return_exceptions=True)
            assert {type(answer) for answer in answers[:-1]} == {StoreAway}
            assert answers[-1] is False
            assert time.monotonic() - started_s < 2 * CALL_S
    finally:
        for process in processes:
            process.resume()
    assert len((await away.look()).workers) == 1
    assert await away.is_leader()


async def test_a_call_that_is_given_up_by_its_caller_leaves_nothing_open(
    away: PostgresStore, empty: str
) -> None:
    await up(away, "w", slots=8)
    names = [f"s{k}" for k in range(40)]
    await come(away, *names)
    for number, name in enumerate(names):
        call = asyncio.create_task(away.place(request(name)))
        await asyncio.sleep(number * 1e-4)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    fleet = await away.look()
    assert [w.taken for w in fleet.workers] == [len(fleet.seats)]
    assert await away.retire("w") is (len(fleet.seats) == 0)


async def test_users_who_come_wait_for_nobody_who_looks(away: PostgresStore) -> None:
    """Where the database is far, looks keep every other connection busy."""
    await up(away, "w", slots=8)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            await stack.enter_async_context(away._connection(away._room))
        looking = asyncio.create_task(away.look())
        assert await away.begin(row("s"), Seat("s", "w", 0, Role.LEAD, 0, "connect"))
        assert not looking.done()
    assert [seat.session for seat in (await looking).seats] == ["s"]


# --- Leading ---


async def test_whoever_is_alone_leads(store: Store) -> None:
    assert await store.is_leader()
    assert await store.is_leader()


async def leads(*stores: Store) -> list[bool]:
    return [await store.is_leader() for store in stores]


async def test_of_those_on_one_database_one_leads(empty: str) -> None:
    one, two, three = [await open_store(postgres().url(empty)) for _ in range(3)]
    assert await leads(one, two, three) == [True, False, False]
    assert await leads(three, two, one) == [False, False, True]
    await one.close()
    assert await leads(three, two) == [True, False]
    await cut_off(empty)
    assert await leads(two, three) == [True, False]  # who asks first
    assert await leads(three, two, three, two) == [False, True, False, True]
    postgres().stop()
    postgres().start()
    assert (await leads(three, two)).count(True) <= 1
    assert (await leads(three, two)).count(True) == 1
    for store in (two, three):
        await store.close()


async def test_a_leader_that_does_not_ask_is_replaced_only_if_it_is_gone(empty: str) -> None:
    one, two = [await open_store(postgres().url(empty)) for _ in range(2)]
    assert await one.is_leader()
    await asyncio.gather(*(two.look() for _ in range(20)))
    assert await leads(two, two) == [False, False]
    db = await asyncpg.connect(postgres().url(empty))
    locks = await db.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    await db.close()
    assert locks == 1
    await one.close()
    assert await two.is_leader()
    await two.close()


# --- Any run of calls, beside a model of what they mean ---

USERS = st.integers(0, 5)
SOME = st.integers(0, 7)  # an index into what there is


class Runs(RuleBasedStateMachine):
    """The store and a few dictionaries are told the same, and have to say the same."""

    adapter = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = self.run(with_tables()) if self.adapter == "postgresql" else ""
        where = postgres().url(self.database) if self.database else ":memory:"
        self.store = self.run(open_store(where))
        self.run(self.store.beat(EdgeRow("edge-1", "sf", "")))
        self.rows: dict[str, SessionRow] = {}  # all there ever were
        self.live: dict[str, SessionRow] = {}
        self.workers: dict[str, Worker] = {}
        self.gone: list[str] = []
        self.seats: dict[str, list[Seat]] = {}
        self.turns = itertools.count()

    def teardown(self) -> None:
        self.run(self.store.close())
        if self.database:
            self.run(postgres().drop(self.database))
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # the model

    def last(self, session: str, role: Role) -> Seat | None:
        return next((s for s in reversed(self.seats.get(session, [])) if s.role is role), None)

    def free(self, worker: str) -> list[int]:
        """The slots that a worker would give away now."""
        one = self.workers.get(worker)
        if one is None or one.state is not READY or one.draining:
            return []
        taken = {s.slot for seats in self.seats.values() for s in seats if s.worker == worker}
        return [slot for slot in range(one.slots) if slot not in taken]

    def sit(self, session: str, worker: str, role: Role, why: str) -> None:
        seats = self.seats.setdefault(session, [])
        turn = seats[-1].turn + 1 if seats else 0
        seats.append(Seat(session, worker, self.free(worker)[0], role, turn, why))

    def waits(self, row: SessionRow, model: str) -> bool:
        led, covered = self.last(row.id, Role.LEAD), self.last(row.id, Role.UNDERSTUDY)
        return led is None and (row.model == model or (row.understudy == model and not covered))

    def chosen(self, row: SessionRow, model: str, newest: str) -> str | None:
        came = [(one.started_s, one.id) for one in self.live.values() if self.waits(one, model)]
        if any(one < (row.started_s, row.id) for one in came):
            return None
        goes = [seat for one in self.live for role in Role if (seat := self.last(one, role))]
        fits = [
            (w.revision == newest, sum(seat.worker == w.id for seat in goes) - w.slots, w.id)
            for w in self.workers.values()
            if w.model == model and self.free(w.id)
        ]
        return max(fits, default=(None, None, None))[-1]

    def some(self, names: list[str], index: int) -> str:
        return names[index % len(names)] if names else "nobody"

    # what may be asked

    @rule(user=USERS, model=st.sampled_from("mn"), covered=st.booleans(), dt_s=st.integers(0, 1))
    def begin(self, user: int, model: str, covered: bool, dt_s: int) -> None:
        started_s = max((r.started_s for r in self.rows.values()), default=0.0) + dt_s
        new = row(
            f"s{len(self.rows):03}",
            f"u{user}",
            model=model,
            understudy="p" if covered else "",
            started_s=started_s,
        )
        if any(one.user == new.user for one in self.live.values()):
            with pytest.raises(AlreadyLive):
                self.run(self.store.begin(new))
        else:
            self.run(self.store.begin(new))
            self.rows[new.id] = self.live[new.id] = new

    @rule(of=SOME, role=st.sampled_from(list(Role)), newest=st.sampled_from(["r1", "r2"]))
    def place(self, of: int, role: Role, newest: str) -> None:
        one = self.rows.get(self.some(sorted(self.rows)[-8:], of))
        if one is None or not (model := one.model if role is Role.LEAD else one.understudy):
            return
        asked = request(one.id, model=model, revision=newest, role=role)
        placement = self.run(self.store.place(asked))
        if one.id not in self.live:
            assert placement is None
        elif (seat := self.last(one.id, role)) is not None:
            assert placement == Placement(seat.worker, seat.slot)
        else:
            chosen = self.chosen(one, model, newest)
            if placement is None:
                # It may miss a free slot while somebody leaves a seat: see above.
                assert chosen is None or any(len(seats) > 1 for seats in self.seats.values())
            else:
                assert placement == Placement(str(chosen), self.free(str(chosen))[0])
                self.sit(one.id, placement.worker, role, asked.why)

    @rule(of=SOME, to=SOME, right=st.booleans(), by=SOME)
    def move(self, of: int, to: int, right: bool, by: int) -> None:
        session = self.some(sorted(self.rows)[-8:], of)
        target = self.some([*self.workers, *self.gone[-1:]], to)
        one, there = self.live.get(session), self.workers.get(target)
        role = Role.LEAD if one and there and there.model == one.model else Role.UNDERSTUDY
        now = self.last(session, role)
        source = (now.worker if now else None) if right else self.some([*self.workers], by)
        able = (
            one is not None
            and there is not None
            and there.model in (one.model, one.understudy)
            and source != target
            and source == (now.worker if now else None)
            and not (role is Role.UNDERSTUDY and self.last(session, Role.LEAD))
            and bool(self.free(target))
        )
        assert self.run(self.store.move(session, source, target, "packing")) == able
        if able:
            self.sit(session, target, role, "packing")

    @precondition(lambda self: any(self.seats.values()))
    @rule(of=SOME, which=SOME, own=st.booleans())
    def release(self, of: int, which: int, own: bool) -> None:
        session = self.some([name for name, seats in self.seats.items() if seats], of)
        seat = self.seats[session][which % len(self.seats[session])]
        self.run(self.store.release(session if own else "nobody", seat.worker, seat.slot, "edge-1"))
        if own:
            self.seats[session].remove(seat)

    @rule(of=SOME)
    def end(self, of: int) -> None:
        session = self.some(sorted(self.rows)[-8:], of)
        self.run(self.store.end(session, "stopped", 500.0, "edge-1"))
        self.live.pop(session, None)
        self.seats.pop(session, None)

    @rule(
        model=st.sampled_from("mnp"),
        revision=st.sampled_from(["r1", "r2"]),
        slots=st.integers(1, 3),
        ready=st.booleans(),
    )
    def rent(self, model: str, revision: str, slots: int, ready: bool) -> None:
        name = f"w{len(self.workers) + len(self.gone)}"
        new = worker(name, model=model, revision=revision, slots=slots)
        self.run(self.store.rent(new))
        self.workers[name] = new
        if ready:
            self.ready(len(self.workers) - 1)

    @rule(of=SOME)
    def ready(self, of: int) -> None:
        name = self.some([*self.workers], of)
        linked = self.run(self.store.link(Link(name, "edge-1", 0.001)))
        assert linked == (name in self.workers)
        self.run(self.store.ready(name, 60.0))
        if linked:
            self.workers[name] = replace(self.workers[name], linked=True)
        if linked and self.workers[name].state is LOADING:
            self.workers[name] = replace(self.workers[name], state=READY, ready_s=60.0)

    @rule(of=SOME, on=st.booleans())
    def drain(self, of: int, on: bool) -> None:
        name = self.some([*self.workers, *self.gone[-1:]], of)
        assert self.run(self.store.drain(name, on)) == (name in self.workers)
        if name in self.workers:
            self.workers[name] = replace(self.workers[name], draining=on)

    @rule(of=SOME)
    def retire(self, of: int) -> None:
        name = self.some([*self.workers, *self.gone[-1:]], of)
        busy = any(s.worker == name for seats in self.seats.values() for s in seats)
        able = name in self.workers and not busy
        assert self.run(self.store.retire(name)) == able
        if able:
            self.workers[name] = replace(self.workers[name], state=STOPPING)

    @rule(of=SOME)
    def lose(self, of: int) -> None:
        name = self.some([*self.workers, *self.gone[-1:]], of)
        self.run(self.store.gone(name, 300.0, "crashed"))
        if self.workers.pop(name, None):
            self.gone.append(name)
        for session, seats in self.seats.items():
            self.seats[session] = [s for s in seats if s.worker != name]

    # what must hold

    @invariant()
    def it_says_what_it_was_told(self) -> None:
        fleet = self.run(self.store.look())
        taken = [s.worker for seats in self.seats.values() for s in seats]
        made = [replace(w, taken=taken.count(w.id)) for w in self.workers.values()]
        assert sorted(fleet.workers, key=lambda w: w.id) == sorted(made, key=lambda w: w.id)
        assert fleet.sessions == tuple(self.live.values())
        for session in {*self.seats, *(s.session for s in fleet.seats)}:
            found = [s for s in fleet.seats if s.session == session]
            assert found == self.seats.get(session, [])

    @invariant()
    def the_promises_hold(self) -> None:
        fleet = self.run(self.store.look())
        workers = {w.id: w for w in fleet.workers}
        sessions = {s.id: s for s in fleet.sessions}
        assert len({s.user for s in fleet.sessions}) == len(fleet.sessions)
        assert len({(s.worker, s.slot) for s in fleet.seats}) == len(fleet.seats)
        assert all(w.taken <= w.slots for w in fleet.workers)
        for seat in fleet.seats:
            there, who = workers[seat.worker], sessions[seat.session]
            assert there.state is READY
            assert 0 <= seat.slot < there.slots
            model = who.model if seat.role is Role.LEAD else who.understudy
            assert there.model == model


class RunsOnPostgres(Runs):
    adapter = "postgresql"


Runs.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
RunsOnPostgres.TestCase.settings = settings(Runs.TestCase.settings, max_examples=20)
TestRunsOnSqlite = Runs.TestCase
TestRunsOnPostgres = RunsOnPostgres.TestCase
