"""Which nodes are no good any more, and how long a model that keeps dying is left alone."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.fleet import Node, Worker, WorkerState
from understudy.core.supervision import Crashes, Memory, Rules, backoff_s, crashed, supervise


def worker(name: str) -> Worker:
    return Worker(name, "m", "r1", "sf", 4, WorkerState.READY, 0.0)


def node(name: str, exited: str | None = None) -> Node:
    return Node(name, "m", "r1", "sf", exited)


def test_a_node_that_runs_its_worker_is_left_alone() -> None:
    verdict, memory = supervise([node("a")], [worker("a")], Rules(), 100.0, {})
    assert (verdict.discard, verdict.lost, verdict.held) == ((), (), frozenset())
    assert memory == {}


def test_what_exited_is_discarded_and_counts_as_a_crash() -> None:
    dead = node("b", "killed by signal 9")
    verdict, memory = supervise([node("a"), dead], [worker("a"), worker("b")], Rules(), 100.0, {})
    assert verdict.discard == (dead,)
    assert verdict.lost == ()  # its owner says so once it is returned
    assert memory == {"m": Crashes(1, 100.0)}


def test_a_node_without_a_worker_is_discarded() -> None:
    verdict, memory = supervise([node("a")], [], Rules(), 100.0, {})  # hung, cut off or forgotten
    assert verdict.discard == (node("a"),)
    assert memory["m"].count == 1


def test_a_worker_without_a_node_is_lost() -> None:
    verdict, memory = supervise([node("a")], [worker("a"), worker("b")], Rules(), 100.0, {})
    assert verdict.lost == (worker("b"),)
    assert memory == {}  # the model is not to blame


def test_a_first_crash_holds_nothing_up_and_a_second_one_does() -> None:
    rules = Rules(first_backoff_s=1.0)
    verdict, memory = supervise([node("a", "exited")], [], rules, 100.0, {})
    assert verdict.held == frozenset()
    verdict, memory = supervise([node("b", "exited")], [], rules, 101.0, memory)
    assert verdict.held == {"m"}
    verdict, _ = supervise([], [], rules, 101.9, memory)
    assert verdict.held == {"m"}
    verdict, _ = supervise([], [], rules, 102.0, memory)
    assert verdict.held == frozenset()


def test_models_are_held_one_by_one() -> None:
    memory: Memory = {"m": Crashes(9, 100.0), "n": Crashes(1, 100.0)}
    verdict, _ = supervise([], [], Rules(), 100.0, memory)
    assert verdict.held == {"m"}


def test_a_worker_that_lived_long_clears_its_models_crashes() -> None:
    memory = crashed("m", Rules(), 100.0, {"m": Crashes(7, 30.0), "n": Crashes(3, 0.0)})
    assert memory == {"m": Crashes(1, 100.0), "n": Crashes(3, 0.0)}


def test_a_model_that_keeps_crashing_is_started_ever_more_rarely() -> None:
    rules = Rules()
    memory: Memory = {}
    starts: list[float] = []
    running = False
    for tick in range(4000):  # 1,000 s in looks of 0.25 s; each start dies before the next look
        now = tick * 0.25
        nodes = [node(f"n{tick}", "exited with status 3")] if running else []
        verdict, memory = supervise(nodes, [], rules, now, memory)
        running = "m" not in verdict.held
        if running:
            starts.append(now)
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert gaps[0] <= 1
    assert gaps == sorted(gaps)
    assert max(gaps) <= rules.max_backoff_s + 1
    assert len(starts) < 60


def test_the_backoff_is_never_negative_nor_endless() -> None:
    waits = [backoff_s(Crashes(count, 0.0), Rules()) for count in range(2000)]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert waits[-1] == Rules().max_backoff_s


NAMES = st.sets(st.sampled_from("abcdef"))


@given(NAMES, NAMES, NAMES)
def test_what_is_left_is_one_worker_a_node(
    run: set[str], exited: set[str], owned: set[str]
) -> None:
    nodes = [node(name, "exited" if name in exited else None) for name in sorted(run | exited)]
    workers = [worker(name) for name in sorted(owned)]
    verdict, _ = supervise(nodes, workers, Rules(), 100.0, {})
    discarded, lost = {n.id for n in verdict.discard}, {w.id for w in verdict.lost}
    assert not discarded & lost
    assert {n.id for n in nodes} - discarded == owned - lost - exited


def test_who_served_for_a_while_is_not_held_against_its_model() -> None:
    memory: Memory = {}
    for k in range(5):
        now = 1000.0 + 10.0 * k
        node = Node(f"n{k}", "m", "r1", "sf", "killed by signal 9", started_s=now - 600.0)
        verdict, memory = supervise([node], [], Rules(), now, memory)
        assert verdict.discard == (node,)
        assert verdict.held == frozenset()
    for k in range(3):
        now = 2000.0 + k
        node = Node(f"y{k}", "m", "r1", "sf", "killed by signal 9", started_s=now - 5.0)
        verdict, memory = supervise([node], [], Rules(), now, memory)
    assert verdict.held == frozenset({"m"})
