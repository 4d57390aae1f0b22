"""The policy, pure: which worker takes a session, and which nodes should run.

The edge calls `place`, the controller `decide`; a simulator can call the same two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from understudy.core.fleet import (
    Crashes,
    Discard,
    Memory,
    Plan,
    Request,
    Start,
    View,
    Worker,
    WorkerState,
)


@dataclass(frozen=True, slots=True)
class Rules:
    """How patient the controller is with a model whose workers die."""

    first_backoff_s: float = 0.2
    max_backoff_s: float = 30.0
    steady_s: float = 60.0  # a worker that lived this long clears its model's crashes


def place(workers: Iterable[Worker], request: Request) -> Worker | None:
    """Best fit: the fullest ready worker of the model that has a free slot.

    Filling one worker before the next keeps others empty, so that their nodes can be given back.
    """
    fits = [
        worker
        for worker in workers
        if worker.model == request.model
        and worker.state is WorkerState.READY
        and worker.taken < worker.slots
    ]
    return max(
        fits, key=lambda w: (w.region == request.region, w.taken - w.slots, w.id), default=None
    )


def backoff_s(crashes: Crashes, rules: Rules) -> float:
    """How long to wait after the last crash: at once the first time, then doubling."""
    if crashes.count <= 1:
        return 0.0
    return min(rules.max_backoff_s, rules.first_backoff_s * 2.0 ** min(crashes.count - 2, 16))


def decide(view: View, rules: Rules, now: float, memory: Memory) -> tuple[Plan, Memory]:
    """Keeps the wanted workers of each model up; discards what exited, hung or is not wanted."""
    crashes = dict(memory.crashes)
    discard: list[Discard] = []
    start: list[Start] = []
    running: dict[str, list[str]] = {}
    dialled = {worker.node for worker in view.workers}
    for node in view.nodes:
        # A node that runs without its worker has hung, or its link is cut: nobody can use it.
        lost = node.id in memory.served and node.id not in dialled
        if node.exited is None and not lost:
            running.setdefault(node.model, []).append(node.id)
            continue
        discard.append(Discard(node.id))
        before = crashes.get(node.model, Crashes())
        fresh = now - before.last_s > rules.steady_s
        crashes[node.model] = Crashes(1 if fresh else before.count + 1, now)
    taken = {worker.node: worker.taken for worker in view.workers}
    for model in sorted(running.keys() | view.wanted.keys()):
        nodes = running.get(model, [])
        missing = view.wanted.get(model, 0) - len(nodes)
        if missing > 0:
            last = crashes.get(model, Crashes())
            if now - last.last_s >= backoff_s(last, rules):
                start += [Start(model)] * missing
        elif missing < 0:  # never stop a busy worker
            idle = sorted(node for node in nodes if not taken.get(node))
            discard += [Discard(node) for node in idle[:-missing]]
    served = frozenset(node.id for node in view.nodes if node.id in dialled | memory.served)
    return Plan(tuple(start), tuple(discard)), Memory(crashes, served)
