"""The fleet page where users are hidden, and where they have names that would be code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.fleet.raw import Raw
from tests.server import Server
from understudy.tokens import Keys

from .page import PATIENCE_MS
from .test_fleet import open_fleet

SECRET, ADMIN = "s" * 40, "a" * 40
CODE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
CONFIG = f"""
[models.mirror]
engine = "understudy.models.mirror:MirrorModel"
slots = 4
workers = 1

[voices.mirror]
model = "mirror"
title = '{CODE}'
"""


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"UNDERSTUDY_SECRET": SECRET, "UNDERSTUDY_ADMIN_KEY": ADMIN}
    server = Server(tmp_path_factory.mktemp("private"), 0, CONFIG, **env)
    yield server
    server.stop()


def test_the_admin_key_is_asked_for_once_and_names_stay_names(
    browser: Browser, private: Server, tmp_path: Path
) -> None:
    keys = Keys.read({"UNDERSTUDY_SECRET": SECRET})
    with Raw(private.port) as peer:
        peer.start(CODE, token=keys.user_token(CODE, 4e9))
        peer.event("live")
        complaints: list[str] = []
        page = open_fleet(browser, private, complaints)
        dialog = page.get_by_role("dialog", name="Who is asking?")
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Go on without").click()
        expect(dialog).to_be_hidden()
        expect(page.get_by_text("Nobody is live.")).to_be_visible()
        page.get_by_role("button", name="Admin key").click()
        dialog.get_by_label("Admin key").fill("a guess")
        dialog.get_by_role("button", name="Show them").click()
        expect(dialog.get_by_role("alert")).to_contain_text("not the admin key")
        assert page.evaluate("sessionStorage.length") == 0
        dialog.get_by_label("Admin key").fill(ADMIN)
        page.keyboard.press("Enter")  # "Show them" is what Enter means
        expect(page.locator("#sessions")).to_contain_text(CODE, timeout=PATIENCE_MS)
        expect(page.get_by_role("button", name="Admin key")).to_be_hidden()
        page.locator(".seat[data-session]").first.hover()
        expect(page.get_by_role("tooltip")).to_contain_text("<img")
        page.reload()  # it is not asked for again
        expect(page.locator("#sessions")).to_contain_text(CODE, timeout=PATIENCE_MS)
        expect(dialog).to_be_hidden()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
        # The browser itself tells of the one answer that was 401.
        assert [text for text in complaints if "401" not in text] == []
        page.context.close()


def test_a_voices_title_is_only_a_title(browser: Browser, private: Server) -> None:
    page = browser.new_context().new_page()
    page.goto(private.url)
    expect(page.get_by_role("radio").first).to_be_attached(timeout=PATIENCE_MS)
    expect(page.locator("#voices")).to_contain_text("<script>")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    page.context.close()
