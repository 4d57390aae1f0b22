"""The child's end of driver.py. Standard library only: it runs in whatever Python has the library
that it drives."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any


class Refused(Exception):
    """`kind`: no_capacity, bad_config or provider_failed."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def serve(operations: Mapping[str, Callable[..., Any]]) -> None:
    """Answers until standard input ends, each request on a thread of its own."""
    # Whatever the library prints, be it from C, must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    one_at_a_time = threading.Lock()

    def answer(request: Mapping[str, Any]) -> None:
        reply: dict[str, Any] = {"id": request["id"]}
        try:
            reply["result"] = operations[request["op"]](*request["args"])
        except Refused as error:
            reply |= {"error": str(error), "kind": error.kind}
        except BaseException as error:
            traceback.print_exc(file=sys.stderr)
            words = f"{type(error).__name__}: {error}"
            reply |= {"error": words, "kind": "provider_failed"}
        with one_at_a_time:
            answers.write(json.dumps(reply) + "\n")

    for line in sys.stdin.buffer:
        threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
    os._exit(0)  # the parent is gone; what it rented is found by the next one
