"""Makes sure that the browser tests have a browser, and speech to speak into it.

Looks for Chromium or Chrome; without one, asks Playwright for its own, then the system's package
manager. Says what to do if none of these works.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
APT = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]


def find() -> str | None:
    """The browser to use: $UNDERSTUDY_CHROMIUM, one on the PATH, Chrome on a Mac, Playwright's."""
    chosen = os.environ.get("UNDERSTUDY_CHROMIUM")
    if chosen:
        return chosen
    for name in NAMES:
        if path := shutil.which(name):
            return path
    if MAC.exists():
        return str(MAC)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if path and Path(path).exists() else None


def as_root(command: list[str]) -> list[str]:
    return command if os.geteuid() == 0 else ["sudo", "-n", *command]


def attempt(command: list[str]) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def main() -> int:
    if find():
        return 0
    print("The browser tests need Chromium; installing it.", flush=True)
    if shutil.which("apt-get"):
        attempt(as_root(["apt-get", "update", "-qq"]))
        attempt(as_root([*APT, "chromium"]))
    if not find():
        attempt([sys.executable, "-m", "playwright", "install", "chromium"])
    if find():
        return 0
    print("No browser could be installed. Install Chromium or Chrome, or set UNDERSTUDY_CHROMIUM.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
