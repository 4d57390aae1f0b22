"""Takes the README's pictures: `python -m tests.e2e.screenshots`; with a folder, every state."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
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
from understudy.bench.recordings import load, load_pcm
from understudy.client import Client

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


def understudy_picture(browser: Browser, server: Server) -> None:
    with shown(browser, server, color_scheme="dark", **LAPTOP) as stage:
        stage.pick("Teto")
        stage.start()
        stage.expect_state("Live: the understudy performs")
        stage.page.wait_for_timeout(6000)
        stage.page.mouse.move(0, 0)
        stage.page.screenshot(path=IMAGES / "understudy.png")


async def talk(url: str, voice: str, user: str, after_s: float, seconds: float) -> None:
    await asyncio.sleep(after_s)
    pcm = load_pcm(None, 24_000, seconds, first=len(user)).tobytes()
    async with Client(url).stream(voice, user) as stream:

        async def speak() -> None:
            for at in range(0, len(pcm), 4800):
                await stream.send(pcm[at : at + 4800])
                await asyncio.sleep(0.1)
            await stream.stop()

        speaking = asyncio.create_task(speak())
        async for _ in stream:
            pass
        await speaking


def fleet_picture(browser: Browser, server: Server) -> None:
    """Fourteen users come within half a minute, some leave, and the fleet follows."""
    names = [
        "ada",
        "ben",
        "cho",
        "dan",
        "eve",
        "fay",
        "gus",
        "hal",
        "ida",
        "jon",
        "kim",
        "leo",
        "mia",
        "ned",
    ]
    voices = ["miku", "teto", "miku", "miku", "teto", "miku-dev", "miku"] * 2

    async def crowd() -> None:
        calls = [
            talk(server.url, voice, name, 2.0 * k, 18.0 if k % 3 == 1 else 60.0)
            for k, (name, voice) in enumerate(zip(names, voices, strict=True))
        ]
        await asyncio.gather(*calls)

    thread = threading.Thread(target=asyncio.run, args=(crowd(),), daemon=True)
    thread.start()
    for name, look in (("fleet", LAPTOP | {"viewport": {"width": 1280, "height": 1000}}),):
        context = browser.new_context(color_scheme="dark", **look)
        page = context.new_page()
        page.goto(server.url.rstrip("/") + "/fleet")
        page.wait_for_timeout(32_500)
        page.screenshot(path=IMAGES / f"{name}.png")
        context.close()
    thread.join()


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
            understudy_picture(browser, server)
            fleet_picture(browser, server)
        browser.close()


if __name__ == "__main__":
    main()
