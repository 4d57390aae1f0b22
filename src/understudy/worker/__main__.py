"""The worker process: `python -m understudy.worker --url ws://… --node ID`, started by a provider.

Standard input: a line with the worker's secret, a line with its model as JSON; then it stays
open for as long as the parent lives.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
import threading

from understudy import eventloop
from understudy.clock import SystemClock
from understudy.worker.process import run


def leave_with_parent() -> None:
    """Ends this process once the other end of standard input is gone, even if the loop hangs."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="understudy-worker", description=__doc__)
    parser.add_argument("--url", required=True, action="append")
    parser.add_argument("--node", required=True)
    parser.add_argument("--region", default="local")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(levelname)s worker {arguments.node}: %(message)s",
    )
    logging.getLogger("picows").setLevel(logging.ERROR)
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        secret = stdin.readline().decode().strip()
        told = stdin.readline()
    if not told.endswith(b"\n"):  # who started it is no more: nobody needs it
        return 0
    spec = json.loads(told)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    gc.freeze()
    return eventloop.run(
        run(arguments.url, secret, arguments.node, arguments.region, spec, SystemClock())
    )


if __name__ == "__main__":
    sys.exit(main())
