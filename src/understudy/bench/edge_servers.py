"""The processes of the edge benchmark: started on their cores, and stopped whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from understudy.bench.edge_processes import LINUX, busy_s, children, cpu_s
from understudy.bench.edge_streams import Target
from understudy.bench.machine import cores

STARTUP_S: Final = 60.0
STOP_S: Final = 5.0
OPEN_FILES: Final = 8192

CONFIG: Final = """\
[models.mirror]
engine = "understudy.bench.edge_echo:EchoModel"
slots = {slots}
workers = {workers}

[voices.mirror]
model = "mirror"
"""

NGINX: Final = """\
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
events {{ worker_connections {files}; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  tcp_nodelay on;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where; `apart` is False where that cannot be arranged, and nobody is pinned."""

    proxy: int
    generator: int
    workers: int
    apart: bool
    all: tuple[int, ...]

    @classmethod
    def plan(cls) -> Cores:
        """Echo workers get a core of their own where there are three, else the generator's."""
        have = cores()
        if not LINUX or len(have) < 2:
            return cls(have[0], have[0], have[0], apart=False, all=tuple(have))
        workers = have[2] if len(have) > 2 else have[1]
        return cls(have[0], have[1], workers, apart=True, all=tuple(have))

    def pin(self, core: int) -> None:
        """This process, and what it starts from now on."""
        if self.apart:
            os.sched_setaffinity(0, {core})


class Servers:
    """A context: all that it started is gone when it ends, by an exception or SIGTERM too."""

    def __init__(self) -> None:
        self.cores = Cores.plan()
        self._stack = contextlib.ExitStack()
        self._folder = Path()

    def __enter__(self) -> Servers:
        self._stack.enter_context(_unhindered(self.cores))
        folder = tempfile.TemporaryDirectory(prefix="understudy-bench-", ignore_cleanup_errors=True)
        self._folder = Path(self._stack.enter_context(folder))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def echo(self) -> Target:
        """A picows echo server where the workers run."""
        process = self._start(
            "echo", self.cores.workers, [sys.executable, "-m", "understudy.bench.edge_echo"]
        )
        assert process.stdout is not None
        port = int(process.stdout.readline() or self._fail("echo"))
        return Target(
            "direct",
            f"ws://127.0.0.1:{port}/",
            start=False,
            cpu_s=lambda: {"workers": cpu_s(process.pid), **self._machine()},
        )

    def nginx(self, upstream: Target) -> Target | None:
        """nginx in front of the echo server; None where it is not installed."""
        program = find_nginx()
        if program is None:
            return None
        port = free_port()
        conf = self._folder / "nginx.conf"
        upstream_port = upstream.url.rstrip("/").rpartition(":")[2]
        conf.write_text(
            NGINX.format(folder=self._folder, port=port, upstream=upstream_port, files=OPEN_FILES)
        )
        process = self._start(
            "nginx",
            self.cores.proxy,
            [program, "-p", str(self._folder), "-e", "nginx.log", "-c", str(conf)],
        )
        self._wait("nginx", process, lambda: _connects(port))
        return Target(
            "nginx",
            f"ws://127.0.0.1:{port}/",
            start=False,
            cpu_s=lambda: {"proxy": cpu_s(process.pid), **upstream.cpu_s()},
        )

    def edge(self, workers: int, slots: int) -> Target:
        """`understudy up`, its workers moved to their own core once they are ready."""
        data = self._folder / "data"
        data.mkdir()
        (data / "understudy.toml").write_text(CONFIG.format(slots=slots, workers=workers))
        command = [sys.executable, "-m", "understudy", "up", "--port", "0", "--data", str(data)]
        process = self._start("edge", self.cores.proxy, command)
        assert process.stdout is not None
        url = ""
        while "http://" not in url:
            url = process.stdout.readline() or self._fail("edge")
        url = url[url.index("http://") :].strip()

        def ready() -> bool:
            states = [worker["state"] for worker in status(url)["workers"]]
            return states.count("ready") == workers

        self._wait("edge", process, ready)
        echoes = children(process.pid)
        if self.cores.apart:
            for thread in (t for pid in echoes for t in Path(f"/proc/{pid}/task").iterdir()):
                os.sched_setaffinity(int(thread.name), {self.cores.workers})
        return Target(
            "edge",
            f"{url.replace('http', 'ws', 1)}/v1/stream",
            start=True,
            cpu_s=lambda: {
                "proxy": cpu_s(process.pid),
                "workers": sum(map(cpu_s, echoes)),
                **self._machine(),
            },
        )

    def _machine(self) -> dict[str, float]:
        busy = busy_s(self.cores.all)
        return {} if busy is None else {"machine": busy}

    def _start(self, name: str, core: int, command: Sequence[str]) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("UNDERSTUDY_")}
        with (self._folder / f"{name}.log").open("w") as log:
            self.cores.pin(core)
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for us: we stop it in order
                    preexec_fn=_end_with_parent if LINUX else None,
                )
            finally:
                self.cores.pin(self.cores.generator)
        self._stack.callback(_stop, process)
        return process

    def _wait(self, name: str, process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
        until = time.perf_counter() + STARTUP_S
        while not ready():
            if process.poll() is not None or time.perf_counter() > until:
                self._fail(name)
            time.sleep(0.05)

    def _fail(self, name: str) -> str:
        log = (self._folder / f"{name}.log").read_text()
        raise RuntimeError(f"{name} does not start: {log[-2000:] or 'it says nothing'}")


@contextlib.contextmanager
def _unhindered(plan: Cores) -> Iterator[None]:
    """Room for sockets, SIGTERM as an exception, the generator on its core; all undone after."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        room = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
    affinity = set(cores())
    try:
        plan.pin(plan.generator)
        yield
    finally:
        if plan.apart:
            os.sched_setaffinity(0, affinity)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        signal.signal(signal.SIGTERM, before)


_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if LINUX else None


def _end_with_parent() -> None:
    """Asks the kernel to end this child if we are killed outright."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def status(url: str) -> Mapping[str, Any]:
    with urllib.request.urlopen(f"{url}/v1/status", timeout=10) as answer:
        result: Mapping[str, Any] = json.load(answer)
    return result


def find_nginx() -> str | None:
    """Distributions put it where only root's PATH looks."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def nginx_version() -> str | None:
    program = find_nginx()
    if program is None:
        return None
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    return said.strip().rpartition("/")[2] or None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
