"""The transactions of bundles: the archives of their files, kept in parts.

An archive may be larger than what one transaction should hold, so each part is one of its own;
part 0, the manifest, is written last and makes the bundle be there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from understudy.store.transactions import Ask, Transaction


@dataclass(frozen=True, slots=True)
class Manifest:
    """`size`: bytes of all `parts` together; `sha256`: of the same, in hex."""

    parts: int
    size: int
    sha256: str


def save_part(revision: str, number: int, data: bytes) -> Transaction[None]:
    yield Ask(
        "INSERT INTO bundles (revision, part, data) VALUES (?, ?, ?)"
        " ON CONFLICT (revision, part) DO UPDATE SET data = excluded.data",
        (revision, number, data),
    )


def finish(revision: str, manifest: Manifest) -> Transaction[None]:
    yield from save_part(revision, 0, json.dumps(asdict(manifest)).encode())


def manifest(revision: str) -> Transaction[Manifest | None]:
    rows = yield Ask("SELECT data FROM bundles WHERE revision = ? AND part = 0", (revision,))
    return Manifest(**json.loads(bytes(rows[0][0]))) if rows else None


def part(revision: str, number: int) -> Transaction[bytes]:
    rows = yield Ask("SELECT data FROM bundles WHERE revision = ? AND part = ?", (revision, number))
    return bytes(rows[0][0])
