"""Choice of edge and watch of the line, by the golden vectors that the browser's client reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.regions import (
    Edge,
    Failure,
    LineWatch,
    Route,
    candidates,
    nearest_first,
    parse_regions,
)

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "regions.json").read_text()
)


def vectors(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[kind], ids=lambda vector: vector["name"])


def edges_of(vector: dict[str, Any]) -> list[Edge]:
    return [
        Edge(one["name"], one["region"], f"http://{one['name']}", one["rtt_ms"])
        for one in vector["edges"]
    ]


@vectors("answers")
def test_answers(vector: dict[str, Any]) -> None:
    parsed = parse_regions(vector["body"], vector["home"])
    assert parsed == [Edge(**edge) for edge in vector["edges"]]


@vectors("orders")
def test_orders(vector: dict[str, Any]) -> None:
    assert [edge.name for edge in nearest_first(edges_of(vector))] == vector["order"]


@vectors("routes")
def test_routes(vector: dict[str, Any]) -> None:
    route = Route(edges_of(vector))
    for step in vector["steps"]:
        match step["event"]:
            case "lost":
                route.lost()
            case "joined":
                route.joined()
            case "refused" | "silent" as how:
                route.failed(how)
        assert {
            "event": step["event"],
            "edge": route.edge.name,
            "round": route.round,
            "starts_round": route.starts_round,
            "open_within_ms": route.open_within_ms,
        } == step


@vectors("lines")
def test_lines(vector: dict[str, Any]) -> None:
    line = LineWatch()
    for at_ms, event, *value in vector["steps"]:
        match event:
            case "open":
                line.opened(at_ms)
            case "live":
                line.performing(*value)
            case "sent":
                line.sent_audio(at_ms)
            case "heard":
                line.heard_audio(at_ms)
            case "text":
                line.heard_text(at_ms)
            case "round_trip":
                line.round_trip(*value)
            case "false_alarm":
                line.false_alarm(at_ms)
            case "look":
                assert (at_ms, line.look(at_ms)) == (at_ms, value[0] if value else "well")
            case other:
                pytest.fail(f"no such event: {other}")


def test_edges_to_measure_are_home_and_two_a_region() -> None:
    regions = ["sf", "sf", "sf", "tokyo", "tokyo", "tokyo"]
    edges = [Edge(f"{region}-{k}", region, f"http://{k}") for k, region in enumerate(regions)]
    assert [e.name for e in candidates(edges, lambda others: others)] == [
        *("sf-0", "sf-1", "tokyo-3", "tokyo-4")
    ]
    assert [e.name for e in candidates(edges, lambda others: others[::-1])] == [
        *("sf-0", "tokyo-5", "tokyo-4", "sf-2")
    ]


def test_newer_measurements_leave_the_edge_in_use_and_try_none_twice() -> None:
    a, b, c = (Edge(name, name, f"http://{name}") for name in "abc")
    route = Route([a, b, c])
    route.joined()
    route.remeasure([c, a, b])
    assert route.edge is a
    route.lost()
    route.failed("refused")
    assert route.edge is c
    route.remeasure([a, b, c])
    route.failed("refused")
    assert route.edge is b
    route.failed("refused")
    assert (route.edge, route.round) == (a, 1)


HOW: st.SearchStrategy[Failure] = st.sampled_from(["refused", "silent"])


@given(
    st.lists(st.sampled_from(["sf", "tokyo", "frankfurt", ""]), min_size=1, max_size=6),
    st.lists(HOW, max_size=6),
    st.lists(HOW, min_size=18, max_size=18),
)
def test_each_round_tries_each_edge_once(
    regions: list[str], before: list[Failure], hows: list[Failure]
) -> None:
    edges = [Edge(str(k), region, f"http://{k}") for k, region in enumerate(regions)]
    route = Route(edges)
    for how in before:
        route.failed(how)
    route.joined()
    at = route.edge
    route.lost()
    assert route.edge == at
    tried: dict[int, list[Edge]] = {}
    for how in hows:
        tried.setdefault(route.round, []).append(route.edge)
        route.failed(how)
    for number in range(route.round):
        assert sorted(tried[number], key=edges.index) == edges


@given(st.lists(st.booleans(), min_size=100, max_size=400))
def test_a_line_that_answers_is_never_given_up(answered: list[bool]) -> None:
    """However audio stalls, a pong within 450 ms of each ping keeps the line."""
    line = LineWatch()
    line.opened(0)
    line.performing(20)
    pong_ms: float | None = None
    for k, audio in enumerate(answered):
        now_ms = 50.0 * k
        line.sent_audio(now_ms)
        if audio and k % 7 == 0:
            line.heard_audio(now_ms)
        if pong_ms is not None and now_ms >= pong_ms:
            line.heard_text(now_ms)
            pong_ms = None
        verdict = line.look(now_ms)
        assert verdict != "dead"
        if verdict == "ping":
            pong_ms = now_ms + 450
