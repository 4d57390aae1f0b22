"""`understudy up --regions`: a world of regions on one machine, with the distances between them.

Each region is an edge with a controller (one of all leads, the others stand by) in one process,
and a machine that has joined in another; the store is shared. Links from one region to another
go through a relay that holds every byte back for half a round trip. A region that is killed is
started again after a while, as a supervisor of real machines would.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import Any, Final

from understudy.config import REGIONS_FILE, ConfigFile
from understudy.core.errors import ConfigError
from understudy.relay import Relay
from understudy.seams import Clock
from understudy.tokens import Keys
from understudy.up import lock_data

log = logging.getLogger(__name__)

DEFAULT_RTT_S: Final = 0.1
AGAIN_S: Final = 10.0  # a region that died is started again after so long
GPUS: Final = 8  # of each region: shares of this machine's CPU
CPUS: Final = 4
JOIN_S: Final = 365 * 86_400.0
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


@dataclass(frozen=True, slots=True)
class World:
    """The regions with their edges' ports, and the round trips between them."""

    ports: Mapping[str, int]
    rtts_s: Mapping[frozenset[str], float]

    def rtt_s(self, one: str, other: str) -> float:
        return 0.0 if one == other else self.rtts_s.get(frozenset((one, other)), DEFAULT_RTT_S)


def plan(regions: str, rtts: Sequence[str], port: int) -> World:
    """Of what the command line says. Raises ConfigError."""
    names = [name.strip() for name in regions.split(",") if name.strip()]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name of a region: up to 31 of a-z 0-9 -")
    if len(set(names)) < len(names) or not names:
        raise ConfigError("--regions takes names that differ, such as sf,tokyo,frankfurt")
    found: dict[frozenset[str], float] = {}
    for text in rtts:
        pair, _, ms = text.partition("=")
        ends = pair.split(":")
        if len(ends) != 2 or not set(ends) <= set(names) or not re.fullmatch(r"\d+(\.\d+)?", ms):
            raise ConfigError(
                f"--rtt takes REGION:REGION=MS, such as {names[0]}:{names[-1]}=150, not {text!r}"
            )
        found[frozenset(ends)] = float(ms) / 1e3
    return World({name: port + k for k, name in enumerate(names)}, found)


@dataclass
class _Region:
    name: str
    vias: dict[str, str] = field(default_factory=dict)  # region -> our edge's URL as seen there
    relays: list[Relay] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)


async def run(
    world: World,
    data: Path,
    where: str | Path,
    clock: Clock,
    announce: Callable[[Mapping[str, str]], None],
) -> None:
    """Until SIGINT or SIGTERM; then nothing that it started is left."""
    lock = lock_data(data)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ConfigFile.of_data(data)
    keys = Keys.read(os.environ, data)
    regions = {name: _Region(name) for name in world.ports}
    try:
        for home, other in itertools.permutations(world.ports, 2):
            relay = Relay("127.0.0.1", world.ports[home], world.rtt_s(home, other) / 2)
            regions[home].vias[other] = f"http://127.0.0.1:{await relay.open()}"
            regions[home].relays.append(relay)
        watching = [
            asyncio.create_task(_keep(region, world, data, where, keys, clock, regions))
            for region in regions.values()
        ]
        announcing = asyncio.create_task(_announce(world, clock, announce))
        await stop.wait()
        announcing.cancel()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, announcing, return_exceptions=True)
    finally:
        await asyncio.gather(*(_end(region) for region in regions.values()))
        for region in regions.values():
            for relay in region.relays:
                await relay.close()
        (data / REGIONS_FILE).unlink(missing_ok=True)
        lock.close()


async def _announce(
    world: World, clock: Clock, announce: Callable[[Mapping[str, str]], None]
) -> None:
    """Once every edge takes connections."""
    for port in world.ports.values():
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await clock.sleep(0.05)
            else:
                writer.close()
                break
    announce({name: f"http://127.0.0.1:{port}" for name, port in world.ports.items()})


async def _keep(
    region: _Region,
    world: World,
    data: Path,
    where: str | Path,
    keys: Keys,
    clock: Clock,
    regions: Mapping[str, _Region],
) -> None:
    while True:
        await _start(region, world, data, where, keys, clock)
        _write_state(data, world, regions)
        waits = [asyncio.create_task(process.wait()) for process in region.processes]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        log.error("region %s is down; it starts again in %.0f s", region.name, AGAIN_S)
        await _end(region)
        await asyncio.gather(*waits)
        await clock.sleep(AGAIN_S)


async def _start(
    region: _Region,
    world: World,
    data: Path,
    where: str | Path,
    keys: Keys,
    clock: Clock,
) -> None:
    port = world.ports[region.name]
    vias = [word for other, url in region.vias.items() for word in ("--via", f"{other}={url}")]
    command = [sys.executable, "-m", "understudy"]
    own = ["--region", region.name, "--data", str(data)]
    # The database's address may hold a password, which has no business on a command line.
    environ = {**os.environ, **({"UNDERSTUDY_STORE": where} if isinstance(where, str) else {})}
    edge = await asyncio.create_subprocess_exec(
        *(*command, "up", "--shared", "--provider", "join", "--port", str(port), *own, *vias),
        env=environ,
        start_new_session=True,
    )
    token = keys.join_token(region.name, region.name, clock.wall() + JOIN_S)
    agent = await asyncio.create_subprocess_exec(
        *(*command, "join", f"http://127.0.0.1:{port}", "--name", gethostname()),
        *("--region", region.name, "--gpus", str(GPUS), "--cpus", str(CPUS)),
        *("--grace", "0"),
        env={**os.environ, "UNDERSTUDY_JOIN_TOKEN": token},
        start_new_session=True,
    )
    region.processes = [edge, agent]


async def _end(region: _Region) -> None:
    for process in region.processes:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        async with asyncio.timeout(10.0):
            await asyncio.gather(*(process.wait() for process in region.processes))
    except TimeoutError:
        for process in region.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(process.wait() for process in region.processes))


def _write_state(data: Path, world: World, regions: Mapping[str, _Region]) -> None:
    state: dict[str, Any] = {
        name: {
            "url": f"http://127.0.0.1:{world.ports[name]}",
            "pids": [process.pid for process in region.processes],
        }
        for name, region in regions.items()
    }
    fresh = data / f"{REGIONS_FILE}.new"
    fresh.write_text(json.dumps(state))
    fresh.replace(data / REGIONS_FILE)
