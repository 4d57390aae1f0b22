"""Bundles by hash: into the store, out of any edge, into a worker's cache, and nothing else."""

import asyncio
import contextlib
import fcntl
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from tests.postgres import postgres
from tests.server import SMALL, Server
from understudy import bundle_archive, shipping
from understudy.bundle_archive import PART_BYTES, BadArchive, archive, archive_bytes, unpack
from understudy.bundle_files import revision_of, verify
from understudy.clock import SystemClock
from understudy.config import parse
from understudy.core.errors import ConfigError, ProviderFailed
from understudy.edge.bundles import bundle_route
from understudy.seams import Store
from understudy.store import open_store
from understudy.worker import fetch as fetching
from understudy.worker.fetch import Cache, Source, fetch

LOCKS = (".lock", ".fetch")
SECRET = "the worker's own secret"


class Hasty:
    """A clock on which waiting costs nothing."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of over three parts, with what is hard: long names, accents, a file to be run."""
    folder = tmp_path / "voice"
    deep = folder / ("deep" * 20) / ("deeper" * 20)
    deep.mkdir(parents=True)
    (folder / "voice.toml").write_text('engine = "model:M"\n')
    (folder / "weights.bin").write_bytes(random.Random(1).randbytes(3 * PART_BYTES + 12_345))
    (folder / "empty").touch()
    (deep / "naïve façade.txt").write_text("é")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    name = ""
    where: str | Path = tmp_path / "test.db"
    if request.param == "postgresql":
        name = await postgres().create()
        where = postgres().url(name)
    store = await open_store(where)
    yield store
    await store.close()
    if name:
        await postgres().drop(name)


# the archive


def test_the_same_files_make_the_same_archive_which_makes_the_same_files(
    folder: Path, tmp_path: Path
) -> None:
    parts = list(archive(folder))
    assert all(len(part) == PART_BYTES for part in parts[:-1])
    os.utime(folder / "voice.toml", (1, 1))
    assert list(archive(folder)) == parts
    data = b"".join(parts)
    assert 0 <= len(data) - archive_bytes(folder) <= 5000
    (tmp_path / "copy").mkdir()
    unpack(io.BytesIO(data), tmp_path / "copy")
    assert revision_of(tmp_path / "copy") == revision_of(folder)
    assert os.access(tmp_path / "copy" / "run.sh", os.X_OK)
    assert not (tmp_path / "copy" / "voice.toml").stat().st_mode & 0o222
    # Anybody's tar reads it, too.
    with tarfile.open(fileobj=io.BytesIO(data)) as others:
        assert len(others.getnames()) == 5


def tar(*members: tarfile.TarInfo) -> io.BytesIO:
    made = b"".join(
        info.tobuf(tarfile.PAX_FORMAT) + bytes(info.size + -info.size % 512) for info in members
    )
    return io.BytesIO(made + bytes(1024))


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 3) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size if kind == tarfile.REGTYPE else 0
    info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info


@pytest.mark.parametrize(
    "name",
    ["/etc/cron.d/x", "../x", "a/../../x", "a/..", "./a", "a//b", "a\\b", "a\nb", ".", "x" * 5000],
)
def test_a_path_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(BadArchive):
        unpack(tar(member(name)), tmp_path / "in")
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


