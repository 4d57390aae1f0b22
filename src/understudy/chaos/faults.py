"""What is done to a fleet on this machine: to workers, links, controllers, regions, the store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from understudy.chaos import processes
from understudy.chaos.audience import Scene
from understudy.chaos.processes import NoChaos
from understudy.core.errors import StoreAway
from understudy.seams import Clock
from understudy.store.leader import leading_process

DEEDS: Final = ("kill", "freeze", "link", "controller", "region", "store")
OF_WORKERS: Final = ("kill", "freeze", "link")
PAST: Final = {
    "kill": "worker killed",
    "freeze": "worker frozen",
    "link": "links of a worker cut",
    "controller": "leading controller killed",
    "region": "region killed",
    "store": "store away",
}
STORE_S: Final = 10.0
CALL_S: Final = 5.0
BUSY_S: Final = 30.0  # how long SQLite's write lock is tried for


@dataclass(frozen=True, slots=True)
class Hit:
    """One deed. `target`: the worker, region, process or database that it was done to."""

    deed: str
    target: str
    model: str  # of a worker
    pids: tuple[int, ...]
    after_s: float  # since the beginning
    at_s: float  # Unix time
    sessions: tuple[str, ...]  # whose edge or performer it took


class Faults:
    """Does deeds, and undoes what can be undone when it is closed."""

    def __init__(
        self,
        clock: Clock,
        *,
        data: Path | None = None,
        where: str | Path | None = None,
        seed: int | None = None,
        server_pid: int | None = None,
        store_s: float = STORE_S,
    ) -> None:
        """`data`: the folder of a world, for regions; `where`: its store; `server_pid`: one of the
        database's processes, where it does not tell by itself."""
        self._clock = clock
        self._data = data
        self._where = where
        self._choice = random.Random(seed)
        self._server_pid = server_pid
        self._store_s = store_s
        self._began_s = clock.now()
        self._away: asyncio.Task[None] | None = None  # the store is, meanwhile
        self._frozen: set[str] = set()
        self._impossible: dict[str, NoChaos] = {}  # deed -> why

    async def close(self) -> None:
        """Nothing stays frozen: neither the store nor workers that nobody has replaced."""
        if self._away is not None:
            self._away.cancel()
            await asyncio.gather(self._away, return_exceptions=True)
        left = await asyncio.to_thread(processes.workers, self._frozen)
        with contextlib.suppress(NoChaos):
            processes.send(signal.SIGCONT, left.values())

    @property
    def store_is_away(self) -> bool:
        return self._away is not None and not self._away.done()

    @property
    def impossible(self) -> Mapping[str, NoChaos]:
        """What this machine does not allow, and why."""
        return self._impossible

    async def store_back(self) -> None:
        if self._away is not None:
            await asyncio.wait([self._away])

    async def do(self, deed: str, scene: Scene, target: str | None = None) -> Hit | None:
        """None: there is nobody to do it to just now. Raises NoChaos, StoreAway."""
        if deed in OF_WORKERS:
            return await self._to_worker(deed, scene, target)
        if deed == "region":
            return await self._region(scene, target)
        if deed == "controller":
            return await self._controller(scene)
        return await self._store()

    async def any(self, scene: Scene, deeds: Sequence[str] = DEEDS) -> Hit | None:
        """One of them, by chance; None: there is nobody to do any of them to just now. What this
        machine does not allow is not tried again. Raises NoChaos: it allows nothing of it."""
        possible = [deed for deed in deeds if deed not in self._impossible]
        for deed in self._choice.sample(possible, len(possible)):
            try:
                hit = await self.do(deed, scene)
            except NoChaos as error:
                self._impossible[deed] = error
            else:
                if hit is not None:
                    return hit
        if all(deed in self._impossible for deed in deeds):
            raise self._impossible[deeds[0]]
        return None

    def _hit(
        self, deed: str, target: str, pids: Sequence[int], sessions: Sequence[str], model: str = ""
    ) -> Hit:
        after_s = round(self._clock.now() - self._began_s, 3)
        return Hit(deed, target, model, tuple(pids), after_s, self._clock.wall(), tuple(sessions))

    # workers

    async def _to_worker(self, deed: str, scene: Scene, wanted: str | None) -> Hit | None:
        ready = {
            worker["id"]: worker["model"]
            for worker in scene.workers
            if worker["state"] in ("ready", "draining") and wanted in (None, worker["id"])
        }
        pids = await asyncio.to_thread(processes.workers, set(ready))
        if ready and not pids:
            raise NoChaos("no worker of that server runs on this machine")
        here = sorted(pids.keys() - self._frozen) if deed == "freeze" else sorted(pids)
        here = [worker for worker in here if scene.on_worker(worker)] or here
        if not here:
            return None
        worker = self._choice.choice(here)
        pid = pids[worker]
        hit = self._hit(deed, worker, [pid], scene.on_worker(worker), ready[worker])
        if deed == "link":
            return hit if await asyncio.to_thread(processes.cut_links, pid) else None
        number = signal.SIGKILL if deed == "kill" else signal.SIGSTOP
        if not processes.send(number, [pid]):
            return None
        if deed == "freeze":
            self._frozen.add(worker)
        return hit

    # regions and controllers

    def _of_regions(self) -> Path:
        if self._data is None:
            raise NoChaos("which regions? Pass the --data that `understudy up --regions` runs on")
        return self._data

    async def _region(self, scene: Scene, wanted: str | None) -> Hit | None:
        data = self._of_regions()
        names = processes.regions(data)
        if wanted is not None:
            up = [wanted]
        else:  # and never the last one
            up = [name for name in names if name in scene.edges]
            if len(names) < 2:
                raise NoChaos("there is but one region")
            if len(up) < 2:
                return None
        region = self._choice.choice(up)
        pids = await asyncio.to_thread(processes.region_pids, data, region)
        nodes = await asyncio.to_thread(
            processes.workers, {worker["id"] for worker in scene.workers}
        )
        lost = {node for node, pid in nodes.items() if pid in pids}
        sessions = dict.fromkeys(scene.at_edge(region))
        sessions |= dict.fromkeys(one for node in lost for one in scene.on_worker(node))
        hit = self._hit("region", region, pids, tuple(sessions))
        return hit if processes.send(signal.SIGKILL, pids) else None

    async def _controller(self, scene: Scene) -> Hit | None:
        if self._where is None:
            raise NoChaos("whose controller? Pass the fleet's --data or --store")
        pid = await leading_process(self._where)
        if pid is None:
            return None
        if pid == os.getpid():
            raise NoChaos("this very process leads")
        region = ""
        if self._data is not None:
            with contextlib.suppress(NoChaos):
                names = processes.regions(self._data).items()
                region = next((name for name, one in names if pid in one["pids"]), "")
        if region and len(scene.edges) < 2:
            return None  # with it the last edge would go
        hit = self._hit("controller", region or f"process {pid}", [pid], scene.at_edge(region))
        return hit if processes.send(signal.SIGKILL, [pid]) else None

    # the store

    async def _store(self) -> Hit | None:
        if self.store_is_away:
            return None
        where = self._where
        if where is None:
            raise NoChaos("which store? Pass the fleet's --data or --store")
        begun: asyncio.Future[tuple[str, Sequence[int]]]
        begun = asyncio.get_running_loop().create_future()
        if isinstance(where, Path) or "://" not in where:
            work = self._hold_file(Path(where), begun)
        else:
            work = self._hold_server(where, begun)
        self._away = asyncio.create_task(work)
        target, pids = await begun
        return self._hit("store", target, pids, ())

    async def _hold_file(
        self, path: Path, begun: asyncio.Future[tuple[str, Sequence[int]]]
    ) -> None:
        """SQLite's one write lock: nobody else writes while we have it."""
        try:
            db = await asyncio.to_thread(_lock, path)
        except sqlite3.Error as error:
            begun.set_exception(NoChaos(f"{path} cannot be locked: {error}"))
            return
        try:
            begun.set_result((path.name, ()))
            await self._clock.sleep(self._store_s)
        finally:
            db.close()

    async def _hold_server(
        self, url: str, begun: asyncio.Future[tuple[str, Sequence[int]]]
    ) -> None:
        """PostgreSQL's processes: they stop, and go on."""
        try:
            pids = await _server_of(url, self._server_pid)
            stopped = processes.send(signal.SIGSTOP, pids)
        except Exception as error:
            begun.set_exception(error)
            return
        try:
            begun.set_result(("PostgreSQL", stopped))
            await self._clock.sleep(self._store_s)
        finally:
            processes.send(signal.SIGCONT, stopped)


