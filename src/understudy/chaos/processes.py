"""The processes of a fleet on this machine, and what may be done to them from outside."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from understudy.config import REGIONS_FILE
from understudy.core.errors import UnderstudyError

PROC: Final = Path("/proc")
WORKER: Final = "understudy.worker"
ESTABLISHED: Final = "01"  # in /proc/net/tcp
PIDFD_GETFD: Final = 438  # of Linux, whatever the processor


class NoChaos(UnderstudyError):
    """It will not, or cannot, be done here."""

    code = "no_chaos"


def workers(nodes: Collection[str]) -> dict[str, int]:
    """The worker processes of this machine: node -> process id, of the given nodes."""
    found = {}
    for pid, words in _command_lines():
        if WORKER in words and "--node" in words[:-1]:
            node = words[words.index("--node") + 1]
            if node in nodes:
                found[node] = pid
    return found


def _command_lines() -> list[tuple[int, list[str]]]:
    lines = []
    if (PROC / "self" / "cmdline").exists():
        for folder in PROC.iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):  # it has just ended, or is not ours to read
                    raw = (folder / "cmdline").read_bytes()
                    lines.append((int(folder.name), raw.decode(errors="replace").split("\0")))
        return lines
    for pid, words in _ps("args"):
        lines.append((pid, words.split()))
    return lines


def _ps(column: str) -> list[tuple[int, str]]:
    """Where there is no /proc (macOS)."""
    command = ["ps", "-axww", "-o", f"pid=,{column}="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    split = (line.strip().partition(" ") for line in listed.splitlines())
    return [(int(pid), words.strip()) for pid, _, words in split]


def parents() -> dict[int, int]:
    """Of every process."""
    if not (PROC / "self" / "stat").exists():
        return {pid: int(parent) for pid, parent in _ps("ppid")}
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = int(fields[1])
    return found


def descendants(pid: int) -> list[int]:
    """Of a process, itself first."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def name(pid: int) -> str:
    """Of its program; empty where it is gone."""
    try:
        if PROC.joinpath("self", "comm").exists():
            return (PROC / str(pid) / "comm").read_text().strip()
        return dict(_ps("comm")).get(pid, "")
    except OSError:
        return ""


def send(number: signal.Signals, pids: Iterable[int]) -> list[int]:
    """To those that are there; which that were. Raises NoChaos."""
    hit = []
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            raise NoChaos(f"process {pid} is another user's; run this as that user") from None
        hit.append(pid)
    return hit


# regions of a world


def regions(data: Path) -> dict[str, dict[str, Any]]:
    """What `understudy up --regions` says of itself: region -> url and pids. Raises NoChaos."""
    try:
        found: dict[str, dict[str, Any]] = json.loads((data / REGIONS_FILE).read_text())
    except (OSError, ValueError):
        raise NoChaos(
            f"no regions run in {data}: start some with `understudy up --regions A,B,C`, and pass "
            "the same --data here"
        ) from None
    return found


def region_pids(data: Path, region: str) -> list[int]:
    """All of a region's: its edge, its machine, the workers there. Raises NoChaos."""
    found = regions(data)
    if region not in found:
        raise NoChaos(f"there is no region {region!r}; there are {', '.join(found)}")
    return [one for pid in found[region]["pids"] for one in descendants(pid)]


# links


def cut_links(pid: int) -> int:
    """Ends every TCP connection of a process, as if its network had; how many. Raises NoChaos.

    Linux lends us a copy of another process's socket, which can be shut down for both.
    """
    if sys.platform != "linux":
        raise NoChaos("links can be cut on Linux only; `kill` and `freeze` work here")
    libc = ctypes.CDLL(None, use_errno=True)
    count = 0
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        for number in _tcp_sockets(pid):
            copy = libc.syscall(PIDFD_GETFD, process, number, 0)
            if copy < 0 and ctypes.get_errno() == 1:
                raise NoChaos(
                    "this system lets nobody touch another process's sockets: run this as root, or "
                    "allow it with `sysctl kernel.yama.ptrace_scope=0`"
                )
            if copy < 0:
                continue  # closed a moment ago
            with socket.socket(fileno=copy) as sock, contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
                count += 1
    finally:
        os.close(process)
    return count


def _tcp_sockets(pid: int) -> Iterator[int]:
    """The descriptors of its connections."""
    connected = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == ESTABLISHED:
                    connected.add(f"socket:[{fields[9]}]")
    with contextlib.suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()) in connected:
                    yield int(entry.name)
