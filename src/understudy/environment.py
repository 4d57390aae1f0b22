"""The environment of processes that run a model's code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

# The server's keys, and what opens its database: no model's business.
_OURS: Final = ("UNDERSTUDY_", "PG")


def environment(**more: str) -> Mapping[str, str]:
    """What of this process's environment such a process inherits, and `more`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**inherited, **more}
