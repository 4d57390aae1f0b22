"""The understudy on the page, and the fleet page, in a real browser on a real fleet."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.fleet.test_moves import CONFIG
from understudy.bench.browser import Server, serving

from .page import PATIENCE_MS, Stage


@pytest.fixture(scope="module")
def heavy() -> Iterator[Server]:
    with serving(CONFIG.format(load_s=4.0, max_nodes=2)) as running:
        yield running


def open_fleet(browser: Browser, server: Server, complaints: list[str]) -> Page:
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.goto(server.url.rstrip("/") + "/fleet")
    return page


def test_the_understudy_is_shown_and_the_lead_takes_over_while_the_fleet_page_watches(
    browser: Browser, heavy: Server
) -> None:
    complaints: list[str] = []
    fleet = open_fleet(browser, heavy, complaints)
    expect(fleet.get_by_text("Nobody is live.")).to_be_visible()
    expect(fleet.get_by_text("pitch", exact=True).first).to_be_visible()  # always on
    stage = Stage.open(browser, heavy.url)
    stage.pick("star")
    stage.start()
    stage.expect_state("Live: the understudy performs")
    expect(stage.page.get_by_text("star is loading on a GPU")).to_be_visible()
    bar = stage.page.get_by_role("progressbar")
    expect(bar).to_be_visible()
    expect(fleet.get_by_text("heavy", exact=True).first).to_be_visible()
    expect(fleet.locator("#sessions")).to_contain_text("understudy")
    stage.expect_state("Live: star performs")
    stage.expect_state("Live")  # the cue is brief
    expect(bar).to_be_hidden()
    expect(fleet.locator("#sessions")).to_contain_text("lead")
    expect(fleet.locator("#moves")).to_contain_text("lead ready")
    expect(fleet.locator("#figures")).to_contain_text("$1.00 / h")
    stage.expect_time_used(6)
    expect(stage.page.locator("#minutes")).to_contain_text("understudy 0:0")
    stage.stop()
    expect(fleet.get_by_text("Nobody is live.")).to_be_visible()
    assert stage.complaints == complaints == []
    stage.close()
    fleet.context.close()


def test_the_two_pages_link_to_each_other(browser: Browser, heavy: Server) -> None:
    fleet = open_fleet(browser, heavy, [])
    fleet.get_by_role("link", name="Voice changer").click()
    expect(fleet.get_by_role("button", name="Start", exact=True)).to_be_visible()
    fleet.get_by_role("link", name="Fleet").click()
    expect(fleet.get_by_role("heading", name="Fleet")).to_be_visible()
    fleet.context.close()
