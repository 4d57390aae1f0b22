"""The benchmarks of a fleet that is broken, filled or far from its database, at their smallest:
that they measure, and what they compare. No timings: those are for a machine that does nothing
else."""

from typing import Any

import pytest

from understudy.bench import far, overload, region, soak, storm
from understudy.bench.accounts import Account, figures_of_ledger, growth, growth_of_lives
from understudy.bench.callers import CHUNK_S, again_s, gaps
from understudy.bench.machine import find_audio
from understudy.chaos.faults import DEEDS, PAST


def _named(table: str) -> set[str]:
    return {line.split("  ")[0] for line in table.splitlines()}


def _value(result: dict[str, Any], name: str) -> float:
    (found,) = [one["value"] for one in result["figures"] if one["name"] == name]
    return float(found)


def _ledger_is_right(result: dict[str, Any]) -> None:
    assert result["lost"] == []
    for one in result["accounts"]:
        assert one["heard_s"] > 0
        assert one["billed_s"] - one["heard_s"] < 1.0
        assert one["heard_s"] - one["billed_s"] < 1.0 + one["resumes"]
    assert _value(result, "users with two live sessions at once") == 0


def test_region_kills_one_and_hears_its_users_again() -> None:
    lines: list[str] = []
    result = region.run(find_audio(None), quick=True, progress=lines.append)
    effort = region.QUICK
    users = len(effort.regions) * effort.users
    assert 1 <= _value(result, "sessions whose region died") <= users
    assert _value(result, "... that sounded again") == 100
    assert result["to_sound_ms"]["p50"] >= 0  # 0: sooner than a player would have noticed
    assert len(result["accounts"]) == users
    assert sum(one["resumes"] for one in result["accounts"]) >= 1
    _ledger_is_right(result)
    assert lines
    assert {f["name"] for f in result["figures"]} <= _named(region.table(result))


def test_storm_does_what_it_tells_and_loses_nobody() -> None:
    lines: list[str] = []
    result = storm.run(find_audio(None), quick=True, progress=lines.append)
    assert len(result["hits"]) >= 3
    assert {hit["deed"] for hit in result["hits"]} <= set(DEEDS)
    assert len({hit["deed"] for hit in result["hits"]}) >= 2
    assert len(lines) == 1 + len(result["hits"])
    for hit, line in zip(result["hits"], lines[1:], strict=True):
        assert PAST[hit["deed"]] in line
        assert hit["target"] in line
    assert result["rss_mb"]
    assert len(result["accounts"]) == storm.QUICK.users
    _ledger_is_right(result)
    assert {f["name"] for f in result["figures"]} <= _named(storm.table(result))


def test_soak_finds_a_number_and_holds_it() -> None:
    result = soak.run(None, quick=True)
    assert 1 <= result["streams"] <= soak.QUICK.most
    assert len(result["samples"]) >= 3
    for sample in result["samples"]:
        assert sample["streams"] == result["streams"]
        assert sample["overrun"] is None
        assert 0 < sample["p50_ms"] <= sample["p99_ms"]
        assert min(sample["server_mb"], sample["workers_mb"], sample["descriptors"]) > 0
    assert {f["name"] for f in result["figures"]} <= _named(soak.table(result))


def test_overload_tells_who_waits_how_long() -> None:
    result = overload.run(find_audio(None), quick=True)
    capacity = overload.QUICK.nodes * 4
    assert result["lost"] == []
    assert result["setup"]["users"] == 3 * capacity
    waited = _value(result, "... late, and waited in the queue")
    assert waited + _value(result, "... late, and found a slot") == 2 * capacity
    assert len(result["waited"]) == waited >= 1
    assert all(one["positions"] for one in result["waited"])
    assert any(one["told"] for one in result["waited"])
    assert all(eta_s >= 0 and was_s > 0 for one in result["waited"] for eta_s, was_s in one["told"])
    assert {f["name"] for f in result["figures"]} <= _named(overload.table(result))


def test_far_counts_round_trips_and_statements() -> None:
    result = far.run(find_audio(None), quick=True)
    assert result["lost"] == []
    assert len(result["round_trips"]) == len(result["statements"]) == far.QUICK.connects
    # Who performs is known when the store has answered: that far away it takes one round trip.
    assert min(result["round_trips"]) > 0.5
    assert min(result["statements"]) >= 1
    assert {f["name"] for f in result["figures"]} <= _named(far.table(result))


def test_statements_are_those_of_the_connection_that_begins_a_session() -> None:
    log = "\n".join(
        [
            "7 LOG:  execute a: INSERT INTO sessions",
            "\t(id) VALUES ($1)",
            "7 DETAIL:  parameters: $1 = 'one'",
            "8 LOG:  statement: SELECT 'of somebody else'",
            "7 LOG:  statement: BEGIN",
            "7 LOG:  execute b: SELECT 1",
            "7 LOG:  execute c: INSERT INTO seats",
            "7 DETAIL:  Parameters: $1 = 'one'",
            "7 LOG:  statement: COMMIT",
            "7 LOG:  execute d: DELETE FROM seats WHERE session = $1",
            "7 DETAIL:  parameters: $1 = 'one'",
        ]
    )
    assert far._statements(log, "one") == 4
    assert far._statements(log, "two") == 0


def test_gaps_are_what_a_listener_hears() -> None:
    sounds = [k * CHUNK_S for k in range(1, 50)]
    end_s = 50 * CHUNK_S
    assert gaps(sounds, 0.0, end_s) == []
    without = [at_s for at_s in sounds if not 0.301 < at_s < 0.501]
    ((start_s, length_s),) = gaps(without, 0.0, end_s)
    assert start_s == pytest.approx(0.30)
    assert length_s == pytest.approx(0.20)
    assert again_s(without, 0.28, end_s) == pytest.approx(0.24)
    assert again_s(without, 0.6, end_s) == 0
    # What begins long after a fault is not because of it.
    assert again_s(without, 0.0, end_s, within_s=0.1) == 0
    # Who never sounds again has a gap up to the end.
    assert again_s(sounds[:10], 0.1, end_s) == pytest.approx(end_s + CHUNK_S - 0.1 - CHUNK_S)


def test_what_grows_is_told_from_what_differs() -> None:
    flat = [(k * 5.0, 50.0 + k % 2) for k in range(40)]
    assert abs(growth(flat)) < 0.1
    rising = [(k * 5.0, 50.0 + k * 5.0 / 60.0) for k in range(40)]
    assert growth(rising) == pytest.approx(1.0)
    other = [(1000.0 + at_s, value + 90.0) for at_s, value in flat]
    assert abs(growth_of_lives([flat, other], 0.0)) < 0.1  # two processes, one larger
    assert growth_of_lives([rising, rising], 30.0) == pytest.approx(1.0)
    assert growth_of_lives([rising[:2]], 0.0) == 0.0


def test_a_ledger_is_wrong_by_its_worst_session() -> None:
    found = [Account("a", 10.0, 9.5, 0), Account("b", 10.0, 8.4, 1), Account("c", 5.0, 6.5, 0)]
    met = {one["name"]: (one["value"], one["met"]) for one in figures_of_ledger(found, 0)}
    assert met["billed and not heard, a session, max"] == (1500.0, False)
    assert met["heard and not billed, a session and line, max"] == (800.0, True)
