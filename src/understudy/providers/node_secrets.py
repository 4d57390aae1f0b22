"""How an edge knows a worker of the fleet, on whatever machine it runs.

A worker's secret is derived from its node's id and one key that the fleet's processes share (HMAC,
RFC 2104): so any edge knows it, after a restart too, and a worker that tells its own tells no
other's.
"""

from __future__ import annotations

import hmac


class NodeSecrets:
    def __init__(self, key: bytes) -> None:
        """`key`: 16 bytes or more that nobody else knows."""
        if len(key) < 16:
            raise ValueError("a key of 16 bytes or more is wanted")
        self._key = key

    def of(self, node: str) -> str:
        return hmac.digest(self._key, b"understudy worker\0" + node.encode(), "sha256").hex()

    def admits(self, node: str, secret: str) -> bool:
        """Whether this is the node's secret; whether there is such a node, the store knows."""
        return hmac.compare_digest(self.of(node).encode(), secret.encode())
