"""A provider's library in a process of its own, which its provider talks to.

Libraries that lend machines are heavy: they take the interpreter for seconds, install handlers of
signals, want versions that are not ours, and some end their process when they lose their cluster.
Where a controller shares its process with an edge, audio must not notice any of that.

Both ends write lines of JSON: {"id", "op", "args"} down, {"id", "result"} or {"id", "error",
"kind"} back. The child reads its end of file and leaves when we die, however we die.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from understudy.core.errors import ConfigError, NoCapacity, ProviderFailed

log = logging.getLogger(__name__)

LINE_BYTES: Final = 16 * 1024 * 1024
STOP_S: Final = 5.0  # between asking it to leave and killing it

_ERRORS: Final = {"no_capacity": NoCapacity, "bad_config": ConfigError}
_HERE: Final = Path(__file__).parent.parent
# Another Python may have none of our packages, and must not get them beside its own: this shows
# it our modules alone.
_START: Final = (
    "import runpy, sys, types; ours = types.ModuleType('understudy'); "
    "ours.__path__ = [sys.argv.pop(1)]; sys.modules['understudy'] = ours; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


class Driver:
    """The child, started when it is first needed, and again if it was lost."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`module`: what it runs, which calls `driver_child.serve`."""
        self._command = (python, "-c", _START, str(_HERE), module, *arguments)
        self._environment = {**os.environ, **(environment or {})}
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._calls = 0

    async def call(self, op: str, *args: Any, timeout_s: float) -> Any:
        """Raises NoCapacity or ConfigError as the child does, ProviderFailed for all else."""
        try:
            process = await self._running()
        except OSError as error:
            raise ConfigError(f"{self._command[0]} cannot be run: {error.strerror}") from None
        assert process.stdin is not None
        self._calls += 1
        number = self._calls
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            line = json.dumps({"id": number, "op": op, "args": args})
            process.stdin.write(f"{line}\n".encode())
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            raise ProviderFailed(f"{op} was not answered within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def _running(self) -> Process:
        async with self._starting:
            if self._process is None:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=PIPE,
                    stdout=PIPE,
                    cwd="/",
                    env=self._environment,
                    start_new_session=True,
                    limit=LINE_BYTES,
                )
                self._reading = asyncio.create_task(self._read(self._process))
            return self._process

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                message = json.loads(line)
                waiting = self._waiting.get(message["id"])
                if waiting is None or waiting.done():  # nobody waits any more
                    continue
                if "error" in message:
                    kind = _ERRORS.get(message["kind"], ProviderFailed)
                    waiting.set_exception(kind(message["error"]))
                else:
                    waiting.set_result(message["result"])
        except (OSError, ValueError):
            log.exception("what a provider's process says cannot be read")
        finally:
            if self._process is process:
                self._process = None
            waiting_now, self._waiting = self._waiting, {}
            for waiting in waiting_now.values():
                if not waiting.done():
                    waiting.set_exception(ProviderFailed("its process ended; it is started again"))
            await _end(process)

    async def close(self) -> None:
        """Ends the child; what it rented stays."""
        process, reading = self._process, self._reading
        if process is None or reading is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        await _end(process)
        await reading


async def _end(process: Process) -> None:
    """Waits for a child that has been told to leave, or can no longer be told anything."""
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
