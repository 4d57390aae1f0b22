"""What an operator sees: the fleet as JSON and as metrics, the voices, the log."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fleet.test_moves import CONFIG, Speaker, fleet, run, seen
from tests.server import Server
from understudy import Client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = CONFIG.format(load_s=1.0, max_nodes=4)
    server = Server(tmp_path_factory.mktemp("watch"), config=config, UNDERSTUDY_LOG="json")
    yield server
    server.stop()


def get(server: Server, path: str) -> str:
    answer: bytes = urllib.request.urlopen(server.url + path).read()
    return answer.decode()


def metrics(server: Server) -> dict[tuple[str, str], float]:
    """(name, the values of its labels in the order of their names) -> value."""
    found = {}
    for family in text_string_to_metric_families(get(server, "/metrics")):
        for sample in family.samples:
            found[sample.name, " ".join(v for _, v in sorted(sample.labels.items()))] = sample.value
    return found


async def test_the_fleet_is_seen_while_it_works_and_the_bill_afterwards(server: Server) -> None:
    async with Client(server.url).stream("star", "alice") as stream:
        speaker = Speaker(stream)
        await speaker.until_live("understudy")
        state = await seen(
            server,
            lambda s: (
                any(w["stage"] == "loading" for w in s["workers"])
                and any(row["why"] == "the lead is loading" for row in s["sessions"])
            ),
        )
        (row,) = state["sessions"]
        assert (row["user"], row["voice"], row["role"]) == ("alice", "star", "understudy")
        assert row["why"] == "the lead is loading"
        assert state["waiting"] == 1
        await speaker.until_live("lead")
        await speaker.until_heard(1.2)
        state = fleet(server)
        (row,) = state["sessions"]
        (gpu,) = (w for w in state["workers"] if not w["always_on"])
        assert (row["role"], row["worker"], row["why"]) == ("lead", gpu["id"], "")
        assert gpu["seats"] == [{"slot": 0, "session": row["session"], "role": "lead"}]
        assert [move["target"] for move in state["moves"]][-1] == gpu["id"]
        assert state["bill"]["per_h"] == 1.0
        assert state["limits"]["max_nodes"] == 4
        seen_now = metrics(server)
        assert seen_now["understudy_sessions", "lead live star"] == 1
        assert seen_now["understudy_slots_taken", "heavy local"] == 1
        assert seen_now["understudy_heard_seconds_total", "lead"] > 1
        assert seen_now["understudy_worker_busy_seconds_total", "heavy"] > 0
        await speaker.stop()
    # A worker that is being given back is paid for until it is gone.
    state = await seen(server, lambda s: not s["sessions"] and s["bill"]["per_h"] == 0)
    assert len(state["workers"]) == 1
    assert metrics(server)["understudy_workers", "pitch local ready"] == 1
    # The sums are at most five seconds old; the bill of so short a day is little, but not nothing.
    state = await seen(server, lambda s: s["minutes"]["lead_today_s"] > 1)
    assert state["minutes"]["understudy_today_s"] > 0
    # The bound pays for a boot beside the session: nobody waits in it, and none is covered for.
    assert 0 < state["bill"]["today"] < state["bill"]["bound_today"] < 0.1


def test_voices_are_listed_with_who_covers_and_where_they_run(server: Server) -> None:
    listed: dict[str, Any] = {
        voice["name"]: voice for voice in json.loads(get(server, "/v1/voices"))["voices"]
    }
    assert listed["star"]["understudy"] == "high"
    assert listed["proud"]["understudy"] is None
    assert listed["low"]["always_on"]
    assert list(listed["low"]["runs"].values()) == [1]
    table = run(server, "voices", "--url", server.url)
    assert "on demand" in table.stdout


def test_the_log_is_json_with_the_session_in_it(server: Server) -> None:
    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    ended = next(line for line in lines if "ended: stopped" in line["message"])
    assert (ended["user"], ended["voice"]) == ("alice", "star")
    took = [line for line in lines if line.get("session") == ended["session"]]
    assert len(took) >= 3  # the understudy, the lead, the end


def test_a_page_shows_it(server: Server, tmp_path: Path) -> None:
    assert "<script" in get(server, "/fleet")
