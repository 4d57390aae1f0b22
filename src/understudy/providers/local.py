"""Nodes on this machine: each is a subprocess that runs one worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from understudy.core.fleet import Node
from understudy.environment import environment

STOP_S: Final = 3.0  # between asking a worker to leave and killing it


class LocalProvider:
    """seams.Provider with subprocesses.

    A worker holds its end of a pipe from us: when we die, however we die, it reads the end of the
    file and leaves. It runs in a session of its own, so that Ctrl-C reaches us alone and children
    are stopped in order.
    """

    name = "local"

    def __init__(
        self,
        spec_json: Callable[[str, str], str],
        sign: Callable[[str], str] = lambda node: secrets.token_hex(16),
    ) -> None:
        """`spec_json(model, revision)` is what a worker reads from its standard input, after
        `sign(node)`: what it shows to an edge, to be let in."""
        self._spec_json = spec_json
        self._sign = sign
        self._processes: dict[str, tuple[Node, Process]] = {}
        self._secrets: dict[str, str] = {}
        self.urls: dict[str, str] = {}  # region -> of the edge to dial, once it listens

    def admits(self, node: str, secret: str) -> bool:
        """Whether a worker that dials in is one that we started."""
        known = self._secrets.get(node, "")
        same = secrets.compare_digest(known.encode(), secret.encode(errors="replace"))
        return same and known != ""

    async def start(self, node: Node) -> None:
        spec = self._spec_json(node.model, node.revision)
        asked_at = asyncio.get_running_loop().time()  # monotonic, for every process of this machine
        spec = json.dumps({**json.loads(spec), "asked_at": asked_at})
        secret = self._secrets[node.id] = self._sign(node.id)
        # One thread a worker: two cores serve many workers, and small transforms do not gain.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "understudy.worker", "--url", self.urls[node.region]),
            *("--node", node.id, "--region", node.region),
            stdin=PIPE,
            stdout=DEVNULL,
            env=environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
            start_new_session=True,
        )
        self._processes[node.id] = (node, process)
        assert process.stdin is not None
        # Secrets do not belong on a command line, which anyone on the machine can read.
        process.stdin.write(f"{secret}\n{spec}\n".encode())
        with contextlib.suppress(ConnectionError):  # it died at once; `nodes` will say so
            await process.stdin.drain()

    async def stop(self, node: str) -> None:
        self._secrets.pop(node, None)
        _, process = self._processes.get(node, (None, None))
        if process is None:
            return
        await self._end(process)
        self._processes.pop(node, None)

    async def _end(self, process: Process) -> None:
        if process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def nodes(self) -> Sequence[Node]:
        return [
            replace(node, exited=_exited(process.returncode))
            for node, process in self._processes.values()
        ]

    async def close(self) -> None:
        await asyncio.gather(*(self.stop(node) for node in list(self._processes)))


def _exited(code: int | None) -> str | None:
    if code is None:
        return None
    return f"killed by signal {-code}" if code < 0 else f"exited with status {code}"
