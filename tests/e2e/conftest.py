"""A real server and a real browser for the page's end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from playwright.sync_api import Browser, Playwright, sync_playwright

from understudy.bench.browser import (
    MIC_RATE,
    Server,
    fake_microphone,
    find_chromium,
    launch,
    serving,
)
from understudy.bench.recordings import load

from .page import Stage

SHARED_AUDIO = Path(__file__).parents[3] / "shared" / "audio"


# Module scope, not session: Playwright's loop must be gone before the next asyncio test.
@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        try:
            find_chromium(running)
        except FileNotFoundError as missing:
            pytest.fail(str(missing))
        yield running


@pytest.fixture(scope="session")
def speech_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded speech where there is some, else made-up speech."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    audio = SHARED_AUDIO if SHARED_AUDIO.is_dir() else None
    soundfile.write(path, load(audio, MIC_RATE, 12.0), MIC_RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser(playwright: Playwright, speech_wav: Path) -> Iterator[Browser]:
    running = launch(playwright, *fake_microphone(speech_wav))
    yield running
    running.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Shared by the tests that leave it as it was."""
    with serving() as running:
        yield running


@pytest.fixture
def stage(browser: Browser, server: Server) -> Iterator[Stage]:
    """The page, opened; nothing may have gone to its console at the end."""
    opened = Stage.open(browser, server.url)
    yield opened
    opened.close()
    assert opened.complaints == []
