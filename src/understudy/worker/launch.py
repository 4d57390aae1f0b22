"""Starts a worker where no provider is near to hold its pipe: on a machine in a cloud.

`python -m understudy.worker.launch --url … --node …`; the secret and the model's spec come in the
environment, and leave it before the model's code runs. SIGTERM goes on to the worker, and the
worker's status is ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

SECRET = "UNDERSTUDY_WORKER_SECRET"
SPEC = "UNDERSTUDY_WORKER_SPEC"


def main() -> int:
    missing = [name for name in (SECRET, SPEC) if not os.environ.get(name)]
    if missing:
        print(f"{' and '.join(missing)} must be set in the environment", file=sys.stderr)
        return 2
    environment = {k: v for k, v in os.environ.items() if k not in (SECRET, SPEC)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "understudy.worker", *sys.argv[1:]],
        stdin=subprocess.PIPE,
        env=environment,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: worker.send_signal(number))
    assert worker.stdin is not None
    try:
        worker.stdin.write(f"{os.environ[SECRET]}\n{os.environ[SPEC]}\n".encode())
        worker.stdin.flush()  # and left open: its end would be the worker's
    except OSError:
        pass  # it died at once; its status says how
    status = worker.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