@pytest.mark.parametrize(
    "kind",
    [
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
        *(tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE, tarfile.XGLTYPE),
    ],
)
def test_what_is_no_file_is_refused(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        unpack(tar(member("a", kind)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_in_a_files_place_is_refused(tmp_path: Path) -> None:
    for second in ("a", "a/b"):
        (into := tmp_path / second.replace("/", "-")).mkdir()
        with pytest.raises(BadArchive, match="twice"):
            unpack(tar(member("a"), member(second)), into)


def test_too_much_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_archive, "MAX_BYTES", 10)
    monkeypatch.setattr(bundle_archive, "MAX_FILES", 4)
    with pytest.raises(BadArchive, match="11 bytes"):
        unpack(tar(member("a", size=11)), tmp_path)
    with pytest.raises(BadArchive, match="over 4 files"):
        unpack(tar(*(member(f"b{n}", size=1) for n in range(5))), tmp_path)
    with pytest.raises(BadArchive, match="over 4 files"):
        unpack(tar(member("c", size=9), member("d", size=9)), tmp_path)


@given(cut=st.integers(0, 4000), flip=st.integers(0, 4000), to=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_a_damaged_archive_is_refused_or_is_harmless(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int, to: int
) -> None:
    into = tmp_path_factory.mktemp("in")
    data = bytearray(tar(member("a/b"), member("n" * 150), member("c")).getvalue())
    if flip < len(data):
        data[flip] = to
    with contextlib.suppress(BadArchive, EOFError):
        unpack(io.BytesIO(data[:cut]), into)
    assert all(path.is_relative_to(into) and not path.is_symlink() for path in into.rglob("*"))


# the store


async def test_a_bundle_is_there_once_it_is_whole(store: Store, folder: Path) -> None:
    parts = list(archive(folder))

    def broken() -> Iterator[bytes]:
        yield from parts[:2]
        raise ConfigError("the disk is gone")

    with pytest.raises(ConfigError, match="gone"):
        await store.save_bundle("abc", broken())
    assert await store.bundle_size("abc") is None
    assert [part async for part in store.bundle("abc")] == []
    for _ in range(2):
        await store.save_bundle("abc", parts)
        assert await store.bundle_size("abc") == sum(map(len, parts))
        assert [part async for part in store.bundle("abc")] == parts
    assert await store.bundle_size("other") is None


async def test_two_who_save_at_once(store: Store, folder: Path) -> None:
    await asyncio.gather(*(store.save_bundle("abc", archive(folder)) for _ in range(2)))
    assert b"".join([part async for part in store.bundle("abc")]) == b"".join(archive(folder))


# the edge


class EdgeProcess:
    """The endpoint behind a real server, whose answers a test may spoil."""

    def __init__(self, store: Store) -> None:
        self.asked: list[tuple[str, str]] = []  # node and secret
        self.spoil: Callable[[int, bytes], bytes] = lambda number, part: part
        self.answers = 0
        outer = self

        class Spoilt:
            bundle_size = store.bundle_size

            async def bundle(self, revision: str) -> AsyncIterator[bytes]:
                outer.answers += 1
                async for part in store.bundle(revision):
                    yield outer.spoil(outer.answers, part)

        spoilt: Any = Spoilt()
        app = Starlette(routes=[bundle_route(spoilt, self.admits)])
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
        )
        self.url = f"ws://127.0.0.1:{self.socket.getsockname()[1]}/v1/link"

    def admits(self, node: str, secret: str) -> bool:
        self.asked.append((node, secret))
        return secret == SECRET


@pytest.fixture
async def edge(store: Store) -> AsyncIterator[EdgeProcess]:
    edge = EdgeProcess(store)
    serving = asyncio.create_task(edge.server._serve([edge.socket]))
    yield edge
    edge.server.should_exit = edge.server.force_exit = True
    await serving
    edge.socket.close()


@pytest.fixture
async def revision(store: Store, folder: Path) -> str:
    revision = revision_of(folder)
    await store.save_bundle(revision, archive(folder))
    return revision


def ask(name: str, source: Source) -> None:
    with fetching._asked(name, source):
        pass


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1e9)


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix not in LOCKS)


