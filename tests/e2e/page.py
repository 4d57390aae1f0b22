"""The page under test, by what a person sees: roles and names, no CSS classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

PATIENCE_MS = 20_000


@dataclass(slots=True)
class Stage:
    page: Page
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, browser: Browser, url: str, **context: Any) -> Stage:
        stage = cls.in_context(browser.new_context(**context))
        stage.goto(url)
        return stage

    @classmethod
    def in_context(cls, context: BrowserContext) -> Stage:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        stage = cls(page, context)
        page.on("pageerror", lambda error: stage.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                stage.complaints.append(message.text)
                if message.type in {"error", "warning"}
                else None
            ),
        )
        return stage

    def goto(self, url: str) -> None:
        self.page.goto(url)
        expect(self.page.get_by_role("radio").first).to_be_attached(timeout=PATIENCE_MS)

    def close(self) -> None:
        self.context.close()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def pick(self, voice: str) -> None:
        self.page.get_by_role("radio", name=voice).check(force=True)

    def start(self) -> None:
        self.button("Start").click()

    def stop(self) -> None:
        self.button("Stop").click()
        self.expect_state("Stopped")

    def expect_state(self, title: str) -> None:
        state = self.page.get_by_role("status").get_by_role("heading")
        expect(state).to_have_text(title, timeout=PATIENCE_MS)

    def expect_time_used(self, at_least_s: int) -> None:
        self.page.wait_for_function(
            """(s) => {
              const [minutes, seconds] = document.getElementById("used").textContent.split(":");
              return Number(minutes) * 60 + parseInt(seconds) >= s;
            }""",
            arg=at_least_s,
        )

    def record_for(self, seconds: int) -> None:
        """Records this much of the page's own clock of the recording."""
        self.page.get_by_role("button", name="Record").click()
        counting = self.page.get_by_role("button", name=f"Recording 0:{seconds:02d}")
        expect(counting).to_be_visible(timeout=PATIENCE_MS + seconds * 1000)
        counting.click()

    def download(self, link: str, folder: Path) -> tuple[NDArray[np.float32], int]:
        """The newest WAV of this kind, [samples, channels], and its rate."""
        with self.page.expect_download() as caught:
            self.page.get_by_role("link", name=link).first.click()
        path = folder / caught.value.suggested_filename
        caught.value.save_as(path)
        return soundfile.read(path, dtype="float32", always_2d=True)  # type: ignore[no-any-return]

    def open_latency(self) -> None:
        panel = self.page.get_by_role("group").filter(has_text="mouth to ear")
        if panel.get_attribute("open") is None:
            self.page.get_by_text("Latency", exact=True).click()

    def slide(self, name: str, value: float) -> None:
        self.page.get_by_role("slider", name=name).fill(str(value))
