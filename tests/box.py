"""Machines for tests: `understudy join` in processes of their own; what a server's store has."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from tests import server
from understudy.bench.server import PATIENCE_S
from understudy.seams import Store
from understudy.store import open_store
from understudy.tokens import Keys

T = TypeVar("T")

HOUR_S = 3600.0


def join_token(data: Path, name: str = "box", keys: Keys | None = None) -> str:
    """Of the fleet whose data folder this is."""
    keys = keys or Keys.read({}, data)
    return keys.join_token(name, None, time.time() + HOUR_S)


class Box(server.Server):
    """A machine that joins. Started by the constructor, which does not wait for the fleet."""

    def __init__(
        self,
        url: str,
        token: str,
        name: str,
        *options: str,
        data: Path,
        gpus: int = 0,
        cpus: int = 0,
        within: Sequence[str] = (),
        **env: str,
    ) -> None:
        """`within`: the words of a command that runs it; `data`: a folder for its cache."""
        lends = ["--name", name, "--gpus", str(gpus), "--cpus", str(cpus)]
        self._command = [*within, sys.executable, "-m", "understudy", "join", url, *lends, *options]
        env = {"UNDERSTUDY_JOIN_TOKEN": token, "XDG_CACHE_HOME": str(data / "cache"), **env}
        super().__init__(data, 0, None, (), **env)

    def start(self) -> None:
        self._over = False
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def leave(self) -> None:
        """Asks it to; returns at once."""
        self.process.terminate()

    def wait(self, seconds: float = 90.0) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        """However it is, it is no more afterwards."""
        workers = self.workers() if self.process.poll() is None else []
        self.kill()
        for worker in workers:
            worker.wait(20)


async def seen(data: Path, look: Callable[[Store], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """What a look at a server's store finds, once that holds."""
    store = await open_store(data / "understudy.db")
    found: list[T] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not found or not holds(found[-1]):
                await asyncio.sleep(0.05 if found else 0.0)
                found.append(await look(store))
    except TimeoutError:
        raise AssertionError(f"it never came about; the last look found {found[-1]}") from None
    finally:
        await store.close()
    return found[-1]


async def all_gone(processes: Sequence[psutil.Process]) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, PATIENCE_S)
    assert not alive, alive
