"""How a process finds the code of a bundle."""

from __future__ import annotations

import sys
from pathlib import Path


def add_path(path: str | Path) -> None:
    """Puts a bundle's folder first on sys.path: its `model.py` is then the module `model`."""
    sys.path.insert(0, str(Path(path).resolve()))


def remove_path(path: str | Path) -> None:
    """Undoes `add_path`, where one process loads several bundles."""
    sys.path.remove(str(Path(path).resolve()))
