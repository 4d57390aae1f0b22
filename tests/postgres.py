"""The PostgreSQL server of all tests of this process."""

from __future__ import annotations

import atexit
import functools

import psutil

from understudy.bench.postgres import Postgres


class ForTests(Postgres):
    """Its processes can be held up and let go."""

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)


@functools.cache
def postgres() -> ForTests:
    server = ForTests()
    atexit.register(server.remove)
    return server
