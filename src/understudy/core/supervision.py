"""Which nodes and edges are no good any more, and which models had better not be started now. Pure.

Silence is judged by what was seen from look to look, never by another machine's clock; and after
a time in which this process itself saw nothing (the store was away), everybody starts anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from understudy.core.fleet import EdgeRow, Node, Worker, WorkerState
from understudy.core.policy_view import Key


@dataclass(frozen=True, slots=True)
class Rules:
    """How patient the controller is."""

    first_backoff_s: float = 0.2  # with a model whose workers die
    max_backoff_s: float = 30.0
    load_s: float = 900.0  # a worker that has not loaded by then hangs
    steady_s: float = 60.0  # who lived this long did not crash by its model's fault, and clears it
    unlinked_s: float = 10.0  # a worker that no edge can reach may dial again until then
    edge_s: float = 3.0  # an edge that has not beaten for so long is no more
    looks: int = 3  # ... and neither did in so many looks
    blind_s: float = 2.0  # between two looks in which nobody beat: then it was us, or the store


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often a model's nodes died in a row, and when the last one did (s)."""

    count: int = 0
    last_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    discard: tuple[Node, ...]  # to be returned: they exited, or nobody can use them
    lost: tuple[Worker, ...]  # whose node is no more
    dead: tuple[EdgeRow, ...]  # edges that beat no more
    held: frozenset[Key]  # models that crashed there lately: not to be started again yet


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when each of those who count up has stood still, and for how many looks."""

    at_s: float = 0.0
    beats: Mapping[str, tuple[int, float, int]] = field(default_factory=dict)
    was_blind: bool = True  # nothing was seen since the look before

    def after(self, beats: Mapping[str, int], now: float, blind_s: float) -> Silence:
        """The next look. Where it comes late and nobody has moved, nobody could: the store was
        away, or we were."""
        moved = any(self.beats.get(name, (beat,))[0] != beat for name, beat in beats.items())
        blind = now - self.at_s > blind_s and not moved
        seen: dict[str, tuple[int, float, int]] = {}
        for name, beat in beats.items():
            before, since_s, looks = self.beats.get(name, (beat, now, 0))
            still = beat == before and not blind
            seen[name] = (beat, since_s, looks + 1) if still else (beat, now, 0)
        return Silence(now, seen, blind)

    def of(self, name: str, now: float, looks: int) -> float:
        """For how long it has been silent (s), if that was seen in so many looks, else 0."""
        _, since_s, seen = self.beats.get(name, (0, now, 0))
        return now - since_s if seen >= looks else 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What must be remembered between two looks."""

    at_s: float = 0.0
    crashes: Mapping[Key, Crashes] = field(default_factory=dict)
    unlinked: Mapping[str, float] = field(default_factory=dict)  # worker -> since
    edges: Silence = field(default_factory=lambda: Silence())


def backoff_s(crashes: Crashes, rules: Rules) -> float:
    """How long to wait after the last crash: at once the first time, then doubling."""
    if crashes.count <= 1:
        return 0.0
    return min(rules.max_backoff_s, rules.first_backoff_s * 2.0 ** min(crashes.count - 2, 16))


def crashed(key: Key, rules: Rules, now: float, memory: Memory) -> Memory:
    return _with(memory, _crash(memory.crashes, key, rules, now))


def _with(memory: Memory, crashes: Mapping[Key, Crashes]) -> Memory:
    return Memory(memory.at_s, crashes, memory.unlinked, memory.edges)


def _crash(
    crashes: Mapping[Key, Crashes], key: Key, rules: Rules, now: float
) -> Mapping[Key, Crashes]:
    before = crashes.get(key, Crashes())
    fresh = now - before.last_s > rules.steady_s
    return {**crashes, key: Crashes(1 if fresh else before.count + 1, now)}


def supervise(
    nodes: Iterable[Node],
    workers: Sequence[Worker],
    edges: Sequence[EdgeRow],
    rules: Rules,
    now: float,
    memory: Memory,
) -> tuple[Verdict, Memory]:
    """`workers`: those that are not gone.

    A worker is recorded before its node is asked for. So a node without a worker hangs, or is cut
    off, or its owner forgot it: nobody can use it.
    """
    silence = memory.edges.after({edge.name: edge.beat for edge in edges}, now, rules.blind_s)
    unlinked = {
        worker.id: now if silence.was_blind else memory.unlinked.get(worker.id, now)
        for worker in workers
        if worker.state is WorkerState.READY and not worker.linked
    }
    owned = {worker.id for worker in workers if not _hangs(worker, unlinked, rules, now)}
    nodes = tuple(nodes)
    crashes = memory.crashes
    discard = []
    for node in nodes:
        if node.exited is None and node.id in owned:
            continue
        discard.append(node)
        # One that served for a while says nothing of the next one's chances: machines are lost.
        if node.started_s is None or now - node.started_s < rules.steady_s:
            crashes = _crash(crashes, (node.model, node.region), rules, now)
    there = {node.id for node in nodes}
    verdict = Verdict(
        discard=tuple(discard),
        lost=tuple(w for w in workers if w.id not in there and not _is_heard(w)),
        dead=tuple(
            edge for edge in edges if silence.of(edge.name, now, rules.looks) > rules.edge_s
        ),
        held=frozenset(
            key for key, last in crashes.items() if now - last.last_s < backoff_s(last, rules)
        ),
    )
    return verdict, Memory(now, crashes, unlinked, silence)


def _is_heard(worker: Worker) -> bool:
    """Whoever may have its node, it is at work."""
    return worker.state is WorkerState.READY and worker.linked


def _hangs(worker: Worker, unlinked: Mapping[str, float], rules: Rules, now: float) -> bool:
    if worker.state is WorkerState.LOADING:
        return now - worker.started_s >= rules.load_s
    return now - unlinked.get(worker.id, now) > rules.unlinked_s
