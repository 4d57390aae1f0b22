"""What each user heard, out of the ledger: for `understudy usage` and `GET /v1/usage`."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from understudy.core.errors import BadMessage
from understudy.core.ledger import Use, add_up
from understudy.seams import Store


def moment(text: str | None, otherwise: float) -> float:
    """An ISO 8601 date or time (UTC unless it says else) as Unix time. Raises BadMessage."""
    if not text:
        return otherwise
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BadMessage(f"{text!r} is no date; write 2026-11-21 or 2026-11-21T08:30") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


async def usage(store: Store, user: str | None, start: str | None, end: str | None) -> list[Use]:
    """From `start` (inclusive) to `end` (exclusive). Raises BadMessage."""
    from_s, to_s = moment(start, 0.0), moment(end, math.inf)
    return add_up(await store.ledger(user=user, from_s=from_s, to_s=to_s))


def as_rows(uses: list[Use]) -> list[dict[str, Any]]:
    return [
        asdict(use) | {"lead_s": round(use.lead_s, 3), "understudy_s": round(use.understudy_s, 3)}
        for use in uses
    ]


def as_csv(uses: list[Use]) -> str:
    """A user whose name a spreadsheet would take for a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, ["user", "voice", "sessions", "lead_s", "understudy_s"])
    writer.writeheader()
    for row in as_rows(uses):
        formula = row["user"].startswith(("=", "+", "-", "@", "\t", "\r"))
        writer.writerow(row | {"user": f"'{row['user']}" if formula else row["user"]})
    return out.getvalue()
