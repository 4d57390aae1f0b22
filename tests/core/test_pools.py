"""From what the store keeps to what the policy sees."""

from dataclasses import replace
from typing import Any

from understudy.core.fleet import Fleet, Seat, SessionRow, Worker, WorkerState
from understudy.core.ledger import Role
from understudy.core.policy_view import Away, Drain, Pool, Session, Stage
from understudy.core.pools import DEFAULT_BOOT_S, Traffic, Wanted, last_seats, pool_of, waiting_for

WANTED = Wanted("m", "r2", slots=4)


def row(session: str, started_s: float, **changes: Any) -> SessionRow:
    row = SessionRow(session, f"user of {session}", "miku", "m", "", "sf", "edge-1", started_s)
    return replace(row, **changes)


def worker(name: str, **changes: Any) -> Worker:
    made = Worker(name, "m", "r1", "sf", 3, WorkerState.READY, 50.0, ready_s=60.0, linked=True)
    return replace(made, **changes)


def seat(session: str, worker: str, turn: int = 0, role: Role = Role.LEAD) -> Seat:
    return Seat(session, worker, 0, role, turn, "connect")


def waiting(fleet: Fleet, **changes: Any) -> list[str]:
    return [s.id for s in pool_of(fleet, WANTED, "sf", **changes).waiting]


def seated(pool: Pool) -> dict[str, list[str]]:
    return {w.id: [s.id for s in w.sessions] for w in pool.workers}


def test_a_pool_says_what_is_wanted() -> None:
    wanted = Wanted("m", "r2", 4, keep=2, price_per_h=0.4, boot_s=7.0, drain=Drain.FINISH)
    pool = pool_of(Fleet(), wanted, "sf")
    assert pool == Pool("m", "sf", "r2", 4, 7.0, 0.4, drain=Drain.FINISH, keep=2)
    assert pool_of(Fleet(), wanted, "sf", held=True) == replace(pool, held=True)
    assert pool_of(Fleet(), WANTED, "sf").keep is None


def test_how_long_a_load_takes_is_what_was_learnt_else_a_guess() -> None:
    assert pool_of(Fleet(), WANTED, "sf").boot_s == DEFAULT_BOOT_S
    learnt = Fleet(boot_s={"m": 3.5, "n": 9.0})
    assert pool_of(learnt, WANTED, "sf").boot_s == 3.5


def test_a_worker_is_loading_ready_or_draining_since_a_time() -> None:
    loading = worker("loads", state=WorkerState.LOADING, ready_s=None)
    draining = worker("drains", draining=True)
    drained = worker("drains too", draining=True, state=WorkerState.LOADING, ready_s=None)
    stopping = worker("stops", state=WorkerState.STOPPING)
    alone = worker("no edge reaches it", linked=False)
    workers = (worker("w"), loading, draining, drained, stopping, alone)
    pool = pool_of(Fleet(workers), WANTED, "sf")
    assert [(w.id, w.stage, w.since_s) for w in pool.workers] == [
        ("w", Stage.READY, 60.0),
        ("loads", Stage.LOADING, 50.0),
        ("drains", Stage.DRAINING, 60.0),
        ("drains too", Stage.DRAINING, 50.0),
    ]
    assert [(w.model, w.revision, w.region, w.slots) for w in pool.workers] == [
        ("m", "r1", "sf", 3)
    ] * 4


def test_a_pool_is_one_model_in_one_region() -> None:
    fleet = Fleet(
        (worker("w"), worker("other", model="n"), worker("far", region="tokyo")),
        (row("a", 1.0), row("b", 2.0, model="n"), row("c", 3.0, region="tokyo")),
    )
    pool = pool_of(fleet, WANTED, "sf")
    assert [w.id for w in pool.workers] == ["w"]
    assert [s.id for s in pool.waiting] == ["a"]


def test_who_has_no_lead_waits_for_one_and_who_has_nobody_for_an_understudy_too() -> None:
    rows = (
        row("lead", 1.0, understudy="p"),
        row("nobody", 2.0, understudy="p"),
        row("covered", 3.0, understudy="p"),
        row("other", 4.0, model="n", understudy="m"),
    )
    seats = (seat("lead", "w"), seat("covered", "p", role=Role.UNDERSTUDY))
    fleet = Fleet((worker("w"), worker("p", model="p")), rows, seats)
    assert waiting(fleet) == ["nobody", "covered", "other"]
    cover = pool_of(fleet, replace(WANTED, model="p"), "sf")
    assert [s.id for s in cover.waiting] == ["nobody"]
    led = Fleet(fleet.workers, rows, (*seats, seat("other", "n1")))
    assert waiting(led) == ["nobody", "covered"]  # who has a lead needs no understudy


