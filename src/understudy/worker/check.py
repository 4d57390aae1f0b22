"""Tries a model in a process of its own: `python -m understudy.worker.check --path BUNDLE_DIR`.

Standard input: a JSON object of engine, slots, options, params and device. Standard output: one
line of JSON, {"ok": true, "card": …, …} or {"ok": false, "reason": "…"}; what the model itself
prints goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import json
import os
import re
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from understudy.core.errors import ModelFailed
from understudy.core.wire import Card, Spread
from understudy.environment import environment
from understudy.worker.bundle_path import add_path
from understudy.worker.declared import Refused, located
from understudy.worker.trial import try_out

LINE_BYTES: Final = 4 * 1024 * 1024
_FAULTS: Final = "faults"  # in the scratch folder: where each thread was at a crash

# One thread, as in a worker; and no __pycache__ in somebody's folder.
_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """A model that may serve. `step_ms`: of one step of about 20 ms with all slots busy;
    `realtime_factor`: seconds of work for one second of audio, all slots together."""

    card: Card
    load_s: float
    warnings: tuple[str, ...]
    step_ms: Spread
    realtime_factor: float


async def check(spec: Mapping[str, Any], path: Path | None, timeout_s: float = 120.0) -> Checked:
    """Tries a model in a subprocess. `path`: its bundle's folder, if it has one.

    spec: engine ("module:Class"), slots, and maybe kind, options, params, device ("cpu").
    Raises ModelFailed with what to do, if it may not serve, crashes or takes longer.
    """
    with tempfile.TemporaryDirectory(prefix="understudy-check-") as scratch:
        process = await asyncio.create_subprocess_exec(
            *_command(scratch, path),
            stdin=PIPE,
            stdout=PIPE,
            env=environment(**_ENVIRONMENT),
            start_new_session=True,
            limit=LINE_BYTES,
        )
        try:
            line = await asyncio.wait_for(_answer(process, spec), timeout_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGABRT)  # it says where it is, and dies
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1.0)
            raise ModelFailed(
                f"the check was not over after {timeout_s:g} s{_place(scratch, path)}; make load() "
                "or step faster, or check with fewer slots"
            ) from None
        finally:
            await _end(process)
        if not line.endswith(b"\n"):
            raise ModelFailed(_died(process.returncode or 0, _place(scratch, path)))
    result = json.loads(line)
    if not result["ok"]:
        raise ModelFailed(result["reason"])
    return Checked(
        card=Card.parse(result["card"]),
        load_s=result["load_s"],
        warnings=tuple(result["warnings"]),
        step_ms=Spread(**result["step_ms"]),
        realtime_factor=result["realtime_factor"],
    )


def _command(scratch: str, path: Path | None) -> list[str]:
    own = [sys.executable, "-P", "-m", "understudy.worker.check", "--scratch", scratch]
    return [*own, "--path", str(path.resolve())] if path else own


async def _answer(process: Process, spec: Mapping[str, Any]) -> bytes:
    """The line that the process says; less, if it dies first."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(dict(spec)).encode())
    with contextlib.suppress(ConnectionError):
        await process.stdin.drain()
    process.stdin.close()
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        await process.wait()
    return line


async def _end(process: Process) -> None:
    """Kills it with all that it started: threads and children of a model may linger."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):  # a grandchild that left the group holds our pipe
        await asyncio.wait_for(process.wait(), 5.0)


def _died(code: int, place: str) -> str:
    if code >= 0:
        return (
            f"the model ended the process with status {code}{place}; a model must not exit, but "
            "raise an exception that says why"
        )
    name = signal.Signals(-code).name
    return (
        f"the model's process was killed by {name}{place}, out of memory or by a crash in native "
        "code: try fewer slots, a machine with more memory, or its libraries one by one"
    )


def _place(scratch: str, path: Path | None) -> str:
    """ ", in model.py:12", if the process told where in the bundle it was."""
    with contextlib.suppress(OSError):
        faults = (Path(scratch) / _FAULTS).read_text(errors="replace")
        root = re.escape(f"{path.resolve()}{os.sep}") if path else "(?!)"
        if found := re.search(rf'File "{root}(.+?)", line (\d+)', faults):
            return f", in {found[1]}:{found[2]}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="understudy-check", description=__doc__)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--scratch", type=Path)
    arguments = parser.parse_args()
    # Whatever the model prints, be it from C, must not get into the answer.
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        spec = json.load(sys.stdin)
        path = None
        if arguments.path is not None:
            path = arguments.path.resolve()
            add_path(path)
        faults = None
        if arguments.scratch is not None:
            os.chdir(arguments.scratch)  # a worker does not run in the bundle's folder either
            faults = Path(_FAULTS).open("w")  # noqa: SIM115
            faulthandler.enable(faults)
        result: dict[str, Any]
        try:
            with located("the model", path):
                result = {"ok": True, **try_out(spec, path)}
        except Refused as error:
            result = {"ok": False, "reason": str(error)}
        answer.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
