"""What every provider promises. Real processes are started, here against edges that are silent."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeAlias

import psutil
import pytest

from tests.joined import Joined
from tests.ray_cluster import ray_cluster
from understudy.config import parse
from understudy.core.errors import NoCapacity
from understudy.core.fleet import Node
from understudy.providers.local import LocalProvider
from understudy.providers.ray import RayProvider

AnyProvider: TypeAlias = LocalProvider | RayProvider | Joined


def sign(node: str) -> str:
    return f"the secret of {node}"


RAY = """
[fleet]
provider = "ray"
name = "contract"
[providers.ray]
address = "{address}"
cpus = 0.1
[providers.ray.regions]
sf = {{ resource = "sf" }}
tokyo = {{ resource = "tokyo" }}
"""


def spec_json(model: str, revision: str) -> str:
    engine = "understudy.models.mirror:MirrorModel"
    spec = {"name": model, "revision": revision, "engine": engine, "slots": 1, "options": {}}
    return json.dumps(spec)


def on_ray() -> RayProvider:
    spec = parse(RAY.format(address=ray_cluster().address), "t").provider
    return RayProvider(spec, spec_json, sign)


ADAPTERS: Mapping[str, Callable[[], AnyProvider]] = {
    "local": lambda: LocalProvider(spec_json, sign),
    "ray": on_ray,
    "join": lambda: Joined(spec_json),
}


def node(name: str, region: str = "sf") -> Node:
    return Node(name, "m", "r1", region)


@pytest.fixture(params=ADAPTERS)
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[AnyProvider]:
    # Edges that accept and say nothing: workers wait in their handshake.
    silent = [
        await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) for _ in range(2)
    ]
    provider = await asyncio.to_thread(ADAPTERS[request.param])
    if isinstance(provider, Joined):
        await provider.open()
    for region, server in zip(("sf", "tokyo"), silent, strict=True):
        port = server.sockets[0].getsockname()[1]
        provider.urls[region] = f"ws://127.0.0.1:{port}/v1/link"
    yield provider
    await provider.close()
    if isinstance(provider, Joined):
        await provider.send_away()
    for server in silent:
        server.close()


async def process_of(provider: AnyProvider, node: str) -> psutil.Process:
    """A node's process, once it is there and the system shows its command line."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if node in words and not {*provider.urls.values()}.isdisjoint(words):
                    return process
        await asyncio.sleep(0.2)
    raise AssertionError(f"node {node} has no process")


async def exited(provider: AnyProvider, node: str) -> str:
    async with asyncio.timeout(20):
        while True:
            (seen,) = (n for n in await provider.nodes() if n.id == node)
            if seen.exited is not None:
                return seen.exited
            await asyncio.sleep(0.05)


async def test_a_node_runs_until_it_is_stopped(provider: AnyProvider) -> None:
    await provider.start(node("n1"))
    assert list(await provider.nodes()) == [node("n1")]
    process = await process_of(provider, "n1")
    await provider.stop("n1")
    assert not process.is_running()
    assert list(await provider.nodes()) == []
    await provider.stop("n1")  # again: nothing happens
    await provider.stop("n2")  # one that never was: nor here


async def test_nodes_are_independent(provider: AnyProvider) -> None:
    await provider.start(node("n1"))
    await provider.start(node("n2"))
    await provider.stop("n1")
    assert list(await provider.nodes()) == [node("n2")]


async def test_a_node_dials_the_edge_of_its_region(provider: AnyProvider) -> None:
    for region in ("sf", "tokyo"):
        await provider.start(node(f"n-{region}", region))
    for region in ("sf", "tokyo"):
        words = (await process_of(provider, f"n-{region}")).cmdline()
        assert provider.urls[region] in words


async def test_a_node_that_cannot_be_asked_for_is_not_listed(provider: AnyProvider) -> None:
    with pytest.raises((KeyError, NoCapacity)):
        await provider.start(node("n1", "the moon"))
    assert list(await provider.nodes()) == []


async def test_a_node_that_dies_is_listed_with_its_reason_until_it_is_returned(
    provider: AnyProvider,
) -> None:
    await provider.start(node("n1"))
    (await process_of(provider, "n1")).send_signal(signal.SIGKILL)
    assert await exited(provider, "n1") == "killed by signal 9"
    await provider.stop("n1")
    assert list(await provider.nodes()) == []


async def test_a_hung_node_is_stopped_too(provider: AnyProvider) -> None:
    await provider.start(node("n1"))
    process = await process_of(provider, "n1")
    process.send_signal(signal.SIGSTOP)
    await provider.stop("n1")
    assert not process.is_running()


async def test_a_secret_is_on_no_command_line(provider: AnyProvider) -> None:
    await provider.start(node("n1"))
    assert sign("n1") not in " ".join((await process_of(provider, "n1")).cmdline())


async def test_close_returns_everything(provider: AnyProvider) -> None:
    names = ["n1", "n2", "n3"]
    await asyncio.gather(*(provider.start(node(name)) for name in names))
    processes = [await process_of(provider, name) for name in names]
    await provider.close()
    if isinstance(provider, Joined):  # other controllers go on with them
        assert all(process.is_running() for process in processes)
        await asyncio.gather(*(provider.stop(name) for name in names))
    assert not any(process.is_running() for process in processes)
    assert list(await provider.nodes()) == []


async def test_what_can_be_had_is_not_refused(provider: AnyProvider) -> None:
    await provider.nodes()
    assert provider.refusal(node("n1")) is None
    assert provider.refusal(node("n2"), [node("n1")]) is None
