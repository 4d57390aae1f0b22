"""Fixtures that several folders of tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the shipped voices, one for all tests of a module."""
    server = Server(tmp_path_factory.mktemp("data"))
    yield server
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="session")
def recorded_speech() -> Path | None:
    """A folder of recorded speech, where this machine has one."""
    chosen = os.environ.get("UNDERSTUDY_AUDIO")
    folder = Path(chosen) if chosen else Path(__file__).parents[2] / "shared" / "audio"
    return folder if folder.is_dir() else None
