"""Placing and keeping workers up, as pure functions."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.fleet import Crashes, Memory, Node, Plan, Request, View, Worker, WorkerState
from understudy.core.policy import Rules, backoff_s, decide, place

READY = WorkerState.READY


def worker(name: str, taken: int, slots: int = 4, **changes: object) -> Worker:
    fields: dict[str, object] = {
        "id": name,
        "node": f"n{name}",
        "model": "m",
        "region": "r",
        "slots": slots,
        "state": READY,
        "taken": taken,
    }
    return Worker(**(fields | changes))  # type: ignore[arg-type]


def test_the_fullest_worker_with_room_is_chosen() -> None:
    fleet = [worker("a", 1), worker("b", 3), worker("c", 4), worker("d", 0)]
    chosen = place(fleet, Request("s", "m", "r"))
    assert chosen is not None
    assert chosen.id == "b"


def test_other_models_full_and_loading_workers_are_not_chosen() -> None:
    fleet = [
        worker("a", 0, model="other"),
        worker("b", 4),
        worker("c", 0, state=WorkerState.LOADING),
    ]
    assert place(fleet, Request("s", "m", "r")) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("rs")), max_size=8))
def test_placing_never_overfills(sizes: list[tuple[int, str]]) -> None:
    fleet = [worker(str(k), taken, region=region) for k, (taken, region) in enumerate(sizes)]
    chosen = place(fleet, Request("s", "m", "r"))
    if any(w.taken < 4 for w in fleet):
        assert chosen is not None
        assert chosen.taken < chosen.slots
        if any(w.taken < 4 and w.region == "r" for w in fleet):
            assert chosen.region == "r"
    else:
        assert chosen is None


def test_what_is_missing_is_started_and_what_exited_is_discarded() -> None:
    view = View((), (Node("n1", "m", "r"), Node("n2", "m", "r", "killed by signal 9")), {"m": 2})
    plan, memory = decide(view, Rules(), 100.0, Memory())
    assert [d.node for d in plan.discard] == ["n2"]
    assert [s.model for s in plan.start] == ["m"]
    assert memory.crashes["m"].count == 1


def test_a_model_that_keeps_crashing_is_started_ever_more_rarely() -> None:
    rules, memory, starts = Rules(), Memory(), list[float]()
    running = False
    for tick in range(4000):  # 1,000 s in looks of 0.25 s; each start dies before the next look
        nodes = (Node("n", "m", "r", "exited with status 3"),) if running else ()
        plan, memory = decide(View((), nodes, {"m": 1}), rules, tick * 0.25, memory)
        running = bool(plan.start)
        if running:
            starts.append(tick * 0.25)
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert gaps[0] <= 1
    assert max(gaps) <= rules.max_backoff_s + 1
    assert len(starts) < 60


def test_the_backoff_is_never_negative_nor_endless() -> None:
    for count in range(2000):
        assert 0 <= backoff_s(Crashes(count, 0), Rules()) <= Rules().max_backoff_s


def test_a_busy_worker_is_never_stopped() -> None:
    nodes = tuple(Node(f"n{k}", "m", "r") for k in "abc")
    workers = (worker("a", 1), worker("b", 0), worker("c", 4))
    plan, _ = decide(View(workers, nodes, {"m": 1}), Rules(), 0.0, Memory())
    assert [d.node for d in plan.discard] == ["nb"]
    assert plan.start == ()
    plan, _ = decide(View(workers, nodes, {}), Rules(), 0.0, Memory())
    assert [d.node for d in plan.discard] == ["nb"]


def test_a_node_that_runs_without_its_worker_is_replaced() -> None:
    nodes = (Node("na", "m", "r"),)
    plan, memory = decide(View((), nodes, {"m": 1}), Rules(), 0.0, Memory())
    assert plan == Plan()  # it has not dialled in yet
    plan, memory = decide(View((worker("a", 1),), nodes, {"m": 1}), Rules(), 1.0, memory)
    assert plan == Plan()
    plan, memory = decide(View((), nodes, {"m": 1}), Rules(), 2.0, memory)  # its link is lost
    assert [d.node for d in plan.discard] == ["na"]
    assert len(plan.start) == 1
    plan, memory = decide(View((), (), {"m": 1}), Rules(), 3.0, memory)
    assert memory.served == frozenset()
