"""Takes the README's pictures: `python -m tests.e2e.screenshots`; with a folder, every state."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile
from playwright.sync_api import Browser, Playwright, sync_playwright

from tests.e2e.page import Stage
from tests.e2e.test_trouble import ONE_SLOT
from understudy.bench.browser import (
    MIC_RATE,
    Server,
    fake_microphone,
    launch,
    serving,
)
from understudy.bench.recordings import load

IMAGES = Path(__file__).parents[2] / "docs" / "images"
LAPTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 860}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
# A microphone that is never allowed nor denied: what one sees while the browser asks.
ASKING = "() => { navigator.mediaDevices.getUserMedia = () => new Promise(() => {}); }"


@contextmanager
def shown(browser: Browser, server: Server, **context: Any) -> Iterator[Stage]:
    stage = Stage.open(browser, server.url, **context)
    yield stage
    stage.close()


def go_live(stage: Stage, voice: str = "Chipmunk", seconds: int = 6) -> None:
    stage.pick(voice)
    stage.start()
    stage.expect_state("Live")
    stage.expect_time_used(seconds)


def readme_pictures(browser: Browser, server: Server) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with shown(browser, server, color_scheme="dark", **LAPTOP) as stage:
        go_live(stage, seconds=9)
        stage.open_latency()
        stage.page.wait_for_timeout(1500)
        stage.page.mouse.move(0, 0)
        stage.page.screenshot(path=IMAGES / "page.png")
    phone = PHONE | {"device_scale_factor": 1.5}
    with shown(browser, server, color_scheme="light", **phone) as stage:
        go_live(stage, seconds=9)
        stage.page.screenshot(path=IMAGES / "page-phone.png")


def states(browser: Browser, server: Server, folder: Path, name: str, look: dict[str, Any]) -> None:
    def take(stage: Stage, state: str, *, full: bool = False) -> None:
        stage.page.screenshot(path=folder / f"{name}-{state}.png", full_page=full)

    with shown(browser, server, **look) as stage:
        take(stage, "idle")
        stage.page.evaluate(ASKING)
        stage.start()
        stage.expect_state("Waiting for the microphone")
        take(stage, "prompt")
    with shown(browser, server, **look) as stage:
        go_live(stage)
        take(stage, "live")
        stage.open_latency()
        stage.page.get_by_role("switch", name="Hear myself").check()
        stage.record_for(2)
        stage.page.get_by_role("button", name="Record").click()
        stage.page.wait_for_timeout(1500)
        take(stage, "recording", full=True)
        second = Stage.in_context(stage.context)
        second.goto(server.url)
        second.start()
        second.page.get_by_role("dialog").wait_for()
        second.page.wait_for_timeout(300)
        take(second, "already-live")
        second.button("Move it here").click()
        second.expect_state("Live")
        stage.expect_state("Ended: taken over")
        take(stage, "taken-over")


def broken_states(
    browser: Browser, denied: Browser, folder: Path, name: str, look: dict[str, Any]
) -> None:
    with serving(ONE_SLOT) as server:
        with shown(denied, server, **look) as stage:
            stage.start()
            stage.expect_state("The microphone is blocked")
            stage.page.screenshot(path=folder / f"{name}-denied.png")
        with shown(browser, server, **look) as first, shown(browser, server, **look) as second:
            go_live(first, "Mirror", 3)
            second.start()
            second.expect_state("Queued: 1st")
            second.page.screenshot(path=folder / f"{name}-queued.png")
            server.kill()
            first.expect_state("Reconnecting")
            first.page.screenshot(path=folder / f"{name}-reconnecting.png")
        server.start()
        with shown(browser, server, **look) as stage:
            server.kill()
            stage.start()
            stage.expect_state("The server does not answer")
            stage.page.screenshot(path=folder / f"{name}-unreachable.png")


def every_state(playwright: Playwright, browser: Browser, server: Server, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    denied = launch(playwright, "--use-fake-device-for-media-stream", "--deny-permission-prompts")
    for name, look in (
        ("laptop-dark", LAPTOP | {"color_scheme": "dark"}),
        ("laptop-light", LAPTOP | {"color_scheme": "light"}),
        ("phone-dark", PHONE | {"color_scheme": "dark"}),
        ("phone-light", PHONE | {"color_scheme": "light"}),
    ):
        states(browser, server, folder, name, look)
        broken_states(browser, denied, folder, name, look)
    denied.close()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as scratch,
        serving() as server,
        sync_playwright() as playwright,
    ):
        wav = Path(scratch) / "speech.wav"
        soundfile.write(wav, load(None, MIC_RATE, 12.0), MIC_RATE, subtype="PCM_16")
        browser = launch(playwright, *fake_microphone(wav))
        if len(sys.argv) > 1:
            every_state(playwright, browser, server, Path(sys.argv[1]))
        else:
            readme_pictures(browser, server)
        browser.close()


if __name__ == "__main__":
    main()
