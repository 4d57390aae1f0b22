"""Workers as subprocesses of this process.

A worker holds its end of a pipe from us: when we die, however we die, it reads the end of the file
and leaves. It runs in a session of its own, so that Ctrl-C reaches us alone and children are
stopped in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from understudy.core.fleet import Node
from understudy.environment import environment

STOP_S: Final = 3.0  # between asking a worker to leave and killing it


class Subprocesses:
    """Starts workers and ends them."""

    def __init__(self) -> None:
        self._processes: dict[str, tuple[Node, Process]] = {}

    async def start(
        self, node: Node, spec: str, secret: str, urls: Sequence[str], **environ: str
    ) -> None:
        """`spec`: what it is to load, as JSON; `urls`: of links to dial; `environ`: to be set."""
        asked_at = asyncio.get_running_loop().time()  # monotonic, for every process of this machine
        spec = json.dumps({**json.loads(spec), "asked_at": asked_at})
        dial = [word for url in urls for word in ("--url", url)]
        # One thread a worker: two cores serve many workers, and small transforms do not gain.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "understudy.worker", *dial),
            *("--node", node.id, "--region", node.region),
            stdin=PIPE,
            stdout=DEVNULL,
            env=environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", **environ),
            start_new_session=True,
        )
        self._processes[node.id] = (node, process)
        assert process.stdin is not None
        # Secrets do not belong on a command line, which anyone on the machine can read.
        process.stdin.write(f"{secret}\n{spec}\n".encode())
        with contextlib.suppress(ConnectionError):  # it died at once; `nodes` will say so
            await process.stdin.drain()

    async def stop(self, node: str) -> None:
        """Idempotent; waits until it is gone."""
        _, process = self._processes.get(node, (None, None))
        if process is None:
            return
        await _end(process)
        self._processes.pop(node, None)

    def nodes(self) -> list[Node]:
        """All that were started and not stopped, those that exited by themselves included."""
        return [
            replace(node, exited=_exited(process.returncode))
            for node, process in self._processes.values()
        ]

    async def close(self) -> None:
        await asyncio.gather(*(self.stop(node) for node in list(self._processes)))


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _exited(code: int | None) -> str | None:
    if code is None:
        return None
    return f"killed by signal {-code}" if code < 0 else f"exited with status {code}"
