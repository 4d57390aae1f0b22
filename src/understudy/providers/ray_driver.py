"""The process that talks to a Ray cluster for providers/ray.py. A node is a detached actor that
runs one worker as its child; the cluster keeps it, whatever becomes of us.

The actor's class travels by value, so the cluster's machines need Understudy for the worker only.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayError

from understudy.clock import SystemClock
from understudy.providers.driver_child import Refused, serve

GONE_S: Final = 20.0  # how long an actor that was killed may still be listed
CONNECT_S: Final = 5.0
STARTING_S: Final = 2.0  # how long one that is returned may take to say that it is there
_HOST_PORT: Final = re.compile(r"(?:ray://)?([^/]+):(\d+)")
_connecting = threading.Lock()
_clock = SystemClock()


class WorkerNode:
    """The actor. Its pipe is the worker's lifeline: whatever ends us ends the worker."""

    def __init__(self, arguments: list[str], secret: str, spec: str, threads: int) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("UNDERSTUDY_")}
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "understudy.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**inherited, **limits},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{secret}\n{spec}\n".encode())
            self._process.stdin.flush()
        except OSError:
            pass  # it died at once; `wait` will say so

    def up(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        return self._process.wait()

    def stop(self, grace_s: float) -> None:
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass
class Held:
    """An actor: `up` is there once it runs, `over` once its worker has ended."""

    actor: Any
    up: Any
    over: Any
    since: float


class Cluster:
    """One fleet's actors in a cluster, by their names."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._held: dict[str, Held] = {}

    def _connect(self) -> None:
        with _connecting:
            if ray.is_initialized():
                return
            try:
                if (host_port := _HOST_PORT.fullmatch(self._address)) is not None:
                    # Ray itself waits for minutes.
                    at = (host_port[1].strip("[]"), int(host_port[2]))
                    socket.create_connection(at, timeout=CONNECT_S).close()
                ray.init(
                    address=self._address,
                    namespace=self._namespace,
                    logging_level="ERROR",
                    log_to_driver=False,
                )
            except (OSError, RuntimeError, ValueError) as error:
                raise Refused(
                    "provider_failed",
                    f"no Ray cluster answers at {self._address!r} ({error}); start one with `ray "
                    "start --head`, or set address in [providers.ray]",
                ) from error

    def _hold(self, name: str, actor: Any) -> None:
        self._held[name] = Held(actor, actor.up.remote(), actor.wait.remote(), _clock.now())

    def start(self, name: str, asked: dict[str, Any], worker: list[Any]) -> None:
        """`asked`: cpus, gpus, memory (bytes), resources, autoscales; `worker`: its arguments."""
        self._connect()
        if not asked["autoscales"]:
            _check_room(asked)
        actor = ray.remote(WorkerNode).options(
            name=name,
            namespace=self._namespace,
            lifetime="detached",
            max_restarts=0,
            max_concurrency=4,
            num_cpus=asked["cpus"],
            num_gpus=asked["gpus"],
            memory=asked["memory"] or None,
            resources=asked["resources"] or None,
        )
        self._hold(name, actor.remote(*worker, max(1, int(asked["cpus"]))))

    def poll(self) -> list[dict[str, Any]]:
        """Each actor there is, and those that were lost: name, up, since_s, and exited."""
        self._connect()
        for name in set(ray.util.list_named_actors()) - self._held.keys():
            try:  # of a controller before this one
                self._hold(name, ray.get_actor(name))
            except ValueError:  # it went in this moment
                continue
        held = dict(self._held)
        refs = [ref for one in held.values() for ref in (one.up, one.over)]
        done = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if refs else set()
        now = _clock.now()
        return [
            {
                "name": name,
                "up": one.up in done,
                "since_s": now - one.since,
                "exited": _why(one) if one.over in done else None,
            }
            for name, one in held.items()
        ]

    def stop(self, prefix: str, grace_s: float) -> None:
        """The worker, then the actor; returns once neither is."""
        self._connect()
        names = {name for name in self._held if name.startswith(prefix)}
        names |= {name for name in ray.util.list_named_actors() if name.startswith(prefix)}
        for name in names:
            if name not in self._held:
                try:
                    self._hold(name, ray.get_actor(name))
                except ValueError:
                    continue
            one = self._held[name]
            try:
                # One that has no room yet says nothing. One that is killed as it starts leaves a
                # worker that reads the end of its pipe, and goes a moment later than we return.
                if ray.wait([one.up], timeout=STARTING_S)[0]:
                    ray.get(one.actor.stop.remote(grace_s), timeout=grace_s + 5.0)
            except (RayError, GetTimeoutError):
                pass  # it is dead or hangs
            ray.kill(one.actor)
            until = _clock.now() + GONE_S
            while name in ray.util.list_named_actors():
                if _clock.now() > until:
                    raise Refused("provider_failed", f"Ray does not end the actor {name}")
                time.sleep(0.05)
            self._held.pop(name, None)


def _check_room(asked: dict[str, Any]) -> None:
    """Refuses what none of the cluster's machines could ever hold."""
    wanted = {"CPU": asked["cpus"], "GPU": asked["gpus"], "memory": asked["memory"]}
    wanted = {k: v for k, v in (wanted | asked["resources"]).items() if v}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(have.get(k, 0) >= v for k, v in wanted.items()) for have in machines):
        return
    most = {k: max((have.get(k, 0) for have in machines), default=0) for k in wanted}
    raise Refused(
        "no_capacity",
        f"no machine of the Ray cluster has {_words(wanted)}; they have {_words(most)} at the "
        "most. Add one, ask for less in [providers.ray], or set autoscales = true there",
    )


def _words(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _why(one: Held) -> str:
    try:
        code = ray.get(one.over)
    except RayError as error:
        return f"is lost with its actor: {' '.join(str(error).split())[:400]}"
    return f"killed by signal {-code}" if code < 0 else f"exited with status {code}"


if __name__ == "__main__":
    chosen = json.loads(sys.argv[1])
    cluster = Cluster(chosen["address"], chosen["namespace"])
    serve({"start": cluster.start, "poll": cluster.poll, "stop": cluster.stop})
