"""`GET /metrics`: the state of things in Prometheus's text format, read when it is asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from understudy.core.fleet import WorkerState
from understudy.core.ledger import Role
from understudy.edge.edge import Edge
from understudy.edge.overview import Overview


class FleetCollector(Collector):
    """No user's name and no session's id is a label: those belong into the log."""

    def __init__(self, edge: Edge, overview: Overview, refused: Mapping[str, int]) -> None:
        self._edge = edge
        self._overview = overview
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        yield from self._sessions()
        yield from self._workers()
        edge, bill = self._edge, self._overview.bill
        heard = CounterMetricFamily(
            "understudy_heard_seconds", "Audio heard at this edge.", labels=["role"]
        )
        for role in Role:
            heard.add_metric([role], edge.heard_s(role))
        yield heard
        yield CounterMetricFamily(
            "understudy_silent_seconds", "Silence sent in place of audio.", value=edge.silent_s()
        )
        moves = CounterMetricFamily(
            "understudy_moves", "Times that a worker took a session up.", labels=["why"]
        )
        for why, count in edge.move_counts.items():
            moves.add_metric([why], count)
        yield moves
        refused = CounterMetricFamily(
            "understudy_refused", "Turned away at the door.", labels=["why"]
        )
        for why, count in self._refused.items():
            refused.add_metric([why], count)
        yield refused
        yield GaugeMetricFamily(
            "understudy_ledger_behind", "Intervals not yet written.", value=edge.unwritten
        )
        today = GaugeMetricFamily(
            "understudy_cost_today", "Since midnight UTC, in the prices' currency.", labels=["of"]
        )
        for name, cost in (
            ("rented", bill.rented),
            ("bound", bill.bound),
            ("always_on", bill.always_on),
        ):
            today.add_metric([name], cost)
        yield today

    def _sessions(self) -> Iterator[Metric]:
        counts: Counter[tuple[str, str, str]] = Counter()
        for session in self._edge.sessions.values():
            role = str(session.performer.role) if session.performer else "none"
            counts[session.voice.name, session.state, role] += 1
        sessions = GaugeMetricFamily(
            "understudy_sessions",
            "Sessions of this edge, by who performs.",
            labels=["voice", "state", "role"],
        )
        for labels, count in counts.items():
            sessions.add_metric(list(labels), count)
        yield sessions

    def _workers(self) -> Iterator[Metric]:
        workers: Counter[tuple[str, str, str]] = Counter()
        slots: Counter[tuple[str, str]] = Counter()
        taken: Counter[tuple[str, str]] = Counter()
        price: defaultdict[tuple[str, str], float] = defaultdict(float)
        for worker in self._edge.seating.fleet.workers:
            workers[worker.model, worker.region, worker.state] += 1
            price[worker.model, worker.region] += worker.price_per_h
            if worker.state is WorkerState.READY:
                slots[worker.model, worker.region] += worker.slots
                taken[worker.model, worker.region] += worker.taken
        family = GaugeMetricFamily(
            "understudy_workers", "Workers that are up.", labels=["model", "region", "state"]
        )
        for labels, count in workers.items():
            family.add_metric(list(labels), count)
        yield family
        for name, words, counter in (
            ("slots", "Slots of ready workers.", slots),
            ("slots_taken", "... and of those, how many have a session.", taken),
            ("cost_per_hour", "Of the workers that are up.", price),
        ):
            family = GaugeMetricFamily(f"understudy_{name}", words, labels=["model", "region"])
            for key, value in counter.items():
                family.add_metric(list(key), value)
            yield family
        boots = GaugeMetricFamily(
            "understudy_boot_seconds", "From start to ready, of the last loads.", labels=["model"]
        )
        for model, boot_s in self._edge.seating.fleet.boot_s.items():
            boots.add_metric([model], boot_s)
        yield boots
        busy = CounterMetricFamily(
            "understudy_worker_busy_seconds", "Spent in the model's steps.", labels=["model"]
        )
        for model, seconds in self._edge.roster.busy_s().items():
            busy.add_metric([model], seconds)
        yield busy


def exposition(edge: Edge, overview: Overview, refused: Mapping[str, int]) -> bytes:
    """`refused`: how often the door turned somebody away, by why."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(edge, overview, refused))
    return generate_latest(registry)
