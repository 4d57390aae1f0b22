"""A real `understudy up` in a process of its own, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil

from understudy.bench import server

SMALL = """
[models.mirror]
engine = "understudy.models.mirror:MirrorModel"
slots = {slots}
workers = 1

[voices.mirror]
model = "mirror"
"""


class Server(server.Server):
    """Started by the constructor."""

    def __init__(
        self,
        data: Path,
        port: int = 0,
        config: str | None = None,
        options: Sequence[str] = (),
        **env: str,
    ) -> None:
        super().__init__(data, port, config, options, **env)
        self.start()

    def workers(self, model: str = "") -> list[psutil.Process]:
        """The worker processes; `model` picks by name."""
        workers = []
        for child in psutil.Process(self.process.pid).children():
            words = child.cmdline()
            if "--node" not in words:  # a model is being tried
                continue
            node = words[words.index("--node") + 1]
            if f"node {node} starts for {model}" in self.log:
                workers.append(child)
        return workers
