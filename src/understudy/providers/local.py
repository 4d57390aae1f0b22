"""Nodes on this machine: each is a subprocess that runs one worker."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence

from understudy.core.fleet import Node
from understudy.providers.subprocesses import Subprocesses


class LocalProvider:
    """seams.Provider with subprocesses."""

    name = "local"

    def __init__(
        self,
        spec_json: Callable[[str, str], str],
        sign: Callable[[str], str] = lambda node: secrets.token_hex(16),
    ) -> None:
        """`spec_json(model, revision)` is what a worker reads from its standard input, after
        `sign(node)`: what it shows to an edge, to be let in."""
        self._spec_json = spec_json
        self._sign = sign
        self._processes = Subprocesses()
        self._secrets: dict[str, str] = {}
        self.urls: dict[str, str] = {}  # region -> of the edge to dial, once it listens

    def admits(self, node: str, secret: str) -> bool:
        """Whether a worker that dials in is one that we started."""
        known = self._secrets.get(node, "")
        same = secrets.compare_digest(known.encode(), secret.encode(errors="replace"))
        return same and known != ""

    def refusal(self, node: Node, ahead: Iterable[Node] = ()) -> str | None:
        return None  # a laptop takes what it is given

    async def start(self, node: Node) -> None:
        spec = self._spec_json(node.model, node.revision)
        secret = self._secrets[node.id] = self._sign(node.id)
        await self._processes.start(node, spec, secret, [self.urls[node.region]])

    async def stop(self, node: str) -> None:
        self._secrets.pop(node, None)
        await self._processes.stop(node)

    async def nodes(self) -> Sequence[Node]:
        return self._processes.nodes()

    async def close(self) -> None:
        await self._processes.close()