def test_an_asker_sees_only_those_who_came_before() -> None:
    rows = (row("a", 1.0), row("b", 2.0), row("c", 2.0), row("d", 3.0))
    fleet = Fleet((), rows)
    assert waiting(fleet) == ["a", "b", "c", "d"]
    assert waiting(fleet, asker=rows[2]) == ["a", "b"]
    assert waiting(fleet, asker=rows[0]) == []
    assert waiting_for(rows, {}, "m", "sf", rows[3]) == list(rows[:3])


def test_a_session_counts_on_its_worker_in_the_order_in_which_it_came() -> None:
    rows = (row("a", 1.0), row("b", 2.0), row("c", 3.0, model="n", understudy="m"))
    seats = (seat("c", "w", role=Role.UNDERSTUDY), seat("b", "w"), seat("a", "w"))
    pool = pool_of(Fleet((worker("w"),), rows, seats), WANTED, "sf")
    assert pool.workers[0].sessions == tuple(
        Session(s, t, "sf") for s, t in zip("abc", (1, 2, 3), strict=True)
    )
    assert pool.waiting == ()


def test_a_session_that_moves_counts_where_it_goes() -> None:
    seats = (seat("a", "w"), seat("b", "w"), seat("a", "x", turn=1))
    fleet = Fleet((worker("w"), worker("x")), (row("a", 1.0), row("b", 2.0)), seats)
    assert seated(pool_of(fleet, WANTED, "sf")) == {"w": ["b"], "x": ["a"]}
    assert last_seats(seats)["a", Role.LEAD].worker == "x"


def test_who_comes_from_the_understudy_counts_with_both() -> None:
    seats = (seat("a", "p", role=Role.UNDERSTUDY), seat("a", "w", turn=1))
    fleet = Fleet((worker("w"), worker("p", model="p")), (row("a", 1.0, understudy="p"),), seats)
    assert seated(pool_of(fleet, WANTED, "sf")) == {"w": ["a"]}
    assert seated(pool_of(fleet, replace(WANTED, model="p"), "sf")) == {"p": ["a"]}


def test_who_is_led_from_another_region_is_away() -> None:
    rows = (row("home", 1.0), row("guest", 2.0), row("covered", 3.0, understudy="m", model="n"))
    seats = (seat("home", "w"), seat("guest", "t"), seat("covered", "t", role=Role.UNDERSTUDY))
    fleet = Fleet((worker("w"), worker("t", region="tokyo")), rows, seats)
    assert pool_of(fleet, WANTED, "sf").away == (Away("guest", "t"),)
    abroad = pool_of(fleet, WANTED, "tokyo")
    assert abroad.away == ()
    assert [(s.id, s.region) for s in abroad.workers[0].sessions] == [
        ("guest", "sf"),
        ("covered", "sf"),
    ]


def test_a_seat_whose_worker_or_session_is_no_more_counts_nowhere() -> None:
    fleet = Fleet((worker("w"),), (row("a", 1.0),), (seat("a", "went"), seat("over", "w")))
    pool = pool_of(fleet, WANTED, "sf")
    assert seated(pool) == {"w": []}
    assert pool.away == ()


def test_traffic_counts_who_came_and_who_went() -> None:
    a, b, far = row("a", 1.0), row("b", 2.0), row("far", 3.0, region="tokyo")
    first = Traffic().after(Fleet(sessions=(a, far)))
    assert first.after(Fleet(sessions=(a, far))) is first
    traffic = first.after(Fleet(sessions=(b,))).after(Fleet(sessions=(b,)))
    pool = pool_of(Fleet(), WANTED, "sf", traffic)
    assert (pool.arrived, pool.ended) == (2, 1)
    pool = pool_of(Fleet(), WANTED, "tokyo", traffic)
    assert (pool.arrived, pool.ended) == (1, 1)
    pool = pool_of(Fleet(), replace(WANTED, model="n"), "sf", traffic)
    assert (pool.arrived, pool.ended) == (0, 0)