async def test_a_worker_gets_just_the_files_of_its_revision(
    edge: EdgeProcess, revision: str, folder: Path, cache: Cache, tmp_path: Path
) -> None:
    source = Source(edge.url, "ray-1/a b", SECRET)
    spec = {"bundle": revision, "path": str(tmp_path / "on another machine")}
    path = await fetch(spec, source, Hasty(), cache)
    verify(path, revision)
    assert (path / "weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()
    assert edge.asked == [("ray-1/a b", SECRET)]
    assert left(tmp_path) == [revision]
    assert await fetch(spec, source, Hasty(), cache) == path
    assert len(edge.asked) == 1  # from the cache
    assert await fetch({**spec, "path": str(folder)}, source, Hasty(), cache) == folder


async def test_many_at_once_fetch_once(edge: EdgeProcess, revision: str, cache: Cache) -> None:
    source = Source(edge.url, "n", SECRET)
    found = await asyncio.gather(*(cache.get(revision, source, Hasty()) for _ in range(4)))
    assert len(set(found)) == 1
    assert edge.answers == 1


async def test_a_changed_folder_is_not_loaded(
    edge: EdgeProcess, revision: str, folder: Path, cache: Cache
) -> None:
    source = Source(edge.url, "n", SECRET)
    (folder / "voice.toml").write_text('engine = "evil:M"\n')
    spec = {"bundle": revision, "path": str(folder)}
    with pytest.raises(ConfigError, match=r"were changed.*nor were they.*not take this worker"):
        await fetch(spec, Source(edge.url, "n", "wrong"), Hasty(), cache)
    path = await fetch(spec, source, Hasty(), cache)
    assert path != folder
    # Nor one of the cache: it is fetched anew.
    (path / "voice.toml").unlink()
    (path / "voice.toml").write_text('engine = "evil:M"\n')
    assert await fetch(spec, source, Hasty(), cache) == path
    verify(path, revision)
    assert edge.answers == 2


async def test_only_workers_are_served(edge: EdgeProcess, revision: str, cache: Cache) -> None:
    for secret in ("", "guess"):
        with pytest.raises(ConfigError, match="does not take this worker"):
            await cache.get(revision, Source(edge.url, "n", secret), Hasty())
    source = Source(edge.url, "n", SECRET)
    with pytest.raises(ConfigError, match="no such bundle"):
        await cache.get("0" * 12, source, Hasty())
    for name in ("", "..", "../../etc/passwd", "a" * 500, "0" * 11 + "%"):
        with pytest.raises(ConfigError, match="is no revision"):
            await cache.get(name, source, Hasty())
        with pytest.raises(ConfigError, match="no such bundle"):
            await asyncio.to_thread(ask, name, source)
    assert edge.answers == 0


async def test_a_broken_download_is_tried_again(
    edge: EdgeProcess, revision: str, cache: Cache, tmp_path: Path
) -> None:
    clock = Hasty()

    def cut(number: int, part: bytes) -> bytes:
        if number <= 2:
            raise ConnectionError
        return part

    edge.spoil = cut
    verify(await cache.get(revision, Source(edge.url, "n", SECRET), clock), revision)
    assert edge.answers == 3
    assert clock.slept == [0.5, 1.0]
    assert left(tmp_path) == [revision]


async def test_an_edge_that_is_away_is_given_up(cache: Cache) -> None:
    clock = Hasty()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}/v1/link"
        with pytest.raises(ProviderFailed, match="cannot be fetched from the edge"):
            await cache.get("0" * 12, Source(url, "n", SECRET), clock)
    assert len(clock.slept) == fetching.TRIES - 1


async def test_a_wrong_hash_is_refused(
    edge: EdgeProcess, revision: str, cache: Cache, tmp_path: Path
) -> None:
    edge.spoil = lambda number, part: part.replace(b"model:M", b"evil1:M")
    with pytest.raises(BadArchive, match="nothing of it was run"):
        await cache.get(revision, Source(edge.url, "n", SECRET), Hasty())
    assert edge.answers == 1
    assert left(tmp_path) == []
    edge.spoil = lambda number, part: part
    verify(await cache.get(revision, Source(edge.url, "n", SECRET), Hasty()), revision)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
async def test_a_full_disk_is_said(
    edge: EdgeProcess, revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small]).returncode:
        pytest.skip("this container may not mount")
    try:
        for fits_at_first in (False, True):
            if fits_at_first:  # ... and then others fill it
                monkeypatch.setattr(shutil, "disk_usage", lambda path: Room())
            with pytest.raises(ConfigError, match="full; free some of it, or set XDG_CACHE_HOME"):
                await Cache(small, 1e9).get(revision, Source(edge.url, "n", SECRET), Hasty())
            assert not [path for path in small.iterdir() if path.suffix not in LOCKS]
    finally:
        subprocess.run(["umount", small], check=True)


class Room:
    free = 10**12


def entry(cache: Path, name: str, wanted_at: float) -> int:
    """Puts a bundle there that was last wanted then; returns its lock's file."""
    (cache / name).mkdir(parents=True)
    (cache / name / "data").write_bytes(bytes(1_000_000))
    lock = os.open(cache / f"{name}.lock", os.O_CREAT | os.O_RDWR)
    os.utime(cache / f"{name}.lock", (wanted_at, wanted_at))
    return lock


