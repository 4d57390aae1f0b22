"""Which edge a client talks to: nearest first, who is next when one is lost, when a line is dead.

Pure; times are in ms, as in the golden vectors that the browser's client decides by too
(tests/vectors/regions.json).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Failure = Literal["refused", "silent"]  # turned away at once, or nothing came in time
Verdict = Literal["well", "ping", "dead"]

NEAR_MS: Final = 5.0  # home goes first unless another is nearer by more: measuring is no finer
SAME_EDGE_MS: Final = 300.0  # the edge just lost is there at once, or another one is
OTHER_EDGE_MS: Final = 1000.0  # many clients may come to the others at the same moment
ONLY_EDGE_MS: Final = 10_000.0
LONGEST_MS: Final = 5000.0
ROUND_TRIPS_TO_OPEN: Final = 4  # TCP, TLS and the upgrade
MAX_PER_REGION: Final = 2


@dataclass(frozen=True, slots=True)
class Edge:
    """`region` is empty where the server did not say; `rtt_ms` is None where none was measured."""

    name: str
    region: str
    url: str
    rtt_ms: float | None = None


def parse_regions(body: object, home: str) -> list[Edge]:
    """The edges in `GET /v1/regions`, the one that was asked first; only that for an old server."""
    url = home.rstrip("/")
    answer: Mapping[str, Any] = body if isinstance(body, dict) else {}
    region = answer.get("region")
    edges = answer.get("edges")
    listed = [
        Edge(_text(one.get("name")), _text(one.get("region")), _text(one.get("url")).rstrip("/"))
        for one in (edges if isinstance(edges, list) else [])
        if isinstance(one, dict) and _text(one.get("url"))
    ]
    own = next((edge for edge in listed if edge.url == url), Edge("", _text(region), url))
    return unique([own, *listed])


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def unique(edges: Sequence[Edge]) -> list[Edge]:
    """The first edge of each address."""
    first: dict[str, Edge] = {}
    for edge in edges:
        first.setdefault(edge.url, edge)
    return list(first.values())


def candidates(edges: Sequence[Edge], shuffled: Callable[[list[Edge]], list[Edge]]) -> list[Edge]:
    """Home, and two edges a region: those of one region are equals, and load is spread."""
    taken: dict[str, int] = {}
    picked = []
    for edge in [*edges[:1], *shuffled(list(edges[1:]))]:
        if edge.region and taken.get(edge.region, 0) >= MAX_PER_REGION:
            continue
        taken[edge.region] = taken.get(edge.region, 0) + 1
        picked.append(edge)
    return picked


def nearest_first(edges: Sequence[Edge]) -> list[Edge]:
    """Those that did not answer come last; the first one given is home."""
    order = sorted(edges, key=lambda edge: math.inf if edge.rtt_ms is None else edge.rtt_ms)
    home, best = edges[0], order[0]
    if home.rtt_ms is None or best.rtt_ms is None or home.rtt_ms - best.rtt_ms > NEAR_MS:
        return order
    return [home, *(edge for edge in order if edge is not home)]


class Route:
    """Round the list of edges: the one that was lost, the nearest that are left, then again."""

    def __init__(self, order: Sequence[Edge]) -> None:
        """`order`: nearest first, at least one."""
        self._order = list(order)
        self._left = list(order)
        self._lost: Edge | None = None
        self.round = 0  # full rounds that have failed since the line was lost

    @property
    def edge(self) -> Edge:
        return self._left[0]

    @property
    def several(self) -> bool:
        return len(self._order) > 1

    @property
    def starts_round(self) -> bool:
        """Whether the next try begins a round after a full one has failed."""
        return self.round > 0 and len(self._left) == len(self._order)

    @property
    def returns(self) -> bool:
        """Whether the next try is the first at the edge that was just lost."""
        return self._lost is not None and self.round == 0 and self.edge.url == self._lost.url

    def remeasure(self, order: Sequence[Edge]) -> None:
        """Better measured, or more of them; the edge in use stays in use."""
        self._order = list(order)
        waiting = {edge.url for edge in self._left[1:]}
        now = next((edge for edge in order if edge.url == self.edge.url), self.edge)
        settled = self._lost is None
        others = [e for e in order if e.url != now.url and (settled or e.url in waiting)]
        self._left = [now, *others]

    def lost(self) -> None:
        """A line that had carried the session is gone: the same edge first, then the others."""
        self._lost = self.edge
        self.round = 0
        self._left = self._from(self.edge)

    def failed(self, how: Failure) -> None:
        """A try has failed. A region that does not answer has its other edges tried last."""
        gone, *rest = self._left
        late = [e for e in rest if how == "silent" and e.region and e.region == gone.region]
        self._left = [*(edge for edge in rest if edge not in late), *late]
        if not self._left:
            self._left = list(self._order)
            self.round += 1

    def joined(self) -> None:
        """The session is carried again."""
        self._lost = None
        self.round = 0
        self._left = self._from(self.edge)

    def _from(self, edge: Edge) -> list[Edge]:
        return [edge, *(other for other in self._order if other.url != edge.url)]

    @property
    def open_within_ms(self) -> float:
        """For how long to wait for the next try to open."""
        if not self.several:
            return ONLY_EDGE_MS
        least = SAME_EDGE_MS if self.returns else OTHER_EDGE_MS
        fair = max(least, ROUND_TRIPS_TO_OPEN * (self.edge.rtt_ms or 0.0))
        return float(min(LONGEST_MS, fair * 2.0**self.round))


SILENT_MS: Final = 700.0  # audio is owed and none comes for this long: ask
ANSWER_MS: Final = 500.0  # a ping is answered at once: this long without anything is a dead line
ROUND_TRIPS_TO_ANSWER: Final = 3
QUIET_MS: Final = 4500.0  # where no audio is owed, reports come every second
LATE_MS: Final = 300.0  # looks come every 50 ms: one so late says that we were away ourselves
LATE_LOOKS: Final = 3  # so many late looks in a row, all without news, count after all
MOST_PATIENCE: Final = 4
PATIENT_FOR_MS: Final = 60_000.0


class LineWatch:
    """Whether the line is dead: silence where audio is owed, then a ping that nobody answers.

    Never on account of ourselves: after a late look, what came meanwhile is read first.
    """

    def __init__(self) -> None:
        self._heard_ms = 0.0
        self._owed_since_ms: float | None = None
        self._live = False
        self._first_after_ms = 0.0  # a fresh line begins with the voice's latency
        self._suspected_ms: float | None = None
        self._looked_ms: float | None = None
        self._late_looks = 0
        self._round_trip_ms = 0.0
        self._patience = 1
        self._alarm_ms = -math.inf

    def opened(self, now_ms: float) -> None:
        """A new line: its first messages go out now."""
        self._heard_ms = self._looked_ms = now_ms
        self._owed_since_ms = self._suspected_ms = None
        self._live = False
        self._first_after_ms = 0.0
        self._late_looks = 0
        if now_ms - self._alarm_ms > PATIENT_FOR_MS:
            self._patience = 1

    def performing(self, latency_ms: float) -> None:
        if not self._live:
            self._first_after_ms = latency_ms
        self._live = True

    def waiting(self) -> None:
        """Nobody performs: how much audio comes is not for sure."""
        self._live = False
        self._owed_since_ms = None

    def sent_audio(self, now_ms: float) -> None:
        if self._owed_since_ms is None:
            self._owed_since_ms = now_ms

    def heard_audio(self, now_ms: float) -> None:
        self._heard_ms = now_ms
        self._owed_since_ms = self._suspected_ms = None
        self._first_after_ms = 0.0
        self._late_looks = 0

    def heard_text(self, now_ms: float) -> None:
        self._heard_ms = now_ms
        self._late_looks = 0
        if self._suspected_ms is not None:
            self._owed_since_ms = None
        self._suspected_ms = None

    def round_trip(self, ms: float) -> None:
        self._round_trip_ms = ms

    def false_alarm(self, now_ms: float) -> None:
        """The edge was there all along, and only slow: be slower to judge for a while."""
        self._patience = min(MOST_PATIENCE, self._patience * 2)
        self._alarm_ms = now_ms

    def look(self, now_ms: float) -> Verdict:
        """Call every 50 ms; a "ping" is to be sent at once."""
        late = self._looked_ms is not None and now_ms - self._looked_ms > LATE_MS
        self._looked_ms = now_ms
        quiet = now_ms - self._heard_ms >= QUIET_MS
        if late:
            self._late_looks += 1
            if self._late_looks > LATE_LOOKS and quiet:
                return "dead"
            self._owed_since_ms = None
            self._suspected_ms = now_ms
            return "ping"
        if self._suspected_ms is not None:
            answer_ms = max(ANSWER_MS, ROUND_TRIPS_TO_ANSWER * self._round_trip_ms)
            waited_ms = now_ms - self._suspected_ms
            return "dead" if waited_ms >= answer_ms * self._patience else "well"
        silent_ms = SILENT_MS * self._patience + self._first_after_ms
        owed_ms = None if self._owed_since_ms is None else now_ms - self._owed_since_ms
        if not quiet and not (self._live and owed_ms is not None and owed_ms >= silent_ms):
            return "well"
        self._suspected_ms = now_ms
        return "ping"