def _lock(path: Path) -> sqlite3.Connection:
    # Of a file that is there: a new one would be nobody's.
    uri = f"{path.resolve().as_uri()}?mode=rw"
    db = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=BUSY_S, check_same_thread=False
    )
    db.execute("BEGIN IMMEDIATE")
    return db


async def _server_of(url: str, known: int | None) -> list[int]:
    """All processes of a PostgreSQL on this machine; `known`: one of them. Raises NoChaos."""
    if known is not None:
        return await asyncio.to_thread(_server, known)
    import asyncpg

    try:
        db = await asyncpg.connect(url, timeout=CALL_S)
    except (OSError, asyncpg.PostgresError) as error:
        raise StoreAway(f"the database does not answer: {error}") from None
    try:
        pid, address = await db.fetchrow("SELECT pg_backend_pid(), host(inet_server_addr())")
        if address not in (None, "127.0.0.1", "::1"):
            raise NoChaos(f"the database runs on {address}; do it there, or give its --pid")
        # While the connection is there, so is the process that answers it.
        return await asyncio.to_thread(_server, int(pid))
    finally:
        db.terminate()


def _server(pid: int) -> list[int]:
    """All processes of the server that one of them belongs to; the first forks no more."""
    parents = processes.parents()
    while processes.name(parents.get(pid, 0)).startswith("postgres"):
        pid = parents[pid]
    if not processes.name(pid).startswith("postgres"):
        raise NoChaos(f"process {pid} is no PostgreSQL of this machine; give one with --pid")
    return processes.descendants(pid)
