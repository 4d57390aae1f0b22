"""What a benchmark ran on, and where recorded speech may be found."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from understudy import __version__

CPUINFO: Final = Path("/proc/cpuinfo")
REPOSITORY: Final = Path(__file__).resolve().parents[3]  # of an editable install


def find_audio(chosen: Path | None) -> Path | None:
    """The folder of recorded speech, or None: none is at hand."""
    if chosen is not None:
        return chosen
    if named := os.environ.get("UNDERSTUDY_AUDIO"):
        return Path(named).expanduser()
    nearby = (root.parent / "shared" / "audio" for root in (Path.cwd(), REPOSITORY))
    return next((folder for folder in nearby if folder.is_dir()), None)


def stamp(name: str) -> dict[str, Any]:
    """What makes figures comparable: when, on what, and by which command they came about."""
    return {
        "bench": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "cpu": cpu_model(),
        "cores": len(cores()),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def cores() -> list[int]:
    """The cores that this process may use (their numbers mean nothing on macOS)."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_model() -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
