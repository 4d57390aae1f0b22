"""What every provider promises. The local one starts real processes, here against no edge."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator

import psutil
import pytest

from understudy.core.fleet import Node
from understudy.providers.local import LocalProvider


def spec_json(model: str, revision: str) -> str:
    return json.dumps({"name": model, "engine": "x:Y", "slots": 1, "options": {}})


def node(name: str, region: str = "sf") -> Node:
    return Node(name, "m", "r1", region)


@pytest.fixture(params=["local"])
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[LocalProvider]:
    # Edges that accept and say nothing: workers wait in their handshake.
    silent = [
        await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) for _ in range(2)
    ]
    provider = LocalProvider(spec_json)
    for region, server in zip(("sf", "tokyo"), silent, strict=True):
        port = server.sockets[0].getsockname()[1]
        provider.urls[region] = f"ws://127.0.0.1:{port}/v1/link"
    yield provider
    await provider.close()
    for server in silent:
        server.close()


def process_of(node: str) -> psutil.Process:
    """A node's process; right after its start the system may not show its command line yet."""
    for _ in range(1000):
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "understudy.worker" in child.cmdline() and node in child.cmdline():
                    return child
        time.sleep(0.01)
    raise AssertionError(f"node {node} has no process")


async def exited(provider: LocalProvider, node: str) -> str:
    async with asyncio.timeout(20):
        while True:
            (seen,) = (n for n in await provider.nodes() if n.id == node)
            if seen.exited is not None:
                return seen.exited
            await asyncio.sleep(0.01)


async def test_a_node_runs_until_it_is_stopped(provider: LocalProvider) -> None:
    await provider.start(node("n1"))
    assert list(await provider.nodes()) == [node("n1")]
    process = process_of("n1")
    await provider.stop("n1")
    assert not process.is_running()
    assert list(await provider.nodes()) == []
    await provider.stop("n1")  # again: nothing happens
    await provider.stop("n2")  # one that never was: nor here


async def test_nodes_are_independent(provider: LocalProvider) -> None:
    await provider.start(node("n1"))
    await provider.start(node("n2"))
    await provider.stop("n1")
    assert list(await provider.nodes()) == [node("n2")]


async def test_a_node_dials_the_edge_of_its_region(provider: LocalProvider) -> None:
    for region in ("sf", "tokyo"):
        await provider.start(node(f"n-{region}", region))
        assert provider.urls[region] in process_of(f"n-{region}").cmdline()


async def test_a_node_that_cannot_be_asked_for_is_not_listed(provider: LocalProvider) -> None:
    with pytest.raises(KeyError):
        await provider.start(node("n1", "the moon"))
    assert list(await provider.nodes()) == []


async def test_a_node_that_dies_is_listed_with_its_reason_until_it_is_returned(
    provider: LocalProvider,
) -> None:
    await provider.start(node("n1"))
    process_of("n1").send_signal(signal.SIGKILL)
    assert await exited(provider, "n1") == "killed by signal 9"
    await provider.stop("n1")
    assert list(await provider.nodes()) == []


async def test_a_hung_node_is_stopped_too(provider: LocalProvider) -> None:
    await provider.start(node("n1"))
    process = process_of("n1")
    process.send_signal(signal.SIGSTOP)
    await provider.stop("n1")
    assert not process.is_running()


async def test_only_a_worker_of_ours_is_admitted(provider: LocalProvider) -> None:
    await provider.start(node("n1"))
    assert not provider.admits("n1", "")
    assert not provider.admits("n1", "guess")
    assert not provider.admits("another", "")
    secret = provider._secrets["n1"]
    assert provider.admits("n1", secret)
    assert secret not in " ".join(process_of("n1").cmdline())
    await provider.stop("n1")
    assert not provider.admits("n1", secret)


async def test_close_returns_everything(provider: LocalProvider) -> None:
    names = ["n1", "n2", "n3"]
    await asyncio.gather(*(provider.start(node(name)) for name in names))
    processes = [process_of(name) for name in names]
    await provider.close()
    assert not any(process.is_running() for process in processes)
    assert list(await provider.nodes()) == []
