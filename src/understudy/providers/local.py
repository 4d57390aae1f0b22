"""Nodes on this machine: each is a subprocess that runs one worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from understudy.core.fleet import Node
from understudy.providers.subprocesses import Subprocesses


class LocalProvider:
    """seams.Provider with subprocesses."""

    name = "local"

    def __init__(
        self,
        spec_json: Callable[[str, str], str],
        sign: Callable[[str], str],
    ) -> None:
        """`spec_json(model, revision)` is what a worker reads from its standard input, after
        `sign(node)`: what it shows to an edge, to be let in."""
        self._spec_json = spec_json
        self._sign = sign
        self._processes = Subprocesses()
        self.urls: dict[str, str] = {}  # region -> of the edge to dial, once it listens

    def refusal(self, node: Node, ahead: Iterable[Node] = ()) -> str | None:
        return None  # a laptop takes what it is given

    async def start(self, node: Node) -> None:
        spec = self._spec_json(node.model, node.revision)
        await self._processes.start(node, spec, self._sign(node.id), [self.urls[node.region]])

    async def stop(self, node: str) -> None:
        await self._processes.stop(node)

    async def nodes(self) -> Sequence[Node]:
        return self._processes.nodes()

    async def close(self) -> None:
        await self._processes.close()

    async def leave(self) -> None:
        """They are this process's children, and end with it."""
        await self.close()
