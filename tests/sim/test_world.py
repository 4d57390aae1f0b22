"""The simulator: its figures recomputed by a stranger from the events alone, and its bound."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.errors import ConfigError
from understudy.core.fleet import Request
from understudy.core.policy_view import Memory, Plan, Rules, Start, Stop, View
from understudy.sim import frontier, report, traffic
from understudy.sim.baselines import POLICIES, Understudy
from understudy.sim.command import simulate as command
from understudy.sim.record import Record, Setup
from understudy.sim.traffic import Made, Visit
from understudy.sim.world import Broken, simulate

BUSY = Made(at_once=30.0, hours=2.0, seed=7, bursts_per_day=60, mobs_per_day=24)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("trace") / "busy.csv.gz"
    text = io.StringIO()
    traffic.write(traffic.make(BUSY), text)
    rows = text.getvalue().splitlines()
    # One user comes twice at once, and one while the other's session lasts.
    rows += ["100.00,twice,miku,sf,500.00", "300.00,twice,teto,tokyo,100.00"]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    return path


# --- A stranger ---


def recomputed(trace: Path, events: Path, boot_s: float = 10.0, slots: int = 4) -> dict[str, Any]:
    """Every figure from the trace and the two files, sharing no code with the simulator."""
    with gzip.open(trace, "rt") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["t_s"]))
    sessions: list[dict[str, Any]] = []
    for row in rows:
        start = float(row["t_s"])
        for one in sessions:
            if one["user"] == row["user"] and one["end"] > start:
                one["end"] = start
        end = start + float(row["duration_s"])
        pool = (row["voice"], row["region"])
        sessions.append({"user": row["user"], "start": start, "end": end, "pool": pool})
    with (events / "workers.csv").open() as file:
        workers = {row["worker"]: row for row in csv.DictReader(file)}
    with (events / "placements.csv").open() as file:
        placements = list(csv.DictReader(file))
    by_user: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in sessions:
        one["stays"] = []
        by_user[one["user"]].append(one)
    on_worker: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in placements:
        begin, end = float(row["from_s"]), float(row["to_s"])
        (owner,) = [
            one
            for one in by_user[row["user"]]
            if one["start"] - 1e-5 <= begin and end <= one["end"] + 1e-5
        ]
        owner["stays"].append((begin, end, row["role"], row["worker"]))
        if row["role"] == "lead":
            worker = workers[row["worker"]]
            assert worker["voice"] == owner["pool"][0]  # one voice a worker
            assert float(worker["ready_s"]) <= begin  # nobody on a worker that is not ready
            assert end <= float(worker["stop_s"])
            on_worker[row["worker"]] += [(begin, 1), (end, -1)]
        else:
            assert row["role"] == "understudy"
    for changes in on_worker.values():  # no slot is booked twice
        levels = itertools.accumulate(change for _, change in sorted(changes))
        assert max(levels) <= slots
    for worker in workers.values():
        if worker["ready_s"]:
            assert float(worker["ready_s"]) - float(worker["start_s"]) == pytest.approx(boot_s)
    silent = understudy = live = far = 0.0
    waits = []
    moves = 0
    for one in sessions:
        live += one["end"] - one["start"]
        stays = sorted(one["stays"])
        for (_, before, *_), (after, *_) in itertools.pairwise(stays):
            assert before <= after + 1e-9  # never on two workers at once
        silent += one["end"] - one["start"] - sum(end - begin for begin, end, *_ in stays)
        understudy += sum(end - begin for begin, end, role, _ in stays if role == "understudy")
        leads = [stay for stay in stays if stay[2] == "lead"]
        far += sum(e - b for b, e, _, w in leads if workers[w]["region"] != one["pool"][1])
        waits.append((leads[0][0] if leads else one["end"]) - one["start"])
        if leads:
            moves += len(leads) - 1 + (leads[0][0] > one["start"] + 1e-6)
    waits.sort()
    gpu = sum(float(w["stop_s"]) - float(w["start_s"]) for w in workers.values())
    bound = sum(
        brute_bound([(s["start"], s["end"]) for s in sessions if s["pool"] == pool], boot_s, slots)
        for pool in {s["pool"] for s in sessions}
    )
    return {
        "sessions": len(sessions),
        "gpu_s": gpu,
        "bound_gpu_s": bound,
        "ratio": gpu / bound,
        "silent_s": silent,
        "understudy_share": understudy / live,
        "far_share": far / live,
        "wait_s": {
            "p50": waits[int(0.50 * len(waits))],
            "p95": waits[int(0.95 * len(waits))],
            "p99": waits[int(0.99 * len(waits))],
            "max": waits[-1],
        },
        "moves_per_session_hour": moves / live * 3600,
        "boots": len(workers),
    }


def brute_bound(spans: list[tuple[float, float]], boot_s: float, slots: int) -> float:
    """Level by level: when it is on; and between two times, a boot or the gap."""
    times = sorted({t for span in spans if span[1] > span[0] for t in span})
    counts = dict.fromkeys(times, 0)
    changes: dict[float, int] = defaultdict(int)
    for begin, end in spans:
        changes[begin] += 1
        changes[end] -= 1
    live = 0
    for t in times:
        live += changes[t]
        counts[t] = live
    total = 0.0
    for level in range(1, len(spans) // slots + 2):
        needed = slots * (level - 1) + 1
        last_on: float | None = None
        for t, after in itertools.pairwise(times):
            if counts[t] < needed:
                continue
            total += after - t
            total += boot_s if last_on is None else min(boot_s, t - last_on)
            last_on = after
    return total


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_stranger_recomputes_every_figure_from_the_events(
    trace: Path, tmp_path: Path, policy: str
) -> None:
    arguments = [str(trace), "--json", "--events", str(tmp_path), "--policy", policy]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.output)
    for name, value in recomputed(trace, tmp_path).items():
        assert printed[name] == pytest.approx(value, rel=1e-4, abs=2e-3), name
    if policy == "understudy":
        assert printed["silent_s"] == 0.0
        assert printed["moves_per_session_hour"] <= 4.0


# --- The bound ---


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=14),
    st.integers(1, 4),
    st.integers(1, 30),
)
def test_the_bound_is_what_brute_force_finds(
    spans: list[tuple[int, int]], slots: int, boot_s: int
) -> None:
    visits = [
        Visit(float(start), f"u{k}", "v", "r", float(start + length))
        for k, (start, length) in enumerate(spans)
    ]
    found = report.bound_of(visits, float(boot_s), slots)
    expected = brute_bound([(v.start_s, v.end_s) for v in visits], float(boot_s), slots)
    assert found == pytest.approx(expected)


def test_the_bound_keeps_a_level_on_through_a_gap_shorter_than_a_boot() -> None:
    def bound(gap_s: float) -> float:
        first = Visit(0.0, "a", "v", "r", 100.0)
        second = Visit(100.0 + gap_s, "b", "v", "r", 200.0 + gap_s)
        return report.bound_of([first, second], 10.0, 4)

    assert bound(4.0) == 10 + 100 + 4 + 100
    assert bound(50.0) == 10 + 100 + 10 + 100


# --- The world ---


def test_the_first_user_is_covered_until_the_worker_has_booted() -> None:
    record = simulate([Visit(5.0, "u", "miku", "sf", 105.0)], Understudy())
    assert [(s.role, s.start_s, s.end_s) for s in record.stays] == [
        ("understudy", 5.0, 15.0),
        ("lead", 15.0, 105.0),
    ]
    assert [(w.start_s, w.ready_s, w.stop_s) for w in record.rentals] == [(5.0, 15.0, 105.0)]


def test_a_user_starts_on_a_far_worker_and_moves_home() -> None:
    visits = [Visit(0.0, "a", "miku", "sf", 500.0), Visit(100.0, "b", "miku", "tokyo", 400.0)]
    record = simulate(visits, Understudy())
    mine = [(s.worker, s.role, s.start_s, s.end_s) for s in record.stays if s.visit == 1]
    assert mine == [("w0", "lead", 100.0, 110.0), ("w1", "lead", 110.0, 400.0)]
    near = simulate(visits, Understudy(Rules(far_rtt_s=0.0)))
    assert [s.role for s in near.stays if s.visit == 1] == ["understudy", "lead"]


def test_a_full_understudy_leaves_silence_and_says_so() -> None:
    visits = [Visit(0.0, f"u{k}", "miku", "sf", 60.0) for k in range(3)]
    setup = Setup(understudy_slots=2)
    figures = report.figures(simulate(visits, Understudy(), setup), setup)
    assert figures["silent_s"] == 10.0


@pytest.mark.parametrize("limit", [{"max_nodes": 5}, {"budget_per_h": 2.1}])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_limits_hold_and_users_are_served_in_order(policy: str, limit: dict[str, Any]) -> None:
    visits = traffic.make(Made(at_once=30.0, hours=1.0, seed=3))
    setup = Setup(**limit)
    record = simulate(visits, POLICIES[policy](Rules(far_rtt_s=0.0, **limit)), setup)
    changes = sorted(
        [(w.start_s, 1) for w in record.rentals] + [(w.stop_s or 0.0, -1) for w in record.rentals]
    )
    assert max(itertools.accumulate(change for _, change in changes)) <= 5
    for voice, region in {(v.voice, v.region) for v in visits}:
        first: dict[int, float] = {}
        for stay in record.stays:
            visit = visits[stay.visit]
            if stay.role == "lead" and (visit.voice, visit.region) == (voice, region):
                first[stay.visit] = min(stay.start_s, first.get(stay.visit, stay.start_s))
        in_order = [first[index] for index in sorted(first)]
        assert in_order == sorted(in_order)


def test_a_full_pool_does_not_starve_another_one() -> None:
    crowd = [Visit(float(k), f"u{k}", "miku", "sf", k + 300.0) for k in range(0, 3600, 30)]
    lone = Visit(100.5, "lone", "teto", "sf", 3600.0)
    visits = traffic.take_over([*crowd, lone])
    setup = Setup(max_nodes=1)
    record = simulate(visits, Understudy(Rules(max_nodes=1)), setup)
    index = visits.index(lone)
    lead = min(s.start_s for s in record.stays if s.visit == index and s.role == "lead")
    assert lead < 100 + 60 + 300 + 10 + 60


def test_the_same_trace_gives_the_same_events() -> None:
    visits = traffic.make(Made(at_once=20.0, hours=1.0, seed=5))

    def events() -> tuple[object, ...]:
        record: Record = simulate(visits, Understudy())
        return [repr(rental) for rental in record.rentals], record.stays

    assert events() == events()


class StopsEverything(Understudy):
    """A policy that breaks the rules."""

    def decide(self, view: View, now: float, memory: Memory) -> tuple[Plan, Memory]:
        for pool in view.pools:
            for one in pool.workers:
                if one.sessions:
                    return Plan(stops=(Stop(one.id),)), memory
            if pool.waiting and not pool.workers:
                return Plan(starts=(Start(pool.model, pool.region, pool.revision),)), memory
        return super().decide(view, now, memory)

    def place(self, view: View, request: Request, memory: Memory) -> str | None:
        return None


def test_the_world_refuses_to_stop_a_busy_worker() -> None:
    with pytest.raises(Broken, match="busy"):
        simulate([Visit(0.0, "u", "miku", "sf", 60.0)], StopsEverything())


# --- Traces and output ---


def test_a_second_connect_takes_over() -> None:
    first, second = traffic.take_over(
        [Visit(50.0, "u", "teto", "sf", 90.0), Visit(0.0, "u", "miku", "sf", 100.0)]
    )
    assert (first.start_s, first.end_s) == (0.0, 50.0)
    assert (second.start_s, second.end_s) == (50.0, 90.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t_s,user\n1,2\n", "has no column voice, region, duration_s"),
        ("t_s,user,voice,region,duration_s\nsoon,u,v,r,5\n", "line 2"),
        ("t_s,user,voice,region,duration_s\n1,u,v,r,-5\n", "negative"),
        ("t_s,user,voice,region,duration_s\n1,u,,r,5\n", "empty"),
    ],
)
def test_a_bad_trace_is_refused_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        traffic.read(path)


def test_an_empty_trace_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("t_s,user,voice,region,duration_s\n")
    done = CliRunner().invoke(command, [str(path), "--json"])
    assert json.loads(done.output)["gpu_s"] == 0


def test_a_made_trace_has_the_load_it_was_asked_for() -> None:
    visits = traffic.make(Made(at_once=50.0, hours=24.0, seed=2, mobs_per_day=0, noise=0.1))
    live_s = sum(v.end_s - v.start_s for v in visits)
    assert live_s / 86400 == pytest.approx(50.0, rel=0.15)


def test_the_frontier_falls_and_is_drawn(tmp_path: Path) -> None:
    visits = traffic.make(Made(at_once=15.0, hours=2.0, seed=4))
    rows = frontier.frontier(visits, Rules(), Setup(), patiences=(1.0, 8.0, 60.0))
    ours = [row for row in rows if row["policy"] == "understudy"]
    assert [row["ratio"] for row in ours] == sorted(row["ratio"] for row in ours)
    shares = [row["understudy_share"] for row in ours]
    assert shares == sorted(shares, reverse=True)
    assert len(frontier.table(rows).splitlines()) == 7
    drawn = frontier.svg(rows, "a & b")
    assert drawn.startswith("<svg")
    assert "a &amp; b" in drawn
