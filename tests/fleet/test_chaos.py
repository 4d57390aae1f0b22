"""Killing and freezing workers: that the benchmarks measure, and what the command tells.
No timings: those are for a machine that does nothing else."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from tests.server import Server
from understudy import Client, chaos
from understudy.bench import crash, freeze
from understudy.bench.machine import find_audio
from understudy.bench.server import CHUNK, RATE_HZ, Speaker
from understudy.chaos import NoChaos
from understudy.cli import cli
from understudy.clock import SystemClock


def test_crash_hears_every_kill_and_loses_nobody() -> None:
    lines: list[str] = []
    result = crash.run(find_audio(None), quick=True, progress=lines.append)
    assert result["hits"] == crash.QUICK.kills
    _check_sessions(result)
    found = result["outcomes"]
    assert found["count"] >= crash.QUICK.kills
    assert sum(one["count"] for one in result["by"].values()) == found["count"]
    assert set(result["by"]) <= {
        f"{by}{of}"
        for by in ("free slot", "understudy")
        for of in ("", ", for a killed understudy")
    }
    assert found["missed_ms"]["max"] >= found["zero_ms"]["max"]
    assert lines
    assert {f["name"] for f in result["figures"]} <= _named(crash.table(result))


def test_freeze_hears_the_silence_and_the_sound_after_it() -> None:
    result = freeze.run(find_audio(None), quick=True)
    assert result["hits"] == freeze.QUICK.kills
    _check_sessions(result)
    found = result["outcomes"]
    assert found["count"] >= 1
    assert 0 < found["zero_ms"]["p50"] <= found["missed_ms"]["p50"]
    assert found["sounds_ms"]["p50"] > 200  # nothing is given up sooner
    assert {f["name"] for f in result["figures"]} <= _named(freeze.table(result))


def _check_sessions(result: dict[str, Any]) -> None:
    assert result["lost"] == []
    wrong = ("wrong", "uneven", "tracebacks", "left_behind")
    assert {name: result[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert result["billed_off_ms"]["max"] < 1000
    assert result["role_off_ms"]["max"] < 1000


def _named(table: str) -> set[str]:
    return {line.split("  ")[0] for line in table.splitlines()}


def test_what_comes_late_or_never_is_not_heard() -> None:
    pcm = np.ones(50 * CHUNK, "<i2")
    pcm[10 * CHUNK : 12 * CHUNK] = 0
    chunk_s = CHUNK / RATE_HZ
    # Each chunk comes 5 ms after it was sent; of those from 20 on, the first five at once.
    arrivals = [((k + 1) * chunk_s + 0.005, (k + 1) * CHUNK) for k in range(50)]
    arrivals[20:25] = [(25 * chunk_s + 0.005, 25 * CHUNK)]
    fake = SimpleNamespace(
        arrivals=arrivals, began_s=0.0, late_s=[0.0] * 50, heard_pcm=pcm, heard_samples=len(pcm)
    )
    speaker = cast(Speaker, fake)
    late_s = crash.lateness_s(speaker)
    assert late_s.max() == pytest.approx(4 * chunk_s)
    missed = np.flatnonzero(crash.missing(speaker, late_s))
    # The listener waits for 60 ms of those 80.
    assert missed.tolist() == [*range(10 * CHUNK, 12 * CHUNK), *range(20 * CHUNK, 21 * CHUNK)]
    fake.late_s = [0.0] * 20 + [4 * chunk_s] + [0.0] * 29  # this client's own doing
    late_s = crash.lateness_s(speaker)
    assert late_s.max() == pytest.approx(0.0)
    assert crash.missing(speaker, late_s).sum() == 2 * CHUNK


CONFIG = crash.CONFIG.format(covers=1, nodes=3) + crash.RENTED.format(
    name="star", slots=4, load_s=0.0
)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "data", config=CONFIG)
    yield server
    assert server.stop() == 0, server.log


async def test_the_command_kills_a_worker_and_tells_what_was_heard(fleet: Server) -> None:
    await fleet.knows("star")
    async with Client(fleet.url).stream("star", "alice") as stream:
        speaker = Speaker(stream, np.full(RATE_HZ, 1000, "<i2"))
        await speaker.until_live("lead")
        await speaker.until_heard(0.3)
        (worker,) = [w["id"] for w in fleet.fleet()["workers"] if not w["always_on"]]
        assert chaos.processes_of({worker, "local-none"}).keys() == {worker}
        words = ["chaos", "kill", "--url", fleet.url, "--worker", worker, "--json"]
        refused = await asyncio.to_thread(CliRunner().invoke, cli, words, input="n\n")
        assert refused.exit_code == 1
        assert [w["id"] for w in fleet.fleet()["workers"] if not w["always_on"]] == [worker]
        done = await asyncio.to_thread(CliRunner().invoke, cli, [*words, "--yes"])
        assert done.exit_code == 0, done.output
        result = json.loads(done.stdout)
        await speaker.until_live("lead", 2)
        await speaker.stop()
    assert [hit["worker"] for hit in result["hits"]] == [worker]
    assert [len(hit["sessions"]) for hit in result["hits"]] == [1]
    assert result["sessions"] == {
        "before": 1, "after": 1, "hit": 1, "hit_and_gone": 0, "silent_now": 0
    }  # fmt: skip
    assert result["recoveries"]["wanted"] == result["recoveries"]["count"] == 1
    assert result["heard"]["understudy_s"] > 0
    assert abs(result["billed_less_heard_s"]) < 1.0
    assert "recoveries" in chaos.table(result)


async def test_a_frozen_worker_goes_on_after_the_chaos(fleet: Server) -> None:
    """Where nobody has replaced it: here, because nobody used it."""
    (cover,) = [w["id"] for w in fleet.fleet()["workers"]]
    pid = chaos.processes_of({cover})[cover]
    hit = chaos.Hit(cover, "cover", pid, 0.0, 0.0, ())
    os.kill(pid, signal.SIGSTOP)
    chaos._thaw([hit])
    async with Client(fleet.url).stream("cover", "bob") as stream:
        speaker = Speaker(stream, np.full(RATE_HZ, 1000, "<i2"))
        await speaker.until_live()
        await speaker.stop()
    assert stream.ended is not None


async def test_chaos_is_for_this_machine_only() -> None:
    with pytest.raises(NoChaos, match="this machine"):
        await chaos.run("kill", "http://voices.example:8765", None, SystemClock())
    done = CliRunner().invoke(cli, ["chaos", "kill", "--url", "http://10.0.0.7:8765", "--yes"])
    assert isinstance(done.exception, NoChaos)
