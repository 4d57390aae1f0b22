"""Which nodes are no good any more, and how long a model that keeps dying is left alone."""

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.fleet import EdgeRow, Node, Worker, WorkerState
from understudy.core.supervision import Crashes, Memory, Rules, backoff_s, crashed, supervise

M = ("m", "sf")


def worker(name: str) -> Worker:
    return Worker(name, "m", "r1", "sf", 4, WorkerState.READY, 0.0, linked=True)


def node(name: str, exited: str | None = None) -> Node:
    return Node(name, "m", "r1", "sf", exited)


def test_a_node_that_runs_its_worker_is_left_alone() -> None:
    verdict, memory = supervise([node("a")], [worker("a")], [], Rules(), 100.0, Memory())
    assert (verdict.discard, verdict.lost, verdict.held) == ((), (), frozenset())
    assert memory.crashes == {}


def test_what_exited_is_discarded_and_counts_as_a_crash() -> None:
    dead = node("b", "killed by signal 9")
    verdict, memory = supervise(
        [node("a"), dead], [worker("a"), worker("b")], [], Rules(), 100.0, Memory()
    )
    assert verdict.discard == (dead,)
    assert verdict.lost == ()  # its owner says so once it is returned
    assert memory.crashes == {M: Crashes(1, 100.0)}


def test_a_node_without_a_worker_is_discarded() -> None:
    verdict, memory = supervise(
        [node("a")], [], [], Rules(), 100.0, Memory()
    )  # hung, cut off or forgotten
    assert verdict.discard == (node("a"),)
    assert memory.crashes[M].count == 1


def test_a_worker_without_a_node_is_lost() -> None:
    lost = replace(worker("b"), linked=False)
    verdict, memory = supervise([node("a")], [worker("a"), lost], [], Rules(), 100.0, Memory())
    assert verdict.lost == (lost,)
    assert memory.crashes == {}  # the model is not to blame


def test_a_first_crash_holds_nothing_up_and_a_second_one_does() -> None:
    rules = Rules(first_backoff_s=1.0)
    verdict, memory = supervise([node("a", "exited")], [], [], rules, 100.0, Memory())
    assert verdict.held == frozenset()
    verdict, memory = supervise([node("b", "exited")], [], [], rules, 101.0, memory)
    assert verdict.held == {M}
    verdict, _ = supervise([], [], [], rules, 101.9, memory)
    assert verdict.held == {M}
    verdict, _ = supervise([], [], [], rules, 102.0, memory)
    assert verdict.held == frozenset()


def test_models_are_held_region_by_region() -> None:
    memory = Memory(crashes={M: Crashes(9, 100.0), ("m", "tokyo"): Crashes(1, 100.0)})
    verdict, _ = supervise([], [], [], Rules(), 100.0, memory)
    assert verdict.held == {M}


def test_a_worker_that_lived_long_clears_its_models_crashes() -> None:
    before = Memory(crashes={M: Crashes(7, 30.0), ("n", "sf"): Crashes(3, 0.0)})
    memory = crashed(M, Rules(), 100.0, before)
    assert memory.crashes == {M: Crashes(1, 100.0), ("n", "sf"): Crashes(3, 0.0)}


def test_a_model_that_keeps_crashing_is_started_ever_more_rarely() -> None:
    rules = Rules()
    memory = Memory()
    starts: list[float] = []
    running = False
    for tick in range(4000):  # 1,000 s in looks of 0.25 s; each start dies before the next look
        now = tick * 0.25
        nodes = [node(f"n{tick}", "exited with status 3")] if running else []
        verdict, memory = supervise(nodes, [], [], rules, now, memory)
        running = M not in verdict.held
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
    workers = [replace(worker(name), linked=False) for name in sorted(owned)]
    verdict, _ = supervise(nodes, workers, [], Rules(), 100.0, Memory())
    discarded, lost = {n.id for n in verdict.discard}, {w.id for w in verdict.lost}
    assert not discarded & lost
    assert {n.id for n in nodes} - discarded == owned - lost - exited


def test_who_served_for_a_while_is_not_held_against_its_model() -> None:
    memory = Memory()
    for k in range(5):
        now = 1000.0 + 10.0 * k
        node = Node(f"n{k}", "m", "r1", "sf", "killed by signal 9", started_s=now - 600.0)
        verdict, memory = supervise([node], [], [], Rules(), now, memory)
        assert verdict.discard == (node,)
        assert verdict.held == frozenset()
    for k in range(3):
        now = 2000.0 + k
        node = Node(f"y{k}", "m", "r1", "sf", "killed by signal 9", started_s=now - 5.0)
        verdict, memory = supervise([node], [], [], Rules(), now, memory)
    assert verdict.held == frozenset({M})


def test_a_worker_that_nobody_can_reach_may_dial_again_for_a_while() -> None:
    rules = Rules(unlinked_s=10.0)
    memory = Memory()
    away = replace(worker("a"), linked=False)
    for now in range(100, 111):
        verdict, memory = supervise([node("a")], [away], [], rules, float(now), memory)
        assert verdict.discard == ()
    back, memory = supervise([node("a")], [worker("a")], [], rules, 110.5, memory)
    assert back.discard == ()
    for now in range(111, 122):
        verdict, memory = supervise([node("a")], [away], [], rules, float(now), memory)
        assert verdict.discard == ()
    verdict, memory = supervise([node("a")], [away], [], rules, 122.0, memory)
    assert verdict.discard == (node("a"),)


def test_an_edge_is_dead_once_it_beats_no_more() -> None:
    rules, memory = Rules(edge_s=3.0), Memory()
    one, two = EdgeRow("one", "sf", ""), EdgeRow("two", "sf", "")
    for second in range(8):
        edges = [replace(one, beat=min(second, 2)), replace(two, beat=second)]
        verdict, memory = supervise([], [], edges, rules, 100.0 + second, memory)
        assert [edge.name for edge in verdict.dead] == (["one"] if second >= 6 else [])


def test_a_slow_look_finds_the_dead_all_the_same() -> None:
    """The store is far: a look takes longer than what would else be called blind."""
    rules, memory = Rules(), Memory()
    one, two = EdgeRow("one", "sf", "", beat=7), EdgeRow("two", "sf", "")
    dead = []
    for look in range(6):
        edges = [one, replace(two, beat=look)]
        verdict, memory = supervise([], [], edges, rules, 100.0 + 4.0 * look, memory)
        dead.append([edge.name for edge in verdict.dead])
    assert dead == [[], [], [], ["one"], ["one"], ["one"]]


def test_who_was_blind_himself_takes_nobody_for_dead() -> None:
    """The store was away for a minute: nobody could say that he lives."""
    rules, memory = Rules(), Memory()
    away = replace(worker("a"), linked=False)
    edge = EdgeRow("one", "sf", "", beat=7)
    for now in (100.0, 101.0, 161.0, 162.0, 163.0, 164.0):
        verdict, memory = supervise([node("a")], [away], [edge], rules, now, memory)
        assert (verdict.discard, verdict.dead) == ((), ())
    verdict, memory = supervise([node("a")], [away], [edge], rules, 164.5, memory)
    assert verdict.dead == (edge,)


def test_a_worker_that_edges_reach_is_not_lost_with_who_started_it() -> None:
    loads = replace(worker("loads"), state=WorkerState.LOADING, linked=False)
    verdict, _ = supervise([], [worker("at work"), loads], [], Rules(), 100.0, Memory())
    assert verdict.lost == (loads,)
