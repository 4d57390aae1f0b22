"""Killing and freezing workers: that the benchmarks measure, and what the command tells.
No timings: those are for a machine that does nothing else."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from tests.server import Server
from understudy import Client, chaos
from understudy.bench import crash, freeze, listening, world
from understudy.bench.machine import find_audio
from understudy.bench.server import CHUNK, RATE_HZ, Speaker
from understudy.chaos import NoChaos
from understudy.chaos.audience import Audience, Scene
from understudy.chaos.faults import Faults
from understudy.cli import cli
from understudy.clock import SystemClock
from understudy.store.leader import leading_process


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
    late_s = listening.lateness_s(speaker)
    assert late_s.max() == pytest.approx(4 * chunk_s)
    missed = np.flatnonzero(listening.missing(speaker, late_s))
    # The listener waits for 60 ms of those 80.
    assert missed.tolist() == [*range(10 * CHUNK, 12 * CHUNK), *range(20 * CHUNK, 21 * CHUNK)]
    fake.late_s = [0.0] * 20 + [4 * chunk_s] + [0.0] * 29  # this client's own doing
    late_s = listening.lateness_s(speaker)
    assert late_s.max() == pytest.approx(0.0)
    assert listening.missing(speaker, late_s).sum() == 2 * CHUNK


CONFIG = world.CONFIG.format(covers=1, nodes=3) + world.RENTED.format(
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
    assert [(hit["deed"], hit["target"]) for hit in result["hits"]] == [("kill", worker)]
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
    audience = Audience(fleet.url, None, SystemClock())
    scene = await audience.open()
    (cover,) = [w["id"] for w in scene.workers]
    faults = Faults(SystemClock())
    hit = await faults.do("freeze", scene, cover)
    assert hit is not None
    assert hit.pids == (chaos.processes_of({cover})[cover],)
    await faults.close()
    async with Client(fleet.url).stream("cover", "bob") as stream:
        speaker = Speaker(stream, np.full(RATE_HZ, 1000, "<i2"))
        await speaker.until_live()
        await speaker.stop()
    assert stream.ended is not None


async def test_a_cut_link_is_dialled_again_and_nobody_is_lost(fleet: Server) -> None:
    await fleet.knows("star")
    async with Client(fleet.url).stream("star", "carol") as stream:
        speaker = Speaker(stream, np.full(RATE_HZ, 1000, "<i2"))
        await speaker.until_live("lead")
        (worker,) = [w["id"] for w in fleet.fleet()["workers"] if not w["always_on"]]
        (pid,) = chaos.processes_of({worker}).values()
        faults = Faults(SystemClock())
        scene = await Audience(fleet.url, None, SystemClock()).open()
        try:
            hit = await faults.do("link", scene, worker)
        except NoChaos as error:  # not on this system, or not as this user
            pytest.skip(error.message)
        assert hit is not None
        assert hit.sessions == (speaker.lives()[0].event.session,)
        await speaker.until_live("lead", 2)
        await speaker.until_heard(0.3)
        assert chaos.processes_of({worker}) == {worker: pid}  # it lives, and serves again
        await speaker.stop()
    assert stream.ended is not None
    assert stream.ended.reason == "stopped"
    assert f"worker {worker} (heavy-star) is gone: its link was lost" in fleet.log


async def test_the_store_is_away_for_a_while_and_nobody_hears(fleet: Server) -> None:
    await fleet.knows("star")
    where = fleet.data / "understudy.db"
    async with Client(fleet.url).stream("star", "dora") as stream:
        speaker = Speaker(stream, np.full(RATE_HZ, 1000, "<i2"))
        await speaker.until_live("lead")
        faults = Faults(SystemClock(), where=where, store_s=60.0)
        hit = await faults.do("store", Scene())
        assert hit is not None
        assert hit.target == where.name
        assert faults.store_is_away
        with sqlite3.connect(where, timeout=0.0) as db, pytest.raises(sqlite3.OperationalError):
            db.execute("BEGIN IMMEDIATE")
        await speaker.until_heard(0.5)
        # Its edge tells of itself all the same, just then.
        assert fleet.metric("understudy_ledger_behind") >= 0
        assert fleet.fleet()["sessions"][0]["user"] == "dora"
        assert await faults.do("store", Scene()) is None  # it is away already
        await faults.close()
        await fleet.seen(lambda state: state["sessions"][0]["lead_s"] > 0.5)
        await speaker.stop()
        assert speaker.silent_s == 0
    missing = Faults(SystemClock(), where=fleet.data / "none.db")
    with pytest.raises(NoChaos, match="cannot be locked"):
        await missing.do("store", Scene())
    assert not (fleet.data / "none.db").exists()


async def test_who_leads_is_known(fleet: Server) -> None:
    where = fleet.data / "understudy.db"
    assert await leading_process(where) == fleet.process.pid
    scene = await Audience(fleet.url, None, SystemClock()).open()
    hit = await Faults(SystemClock(), where=where).do("controller", scene)
    assert hit is not None
    assert hit.pids == (fleet.process.pid,)
    await asyncio.to_thread(fleet.process.wait)
    assert await leading_process(where) is None
    await asyncio.to_thread(fleet.start)
    assert await leading_process(where) == fleet.process.pid


async def test_a_region_dies_and_its_users_go_on_elsewhere(tmp_path: Path) -> None:
    with world.world(("sf", "tokyo"), world.configuration(["star"]), sqlite=True) as found:
        audience = world.audience_of(found)
        await audience.open()
        await found.all_up(audience)
        await world.knows(found, ["star"])
        async with AsyncExitStack() as stack:
            users = [("erin", "tokyo", "star"), ("finn", "sf", "star")]
            callers = await world.call_in(stack, found, users, None)
            (erin,) = [one for one in callers if one.user == "erin"]
            home = erin.stream.edge.region
            theirs = {one.session for one in callers if one.stream.edge.region == home}
            before = set(found.pids()[home])
            words = ["chaos", "region", home, "--data", str(found.data), "--yes", "--json"]
            words += ["--url", next(url for name, url in found.urls.items() if name != home)]
            done = await asyncio.to_thread(CliRunner().invoke, cli, words)
            assert done.exit_code == 0, (done.output, done.exception)
            result = json.loads(done.stdout)
            await erin.until(lambda: erin.stream.resumes > 0 and erin.stream.live is not None)
            assert erin.stream.edge.region != home
            (hit,) = result["hits"]
            assert (hit["deed"], hit["target"]) == ("region", home)
            assert theirs <= set(hit["sessions"])
            assert before <= set(hit["pids"])
            assert result["sessions"]["hit_and_gone"] == 0
            assert result["sessions"]["silent_now"] == 0
            assert [await one.leave() for one in callers] == ["", ""]
        with pytest.raises(NoChaos, match="there are sf, tokyo"):
            await Faults(SystemClock(), data=found.data).do("region", Scene(), "lima")
    with pytest.raises(NoChaos, match="no regions run in"):
        await Faults(SystemClock(), data=tmp_path).do("region", Scene(), "sf")


async def test_a_storm_is_the_same_for_one_seed_and_spares_what_cannot_be() -> None:
    """Nothing can be done where nobody is; then it says so."""
    faults = Faults(SystemClock(), seed=5)
    with pytest.raises(NoChaos):
        for _ in range(20):
            assert await faults.any(Scene(), ("region", "controller", "store")) is None
    assert await faults.any(Scene(), ("kill", "region")) is None  # no worker is up


async def test_chaos_is_for_this_machine_only() -> None:
    with pytest.raises(NoChaos, match="this machine"):
        await chaos.run("kill", "http://voices.example:8765", None, SystemClock())
    done = CliRunner().invoke(cli, ["chaos", "kill", "--url", "http://10.0.0.7:8765", "--yes"])
    assert isinstance(done.exception, NoChaos)
