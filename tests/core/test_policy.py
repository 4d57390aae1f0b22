"""The scaling policy: its thresholds against brute force, and what it may never do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.fleet import Request
from understudy.core.policy import decide, place
from understudy.core.policy_levels import Costs, Thresholds, thresholds
from understudy.core.policy_rates import Life, Rate
from understudy.core.policy_view import (
    Away,
    Drain,
    Memory,
    Plan,
    Pool,
    Rules,
    Session,
    Stage,
    View,
    Worker,
)

COSTS = Costs(slots=4, boot_s=10.0, patience=20.0, stop_cost=1.0, horizon_s=600.0)
RTT_S = {("sf", "tokyo"): 0.11, ("tokyo", "sf"): 0.11}


def sessions(count: int, region: str = "sf", prefix: str = "s") -> tuple[Session, ...]:
    return tuple(Session(f"{prefix}{k}", 0.0, region) for k in range(count))


def worker(name: str, taken: int = 0, **changes: object) -> Worker:
    fields: dict[str, object] = {
        "id": name,
        "model": "m",
        "revision": "r1",
        "region": "sf",
        "stage": Stage.READY,
        "slots": 4,
        "since_s": 0.0,
        "sessions": sessions(taken, prefix=f"{name}-"),
    }
    return Worker(**(fields | changes))  # type: ignore[arg-type]


def pool(*workers: Worker, **changes: object) -> Pool:
    waiting = changes.get("waiting", ())
    assert isinstance(waiting, tuple)
    fields: dict[str, object] = {
        "model": "m",
        "region": "sf",
        "revision": "r1",
        "slots": 4,
        "boot_s": 10.0,
        "price_per_h": 1.0,
        "workers": workers,
        "arrived": sum(len(w.sessions) for w in workers) + len(waiting),
    }
    return Pool(**(fields | changes))  # type: ignore[arg-type]


def look(*pools: Pool, rules: Rules | None = None, now: float = 0.0) -> Plan:
    return decide(View(pools, RTT_S), rules or Rules(), now, Memory())[0]


# --- Where a session goes ---


def test_the_fullest_ready_worker_of_the_newest_revision_is_chosen() -> None:
    view = View(
        (
            pool(
                worker("a", 1),
                worker("b", 2),
                worker("c", 4),
                worker("old", 3, revision="r0"),
                worker("drains", 3, stage=Stage.DRAINING),
                worker("loads", 0, stage=Stage.LOADING),
            ),
        )
    )
    assert place(view, Rules(), Request("s", "m", "sf")) == "b"
    assert place(view, Rules(), Request("s", "other", "sf")) is None


def test_a_far_worker_is_chosen_only_if_home_is_full_and_it_is_near_enough() -> None:
    far = pool(worker("t", 1, region="tokyo"), region="tokyo")
    request = Request("s", "m", "sf")
    assert place(View((pool(worker("a", 3)), far), RTT_S), Rules(), request) == "a"
    full = View((pool(worker("a", 4)), far), RTT_S)
    assert place(full, Rules(), request) == "t"
    assert place(full, Rules(far_rtt_s=0.0), request) is None
    assert place(View(full.pools), Rules(), request) is None  # who knows how far it is


def test_nobody_overtakes_those_who_wait() -> None:
    view = View((pool(worker("a", 1), waiting=sessions(1, prefix="w")),), RTT_S)
    assert place(view, Rules(), Request("s", "m", "sf")) is None


def test_those_who_wait_are_seated_in_order_and_guests_go_home_after_them() -> None:
    guest = Session("g", 0.0, "sf")
    home = pool(worker("a", 2), waiting=(Session("w", 0.0, "sf"),), away=(Away("g", "t"),))
    host = pool(worker("t", 0, region="tokyo", sessions=(guest,)), region="tokyo")
    plan = look(home, host)
    assert [(m.session, m.source, m.target) for m in plan.moves] == [
        ("w", None, "a"),
        ("g", "t", "a"),
    ]


# --- How many workers there are ---


def test_a_first_user_starts_a_worker_and_a_loading_one_is_enough() -> None:
    waiting = sessions(1, prefix="w")
    assert len(look(pool(waiting=waiting)).starts) == 1
    loading = worker("a", stage=Stage.LOADING)
    assert look(pool(loading, waiting=waiting)).starts == ()


def test_a_crowd_starts_several_at_once() -> None:
    assert len(look(pool(waiting=sessions(9, prefix="w"))).starts) >= 3


def test_the_emptiest_worker_is_emptied_then_stopped() -> None:
    plan = look(pool(worker("a", 1), worker("b", 2), worker("c", 1)))
    assert plan.stops == ()
    assert {m.source for m in plan.moves} == {"a"}
    assert {m.target for m in plan.moves} == {"b"}
    plan = look(pool(worker("a", 0), worker("b", 3), worker("c", 1)))
    assert [s.worker for s in plan.stops] == ["a"]


def test_a_new_revision_warms_first_and_then_sessions_move_over() -> None:
    old = worker("old", 3, revision="r0")
    assert [s.revision for s in look(pool(old)).starts] == ["r1"]
    loading = worker("new", stage=Stage.LOADING)
    plan = look(pool(old, loading))
    assert (plan.moves, plan.stops) == ((), ())
    plan = look(pool(old, worker("new")))
    assert {(m.source, m.target) for m in plan.moves} == {("old", "new")}
    assert len(plan.moves) == 3
    assert look(pool(old, worker("new", 1), drain=Drain.FINISH)).moves == ()
    emptied = look(pool(worker("old", 0, revision="r0"), worker("new", 3)))
    assert [s.worker for s in emptied.stops] == ["old"]


def test_under_a_limit_who_waited_longest_is_first_and_spares_are_given_back() -> None:
    early, late = Session("e", 1.0, "sf"), Session("l", 2.0, "sf")
    pools = (
        pool(model="a", waiting=(late,), arrived=1),
        pool(model="b", waiting=(early,), arrived=1),
        pool(worker("c", 0, model="c"), model="c"),
    )
    for limit in (Rules(max_nodes=1), Rules(budget_per_h=1.0)):
        plan = look(*pools, rules=limit)
        assert [s.model for s in plan.starts] == ["b"]
        assert [s.worker for s in plan.stops] == ["c"]  # before the start: there is room
    busy = (*pools[:2], pool(worker("c", 1, model="c"), model="c"))
    assert look(*busy, rules=Rules(max_nodes=1)) == replace(look(), look_again_s=10.0)
    spare = (*pools[:2], pool(worker("c", 1, model="c"), worker("d", 2, model="c"), model="c"))
    plan = look(*spare, rules=Rules(max_nodes=2, patience=1000.0))
    assert plan.starts == ()
    assert [(m.source, m.target) for m in plan.moves] == [("c", "d")]  # however dear the spare


def test_an_unchanged_pool_is_passed_over_until_it_is_due() -> None:
    view, rules = View((pool(worker("a", 3)),)), Rules()
    plan, memory = decide(view, rules, 5.0, Memory())
    assert plan.look_again_s == 5.0 + rules.look_s
    _, after = decide(view, rules, 6.0, memory)
    assert after.pools == memory.pools
    _, after = decide(view, rules, 5.0 + rules.look_s, after)
    assert after.pools["m", "sf"].at_s == 5.0 + rules.look_s


# --- Workers that are always on, loads that fail ---


def test_workers_that_are_always_on_are_started_and_surplus_is_stopped_when_idle() -> None:
    assert len(look(pool(keep=2)).starts) == 2
    assert len(look(pool(worker("a", 4), worker("b", stage=Stage.LOADING), keep=3)).starts) == 1
    enough = look(pool(worker("a", 4), waiting=sessions(5, prefix="w"), keep=1))
    assert (enough.starts, enough.stops) == ((), ())  # they queue
    surplus = pool(worker("a", 1), worker("b"), worker("c"), worker("d", 1), keep=1)
    assert [s.worker for s in look(surplus).stops] == ["b", "c"]
    assert look(surplus).moves == ()  # nobody is moved for it
    assert [s.worker for s in look(replace(surplus, keep=3)).stops] == ["b"]
    assert [s.worker for s in look(replace(surplus, keep=0)).stops] == ["b", "c"]
    assert look(replace(surplus, keep=4)).stops == ()


def test_an_idle_worker_that_is_about_to_be_taken_is_no_surplus() -> None:
    plan = look(pool(worker("a", 4), worker("b"), waiting=sessions(1, prefix="w"), keep=1))
    assert [m.target for m in plan.moves] == ["b"]
    assert plan.stops == ()


def test_what_is_always_on_is_under_no_limit_and_takes_nothing_from_it() -> None:
    always, rented = pool(keep=2, model="a"), pool(model="b", waiting=sessions(1, prefix="w"))
    for limit in (Rules(max_nodes=1), Rules(budget_per_h=1.0)):
        assert sorted(s.model for s in look(always, rented, rules=limit).starts) == ["a", "a", "b"]
    full = pool(worker("c", 4, model="c"), model="c")
    kept = look(replace(always, workers=(worker("x", model="a"),)), full, rules=Rules(max_nodes=0))
    assert [s.model for s in kept.starts] == ["a"]


def test_a_model_whose_loads_fail_is_not_started() -> None:
    waiting = sessions(3, prefix="w")
    assert look(pool(held=True, waiting=waiting)).starts == ()
    assert look(pool(held=True, waiting=waiting, keep=2)).starts == ()
    ready = pool(worker("a"), held=True, waiting=waiting, keep=2)
    assert len(look(ready).moves) == 3  # what there is is used


@pytest.mark.parametrize("keep", [None, 1])
def test_an_older_revision_stays_until_a_newest_worker_is_ready(keep: int | None) -> None:
    waiting = sessions(1, prefix="w")
    old = worker("old", 0, revision="r0")
    loading = worker("new", stage=Stage.LOADING)
    plan = look(pool(old, loading, waiting=waiting, keep=keep))
    assert [(m.session, m.target) for m in plan.moves] == [("w0", "old")]
    assert plan.stops == ()
    if keep:
        assert look(pool(old, loading, keep=keep)).stops == ()
    assert [s.worker for s in look(pool(old, worker("new", 1), keep=keep)).stops] == ["old"]
    draining = worker("old", 0, revision="r0", stage=Stage.DRAINING)
    assert [s.worker for s in look(pool(draining, loading, keep=keep)).stops] == ["old"]


@pytest.mark.parametrize("held", [False, True])
def test_an_older_revision_that_is_always_on_stays_while_no_newer_one_is_there(held: bool) -> None:
    plan = look(pool(worker("old", 0, revision="r0"), keep=1, held=held))
    assert plan.stops == ()
    assert len(plan.starts) == (not held)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, 5), st.booleans())
def test_a_pool_that_is_always_on_comes_to_rest(data: st.DataObject, keep: int, held: bool) -> None:
    """Plans carried out, look after look: as many as were said, and no busy worker was stopped."""
    workers = {
        f"w{k}": worker(
            f"w{k}",
            data.draw(st.integers(0, 4)),
            revision=data.draw(st.sampled_from(["r0", "r1"])),
            stage=data.draw(st.sampled_from([Stage.READY, Stage.DRAINING])),
        )
        for k in range(data.draw(st.integers(0, 5)))
    }
    before = sum(len(w.sessions) for w in workers.values())
    for look_number in range(12):
        view = pool(*workers.values(), keep=keep, held=held and look_number < 6)
        plan = look(view, rules=Rules(max_nodes=0, budget_per_h=0.0))
        for move in plan.moves:
            source, target = workers[str(move.source)], workers[move.target]
            moved = tuple(s for s in source.sessions if s.id == move.session)
            workers[source.id] = replace(source, sessions=tuple(set(source.sessions) - set(moved)))
            workers[target.id] = replace(target, sessions=target.sessions + moved)
        for stop in plan.stops:
            assert not workers.pop(stop.worker).sessions
        assert not (view.held and plan.starts)
        for k, start in enumerate(plan.starts):
            name = f"n{look_number}-{k}"
            workers[name] = worker(name, revision=start.revision)
    assert plan == Plan(look_again_s=plan.look_again_s)
    assert sum(len(w.sessions) for w in workers.values()) == before
    usable = [w for w in workers.values() if w.stage is Stage.READY and w.revision == "r1"]
    assert len(usable) >= keep
    assert len(usable) == keep or all(w.sessions for w in usable)


def test_an_older_worker_that_cannot_be_emptied_keeps_no_other_from_being_stopped() -> None:
    stuck, idle = worker("a", 2, revision="r0"), worker("b", 0, revision="r0")
    plan = look(pool(stuck, idle, worker("new", 4), keep=1))
    assert [s.worker for s in plan.stops] == ["b"]


# --- Never ---


@st.composite
def views(draw: st.DrawFn) -> View:
    pools = []
    made = 0
    for model in ("a", "b"):
        for region in ("sf", "tokyo"):
            workers = []
            for _ in range(draw(st.integers(0, 4))):
                made += 1
                stage = draw(st.sampled_from(list(Stage)))
                taken = 0 if stage is Stage.LOADING else draw(st.integers(0, 4))
                workers.append(
                    worker(
                        f"w{made}",
                        taken,
                        model=model,
                        region=region,
                        stage=stage,
                        revision=draw(st.sampled_from(["r0", "r1", "r1"])),
                        sessions=sessions(taken, region, f"w{made}-"),
                    )
                )
            waiting = sessions(draw(st.integers(0, 6)), region, f"q-{model}-{region}-")
            pools.append(
                pool(
                    *workers,
                    model=model,
                    region=region,
                    waiting=waiting,
                    drain=draw(st.sampled_from(list(Drain))),
                )
            )
    return View(tuple(pools), RTT_S)


@settings(max_examples=300, deadline=None)
@given(
    views(),
    st.one_of(st.none(), st.integers(0, 12)),
    st.one_of(st.none(), st.floats(0, 12)),
    st.sampled_from([0.5, 6.0, 100.0]),
)
def test_what_a_plan_may_never_do(
    view: View, max_nodes: int | None, budget_per_h: float | None, patience: float
) -> None:
    rules = Rules(patience=patience, max_nodes=max_nodes, budget_per_h=budget_per_h)
    plan, memory = decide(view, rules, 100.0, Memory())
    assert (plan, memory) == decide(view, rules, 100.0, Memory())
    workers = {w.id: w for p in view.pools for w in p.workers}
    seated = {s.id: w.id for w in workers.values() for s in w.sessions}
    regions = {s.id: s.region for p in view.pools for s in p.waiting}
    for stop in plan.stops:
        assert not workers[stop.worker].sessions
        assert stop.worker not in {m.target for m in plan.moves}
    if plan.starts:
        nodes = len(workers) - len(plan.stops) + len(plan.starts)
        assert max_nodes is None or nodes <= max_nodes
        assert budget_per_h is None or nodes <= budget_per_h + 1e-6
    moved = [move.session for move in plan.moves]
    assert len(moved) == len(set(moved))
    for move in plan.moves:
        target = workers[move.target]
        assert target.stage is Stage.READY
        assert seated.get(move.session) == move.source
        if move.source is None:
            assert target.region == regions[move.session]
        else:
            assert workers[move.source].model == target.model
    for name, one in workers.items():
        coming = sum(m.target == name for m in plan.moves)
        assert len(one.sessions) + coming <= one.slots
    for model in ("a", "b", "c"):
        for region in ("sf", "tokyo"):
            chosen = place(view, rules, Request("new", model, region))
            if chosen is not None:
                assert workers[chosen].stage is Stage.READY
                assert workers[chosen].model == model
                assert len(workers[chosen].sessions) < workers[chosen].slots


# --- Thresholds ---


def by_value_iteration(base: int, arrivals_per_s: float, mean_s: float, costs: Costs) -> Thresholds:
    """The same decision problem solved by value iteration, with the boot in the state."""
    low, high = max(-base, -14), 14
    step_s = 0.5
    boots = round(costs.boot_s / step_s)
    keep = 1.0 - step_s / costs.horizon_s
    states = range(low, high + 1)

    def after(values: list[float], x: int) -> float:
        up = arrivals_per_s * step_s if x < high else 0.0
        down = (base + x) / mean_s * step_s if x > low else 0.0
        at = x - low
        value = values[at] * (1.0 - up - down)
        if up:
            value += values[at + 1] * up
        if down:
            value += values[at - 1] * down
        return keep * value

    wait = [costs.patience * min(costs.slots, max(0, x)) * step_s for x in states]
    off = [0.0] * len(states)
    on = list(off)
    for _ in range(6000):
        boot = list(on)
        for _ in range(boots):
            boot = [step_s + wait[x - low] + after(boot, x) for x in states]
        off, before = [min(boot[x - low], wait[x - low] + after(off, x)) for x in states], list(off)
        on = [
            min(step_s + after(on, x), off[x - low] + costs.stop_cost)
            if x <= 0
            else step_s + after(on, x)
            for x in states
        ]
        if max(abs(a - b) for a, b in zip(off, before, strict=True)) < 1e-4:
            break
    start_at = next(x for x in states if boot[x - low] <= wait[x - low] + after(off, x) + 1e-6)
    stops = [x for x in states if x <= 0 and off[x - low] + costs.stop_cost <= on[x - low] + 1e-9]
    return Thresholds(min(1, start_at), max(stops, default=low - 1))


@pytest.mark.parametrize(
    ("base", "arrivals_per_s", "patience"), [(0, 0.004, 5.0), (8, 0.02, 20.0), (40, 0.09, 40.0)]
)
def test_thresholds_agree_with_value_iteration(
    base: int, arrivals_per_s: float, patience: float
) -> None:
    costs = replace(COSTS, patience=patience, horizon_s=200.0)
    mine = thresholds(base, arrivals_per_s, 480.0, costs)
    other = by_value_iteration(base, arrivals_per_s, 480.0, costs)
    assert abs(mine.start_at - other.start_at) <= 1
    assert abs(mine.stop_at - other.stop_at) <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 30).map(lambda level: 4 * level),
    st.floats(0.0, 1.0),
    st.floats(60.0, 2000.0),
    st.floats(0.1, 200.0),
)
def test_thresholds_never_starve_nor_evict_nor_flap(
    base: int, arrivals_per_s: float, mean_s: float, patience: float
) -> None:
    found = thresholds(base, arrivals_per_s, mean_s, replace(COSTS, patience=patience))
    assert found.start_at <= 1
    assert found.stop_at <= 0
    assert found.stop_at < found.start_at


def test_more_patience_or_more_traffic_never_means_fewer_spares() -> None:
    by_patience = [
        thresholds(40, 0.1, 480.0, replace(COSTS, patience=p)).start_at for p in (1, 5, 20, 80)
    ]
    assert by_patience == sorted(by_patience, reverse=True)
    by_rate = [thresholds(40, rate, 480.0, COSTS).start_at for rate in (0.02, 0.1, 0.3, 1.0)]
    assert by_rate == sorted(by_rate, reverse=True)
    assert by_rate[-1] < by_rate[0]


# --- What it learns ---


def test_rates_start_at_equilibrium_and_follow_what_comes() -> None:
    rate = Rate()
    assert rate.per_s(48, 480.0) == pytest.approx(0.1)
    for _ in range(600):
        rate = rate.after(5.0, 1)  # twice that
    assert rate.per_s(96, 480.0) == pytest.approx(0.2, rel=0.05)
    quiet = rate.after(600.0, 0)
    assert quiet.per_s(48, 480.0) < 0.1
    mob = rate
    for _ in range(20):
        mob = mob.after(1.0, 2)
    assert mob.per_s(130, 480.0) > 2 * rate.per_s(96, 480.0)


def test_the_length_of_sessions_is_learnt_from_those_that_end() -> None:
    life = Life().after(0.0, 0, 0.0)
    for k in range(400):
        life = life.after(60.0 * (k + 1), 2, 60.0 * 20)  # 20 at once, two end a minute
    assert life.mean_s == pytest.approx(600.0, rel=0.05)
    assert life.fleet(20) == pytest.approx(20.0, rel=0.05)
