"""A real Ray cluster on this machine: two machines with a GPU each, the head in sf, one in tokyo.

It runs in a process of its own (`python -m tests.ray_cluster`), so that Ray's threads, handlers and
warnings are not the tests'. That one reads commands: `add RESOURCE`, `remove RESOURCE`.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
from typing import Any

_ROOM = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100_000_000}


class RayCluster:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_cluster"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
        )
        self.address = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise RuntimeError("the Ray cluster's process ended")

    def tell(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


@functools.cache
def ray_cluster() -> RayCluster:
    """The cluster of all tests of this process."""
    cluster = RayCluster()
    atexit.register(cluster.close)
    return cluster


def main() -> None:
    from ray.cluster_utils import Cluster

    head = {**_ROOM, "resources": {"sf": 1}, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    machines = {"tokyo": cluster.add_node(**_ROOM, resources={"tokyo": 1})}
    print(f"> {cluster.address}", flush=True)
    for line in sys.stdin:
        command, name = line.split()
        if command == "add":
            machines[name] = cluster.add_node(**_ROOM, resources={name: 1})
        else:  # as if its power was cut
            cluster.remove_node(machines.pop(name), allow_graceful=False)
        print("> done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
