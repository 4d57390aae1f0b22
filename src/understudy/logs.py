"""How the server logs: a line for people, or an object of JSON a line for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

FORMATS: Final = ("text", "json")
_FIELDS: Final = ("session", "user", "voice", "worker", "model")  # given with `extra`


class JsonFormatter(logging.Formatter):
    """time (ISO 8601, UTC), level, logger, message, what the record carries of `session`,
    `user`, `voice`, `worker` and `model`, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in _FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A line for people. Names that users chose start no line of their own, nor do they speak to
    the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base's
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def start(form: str, *, verbose: bool) -> None:
    """`form`: one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    for noisy in ("uvicorn", "picows"):  # what strangers send amiss is no news
        logging.getLogger(noisy).setLevel(logging.ERROR)