async def test_the_cache_is_bounded_and_keeps_what_is_in_use(
    edge: EdgeProcess, revision: str, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    locks = [entry(folder, name, at) for name, at in (("new", 4), ("old", 2), ("used", 1))]
    fcntl.flock(locks[2], fcntl.LOCK_SH)
    (folder / ".old-killed").mkdir()
    source = Source(edge.url, "n", SECRET)
    await Cache(folder, 5.5e6).get(revision, source, Hasty())  # 3.2 MB beside three of 1 MB
    bundles = [path.name for path in folder.iterdir() if path.suffix not in LOCKS]
    assert sorted(bundles) == sorted([revision, "new", "used"])
    for lock in locks:
        os.close(lock)


async def test_a_download_that_was_killed_is_taken_over(
    edge: EdgeProcess, revision: str, cache: Cache, tmp_path: Path
) -> None:
    started = threading.Event()

    def stall(number: int, part: bytes) -> bytes:
        started.set()
        return part if number > 1 else part[: len(part) // 2]

    edge.spoil = stall
    code = (
        "import asyncio, sys; from pathlib import Path; from understudy.clock import SystemClock;"
        "from understudy.worker.fetch import Cache, Source; cache = Cache(Path(sys.argv[1]), 1e9);"
        "asyncio.run(cache.get(sys.argv[2], Source(*sys.argv[3:]), SystemClock()))"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "cache", revision, edge.url, "n", SECRET]
    )
    await asyncio.to_thread(started.wait, 30)
    waiting = asyncio.create_task(cache.get(revision, Source(edge.url, "n", SECRET), Hasty()))
    other.kill()
    other.wait()
    verify(await waiting, revision)
    assert left(tmp_path) == [revision]


@pytest.mark.parametrize("chosen", ["lots", "-1", "0", "nan"])
def test_the_limit_must_be_a_number(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_CACHE_GB", chosen)
    with pytest.raises(ConfigError, match="must be gigabytes above 0"):
        Cache.of_user()


# deploying


async def test_deploying_saves_and_says_how_far_it_is(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "BIG_BYTES", PART_BYTES)
    example = Path(__file__).parents[2] / "examples" / "voices" / "telephone"
    bundle = tmp_path / "telephone"
    bundle.mkdir()
    for path in example.iterdir():
        if path.is_file():
            (bundle / path.name).write_bytes(path.read_bytes())
    (bundle / "weights.bin").write_bytes(bytes(2 * PART_BYTES))
    said: list[str] = []
    done = await shipping.deploy(
        *(
            bundle,
            None,
            parse(SMALL.format(slots=1), "t"),
            store,
            tmp_path / "bundles",
            SystemClock(),
            said.append,
        )
    )
    assert await store.bundle_size(done.revision) == sum(map(len, archive(bundle)))
    assert any("MB are in the store" in words for words in said)
    # Gone from this machine, it can be gone back to all the same.
    (bundle / "weights.bin").write_bytes(bytes(PART_BYTES))
    await shipping.deploy(
        *(
            bundle,
            None,
            parse(SMALL.format(slots=1), "t"),
            store,
            tmp_path / "bundles",
            SystemClock(),
            said.append,
        )
    )
    (tmp_path / "bundles" / done.revision).rename(tmp_path / "elsewhere")
    assert await shipping.rollback("telephone", None, store, SystemClock()) == done.revision


def test_a_server_whose_folder_is_gone_serves_the_voice_all_the_same(tmp_path: Path) -> None:
    """End to end: deployed, the folder removed, a worker that fetches what it loads."""
    server = Server(
        tmp_path / "data", config=SMALL.format(slots=1), XDG_CACHE_HOME=str(tmp_path / "cache")
    )
    try:
        example = Path(__file__).parents[2] / "examples" / "voices" / "telephone"
        environment = {**os.environ, "UNDERSTUDY_DATA": str(tmp_path / "data")}
        done = subprocess.run(
            [sys.executable, "-m", "understudy", "deploy", str(example), "--json"],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        revision = json.loads(done.stdout)["revision"]
        (tmp_path / "data" / "bundles" / revision).rename(tmp_path / "elsewhere")
        subprocess.run(
            [sys.executable, "-c", SPEAK, server.url],
            capture_output=True,
            text=True,
            check=True,
            timeout=40,
        )
        assert (tmp_path / "cache" / "understudy" / "bundles" / revision).is_dir()
    finally:
        assert server.stop() == 0, server.log


SPEAK = """
import asyncio, sys
from understudy import Client

async def speak(stream):
    while True:
        await stream.send(bytes(640))
        await asyncio.sleep(0.02)

async def main():
    async with Client(sys.argv[1]).stream("telephone", user="u", sample_rate=16000) as stream:
        speaking = asyncio.create_task(speak(stream))
        async for item in stream:
            if getattr(item, "role", "") == "lead":
                return
asyncio.run(main())
"""
