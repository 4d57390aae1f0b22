"""A real `understudy up` in a process of its own, for tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

SMALL = """
[models.mirror]
engine = "understudy.models.mirror:MirrorModel"
slots = {slots}
workers = 1

[voices.mirror]
model = "mirror"
"""


class Server:
    """Started by the constructor; `url` is known once it listens."""

    def __init__(self, data: Path, port: int = 0, config: str | None = None, **env: str) -> None:
        data.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (data / "understudy.toml").write_text(config)
        self.config = data / "understudy.toml"
        self.data = data
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "understudy", "up", "--port", str(port), "--data", str(data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **env},
        )
        threading.Thread(target=self._read, daemon=True).start()
        line = self.wait_for(r"listening on http://127.0.0.1:\d+")
        self.url = line.rsplit(" ", 1)[-1].strip()
        self.port = int(self.url.rsplit(":", 1)[-1])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append("(the server has ended)\n")
            self._news.notify_all()

    def wait_for(self, pattern: str, seconds: float = 60, after: int = 0) -> str:
        """The first line of the server's output, from line `after` on, that matches."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.lines[after:] if re.search(pattern, line)]
            return bool(found) or "has ended" in (self.lines[-1:] or [""])[0]

        with self._news:
            self._news.wait_for(look, seconds)
        assert found, f"the server never said {pattern!r}:\n{self.log}"
        return found[0]

    @property
    def log(self) -> str:
        return "".join(self.lines)

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

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the server does not stop:\n{self.log}") from None
