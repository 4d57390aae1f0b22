"""Which nodes are no good any more, and which models had better not be started now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from understudy.core.fleet import Node, Worker, WorkerState


@dataclass(frozen=True, slots=True)
class Rules:
    """How patient the controller is with a model whose workers die."""

    first_backoff_s: float = 0.2
    max_backoff_s: float = 30.0
    load_s: float = 900.0  # a worker that has not loaded by then hangs
    steady_s: float = 60.0  # who lived this long did not crash by its model's fault, and clears it


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often a model's nodes died in a row, and when the last one did (s)."""

    count: int = 0
    last_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    discard: tuple[Node, ...]  # to be returned: they exited, or nobody can use them
    lost: tuple[Worker, ...]  # whose node is no more
    held: frozenset[str]  # models that crashed lately: not to be started again yet


Memory = Mapping[str, Crashes]  # by model: what must be remembered between two looks


def backoff_s(crashes: Crashes, rules: Rules) -> float:
    """How long to wait after the last crash: at once the first time, then doubling."""
    if crashes.count <= 1:
        return 0.0
    return min(rules.max_backoff_s, rules.first_backoff_s * 2.0 ** min(crashes.count - 2, 16))


def crashed(model: str, rules: Rules, now: float, memory: Memory) -> Memory:
    before = memory.get(model, Crashes())
    fresh = now - before.last_s > rules.steady_s
    return {**memory, model: Crashes(1 if fresh else before.count + 1, now)}


def supervise(
    nodes: Iterable[Node], workers: Sequence[Worker], rules: Rules, now: float, memory: Memory
) -> tuple[Verdict, Memory]:
    """`workers`: those that are not gone.

    A worker is recorded before its node is asked for, and is gone once its link is lost. So a node
    without a worker hangs, or its link is cut, or its owner forgot it: nobody can use it.
    """
    hung_since = now - rules.load_s
    owned = {
        worker.id
        for worker in workers
        if worker.state is not WorkerState.LOADING or worker.started_s > hung_since
    }
    nodes = tuple(nodes)
    crashes = memory
    discard = []
    for node in nodes:
        if node.exited is None and node.id in owned:
            continue
        discard.append(node)
        # One that served for a while says nothing of the next one's chances: machines are lost.
        if node.started_s is None or now - node.started_s < rules.steady_s:
            crashes = crashed(node.model, rules, now, crashes)
    there = {node.id for node in nodes}
    lost = tuple(worker for worker in workers if worker.id not in there)
    held = frozenset(
        model for model, last in crashes.items() if now - last.last_s < backoff_s(last, rules)
    )
    return Verdict(tuple(discard), lost, held), crashes
