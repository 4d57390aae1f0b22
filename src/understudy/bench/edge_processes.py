"""What the kernel says of processes and cores: Linux only, elsewhere next to nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LINUX: Final = sys.platform == "linux"


def busy_s(cores: Sequence[int]) -> float | None:
    """CPU time that all programs used on these cores since the machine started."""
    if not LINUX:
        return None
    mine = {f"cpu{core}" for core in cores}
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in mine:
            user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
            total += user + nice + system + irq + softirq
    return total / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    """CPU time of this process and of all its descendants that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def cpu_s(pid: int) -> float:
    """CPU time that a process has used; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that `pid` started (Linux; elsewhere none are known)."""
    return [
        int(child)
        for listed in Path(f"/proc/{pid}/task").glob("*/children")
        for child in listed.read_text().split()
    ]
