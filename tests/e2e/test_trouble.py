"""What goes wrong, and that the page says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, expect

from understudy.bench.browser import Server, launch, serving

from .page import PATIENCE_MS, Stage

ONE_SLOT = """
[models.mirror]
engine = "understudy.models.mirror:MirrorModel"
slots = 1
workers = 1

[voices.mirror]
title = "Mirror"
model = "mirror"
"""


@pytest.fixture
def own_server() -> Iterator[Server]:
    """For the tests that break it."""
    with serving(ONE_SLOT) as running:
        yield running


def test_microphone_denied(playwright: Playwright, server: Server) -> None:
    browser = launch(playwright, "--use-fake-device-for-media-stream", "--deny-permission-prompts")
    stage = Stage.open(browser, server.url)
    stage.start()
    stage.expect_state("The microphone is blocked")
    expect(stage.page.get_by_text("Allow it in the address bar")).to_be_visible()
    expect(stage.button("Start")).to_be_enabled()
    browser.close()


def test_no_microphone(stage: Stage) -> None:
    # Chromium's fake device cannot be counted down to none, and this machine may have a real one.
    stage.page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = () =>
            Promise.reject(new DOMException("Requested device not found", "NotFoundError"));
        }"""
    )
    stage.start()
    stage.expect_state("No microphone")
    expect(stage.page.get_by_text("Plug one in")).to_be_visible()


def test_server_killed_and_back(browser: Browser, own_server: Server) -> None:
    stage = Stage.open(browser, own_server.url)
    stage.start()
    stage.expect_state("Live")
    stage.expect_time_used(1)
    own_server.kill()
    stage.expect_state("Reconnecting")
    own_server.start()
    stage.expect_state("Live")
    stage.stop()
    stage.close()


def test_server_gone_before_start(browser: Browser, own_server: Server) -> None:
    stage = Stage.open(browser, own_server.url)
    own_server.kill()
    stage.start()
    stage.expect_state("The server does not answer")
    expect(stage.page.get_by_text("See that it is running")).to_be_visible()
    stage.close()


def test_taken_over_by_a_second_tab(stage: Stage) -> None:
    stage.start()
    stage.expect_state("Live")
    second = Stage.in_context(stage.context)
    second.goto(stage.page.url)
    second.start()
    dialog = second.page.get_by_role("dialog", name="You are live somewhere else")
    expect(dialog).to_be_visible(timeout=PATIENCE_MS)
    dialog.get_by_role("button", name="Leave it there").click()
    second.expect_state("Live somewhere else")
    stage.expect_state("Live")

    second.start()
    dialog.get_by_role("button", name="Move it here").click()
    second.expect_state("Live")
    stage.expect_state("Ended: taken over")
    second.stop()
    assert second.complaints == []


def test_queued_until_a_slot_is_free(browser: Browser, own_server: Server) -> None:
    first = Stage.open(browser, own_server.url)
    first.start()
    first.expect_state("Live")
    second = Stage.open(browser, own_server.url)
    second.start()
    second.expect_state("Queued: 1st")
    first.stop()
    second.expect_state("Live")
    second.stop()
    first.close()
    second.close()


def test_voice_gone_since_the_page_was_loaded(browser: Browser, own_server: Server) -> None:
    stage = Stage.open(browser, own_server.url)
    config = own_server.data / "understudy.toml"
    config.write_text(config.read_text().replace("[voices.mirror]", "[voices.glass]"))
    stage.page.wait_for_function(
        "async () => !(await (await fetch('v1/voices')).text()).includes('\"mirror\"')"
    )
    stage.start()
    stage.expect_state("No such voice")
    expect(stage.page.get_by_text("Pick another one from the list")).to_be_visible()
    stage.close()


def test_every_refusal_of_the_sdk_is_typed(stage: Stage) -> None:
    code = stage.page.evaluate(
        """async () => {
          const {connect} = await import(new URL("understudy.js", location.href).href);
          const session = connect({voice: "nobody", user: "alice"});
          return await new Promise((resolve) => session.on("state", ({state}) => {
            if (state.name === "ended") resolve(state.error.code);
          }));
        }"""
    )
    assert code == "unknown_voice"


def test_howling_switches_hear_myself_off(
    playwright: Playwright, server: Server, tmp_path: Path
) -> None:
    import numpy as np
    import soundfile

    from understudy.bench.browser import fake_microphone

    tone = 0.5 * np.sin(2 * np.pi * 1240 * np.arange(48_000 * 4) / 48_000)
    soundfile.write(tmp_path / "howl.wav", tone, 48_000, subtype="PCM_16")
    browser = launch(playwright, *fake_microphone(tmp_path / "howl.wav"))
    stage = Stage.open(browser, server.url)
    stage.start()
    stage.expect_state("Live")
    switch = stage.page.get_by_role("switch", name="Hear myself")
    switch.click()  # not check(): it may be switched off again at once
    expect(stage.page.get_by_role("alert")).to_contain_text(
        re.compile("howl.*switched off"), timeout=PATIENCE_MS
    )
    expect(switch).not_to_be_checked()
    browser.close()
