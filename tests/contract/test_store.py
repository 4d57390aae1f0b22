"""What every store promises."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.core.errors import AlreadyLive, ConfigError
from understudy.core.fleet import Request, Worker, WorkerState
from understudy.core.ledger import Interval, Role
from understudy.core.wire import Card, Control
from understudy.seams import SessionRow, Store
from understudy.store.sqlite import SqliteStore

WORKER = Worker("w1", "n1", "m", "sf", 2, WorkerState.READY, progress=1.0)


def row(session: str, user: str) -> SessionRow:
    return SessionRow(session, user, "miku", "m", "sf", "edge-1", started_s=100.0)


@pytest.fixture(params=["sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteStore(tmp_path / "test.db")
    await store.open()
    yield store
    await store.close()


async def test_a_user_has_one_live_stream(store: Store) -> None:
    await store.begin(row("s1", "alice"))
    with pytest.raises(AlreadyLive) as caught:
        await store.begin(row("s2", "alice"))
    assert caught.value.session == "s1"
    await store.begin(row("s3", "bob"))
    await store.end("s1", "stopped", 160.0)
    await store.begin(row("s2", "alice"))
    assert {s.id for s in await store.sessions()} == {"s2", "s3"}


async def test_the_first_end_counts(store: Store) -> None:
    await store.begin(row("s1", "alice"))
    await store.end("s1", "stopped", 160.0)
    await store.end("s1", "error", 999.0)
    (ended,) = await store.sessions(live=False)
    assert (ended.reason, ended.ended_s) == ("stopped", 160.0)


async def test_slots_are_given_once_and_given_back(store: Store) -> None:
    await store.save_worker(WORKER)
    for name in ("s1", "s2", "s3"):
        await store.begin(row(name, name))
    first = await store.place(Request("s1", "m", "sf"))
    second = await store.place(Request("s2", "m", "sf"))
    assert first is not None
    assert second is not None
    assert {first.slot, second.slot} == {0, 1}
    assert await store.place(Request("s1", "m", "sf")) == first  # asked again: the same
    assert await store.place(Request("s3", "m", "sf")) is None
    (worker,) = await store.workers()
    assert worker.taken == 2
    await store.release("s1")
    assert await store.place(Request("s3", "m", "sf")) == first
    await store.end("s2", "stopped", 1.0)
    (worker,) = await store.workers()
    assert worker.taken == 1


async def test_racing_sessions_never_share_a_slot(store: Store) -> None:
    await store.save_worker(replace(WORKER, slots=5))
    await asyncio.gather(*(store.begin(row(f"s{k}", f"u{k}")) for k in range(20)))
    placed = await asyncio.gather(*(store.place(Request(f"s{k}", "m", "sf")) for k in range(20)))
    slots = [placement.slot for placement in placed if placement]
    assert sorted(slots) == [0, 1, 2, 3, 4]


async def test_ended_unknown_and_misplaced_sessions_get_no_slot(store: Store) -> None:
    await store.save_worker(WORKER)
    await store.begin(row("s1", "alice"))
    await store.end("s1", "gone", 1.0)
    assert await store.place(Request("s1", "m", "sf")) is None
    assert await store.place(Request("nobody", "m", "sf")) is None
    await store.begin(row("s2", "alice"))
    assert await store.place(Request("s2", "other", "sf")) is None


async def test_workers_come_and_go(store: Store) -> None:
    await store.save_worker(replace(WORKER, state=WorkerState.LOADING, progress=0.5))
    (worker,) = await store.workers()
    assert (worker.state, worker.progress, worker.boot_s) == (WorkerState.LOADING, 0.5, None)
    await store.save_worker(replace(WORKER, boot_s=10.5))
    (worker,) = await store.workers()
    assert (worker.state, worker.boot_s) == (WorkerState.READY, 10.5)
    await store.save_worker(replace(WORKER, state=WorkerState.GONE))
    assert list(await store.workers()) == []


async def test_cards_are_kept(store: Store) -> None:
    card = Card(24_000, 240, 960, 3.0, 4, {"pitch": Control(-24, 24, 0, "semitones")})
    await store.save_card("m", card)
    await store.save_card("m", replace(card, slots=8))
    assert await store.cards() == {"m": replace(card, slots=8)}


def interval(session: str, seq: int, samples: int, at_s: float, user: str = "alice") -> Interval:
    return Interval(session, seq, user, "miku", "m", "w1", "sf", Role.LEAD, 24_000, samples, at_s)


async def test_the_ledger_only_grows(store: Store) -> None:
    await store.meter([interval("s1", 0, 12_000, 100.0), interval("s1", 1, 500, 101.0)])
    await store.meter([interval("s1", 0, 24_000, 100.5)])
    await store.meter([interval("s1", 0, 12_000, 100.0)])  # a late repeat changes nothing
    await store.meter([])
    assert await store.ledger() == [
        interval("s1", 0, 24_000, 100.5),
        interval("s1", 1, 500, 101.0),
    ]


async def test_the_ledger_is_read_by_user_and_time(store: Store) -> None:
    await store.meter(
        [
            interval("s1", 0, 1, 100.0),
            interval("s2", 0, 2, 200.0, "bob"),
            interval("s1", 1, 3, 300.0),
        ]
    )
    assert [i.samples for i in await store.ledger(user="alice")] == [1, 3]
    assert [i.samples for i in await store.ledger(from_s=200.0, to_s=300.0)] == [2]
    assert await store.ledger(user="nobody") == []


async def test_an_edge_that_restarts_ends_what_it_left(store: Store) -> None:
    await store.save_worker(WORKER)
    await store.begin(row("s1", "alice"))
    await store.begin(replace(row("s2", "bob"), edge="edge-2"))
    assert await store.recover("edge-1", 500.0) == 1
    assert [s.id for s in await store.sessions()] == ["s2"]
    await store.begin(row("s3", "alice"))  # her lock is free again


async def test_what_is_written_survives_a_reopening(tmp_path: Path) -> None:
    for expected in (0, 1):
        store = SqliteStore(tmp_path / "test.db")
        await store.open()
        assert len(await store.sessions(live=False)) == expected
        if not expected:
            await store.begin(row("s1", "alice"))
        await store.close()


async def test_a_file_that_is_no_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.write_bytes(b"this is no database at all, " * 100)
    store = SqliteStore(path)
    with pytest.raises(ConfigError, match="move it away"):
        await store.open()
    await store.close()


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

    db = sqlite3.connect(tmp_path / "test.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    store = SqliteStore(tmp_path / "test.db")
    with pytest.raises(ConfigError, match="newer"):
        await store.open()
    await store.close()
