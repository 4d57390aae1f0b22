"""What every provider promises. The local one starts real processes, here against no edge."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator

import psutil
import pytest

from understudy.providers.local import LocalProvider

SPEC = json.dumps({"name": "m", "engine": "x:Y", "slots": 1, "options": {}})


@pytest.fixture(params=["local"])
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[LocalProvider]:
    # An edge that accepts and says nothing: workers wait in their handshake.
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    provider = LocalProvider(lambda model: SPEC, region="sf")
    provider.url = f"ws://127.0.0.1:{silent.sockets[0].getsockname()[1]}/v1/link"
    yield provider
    await provider.close()
    silent.close()


def process_of(provider: LocalProvider, node: str) -> psutil.Process:
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
    node = await provider.start("m")
    assert (node.model, node.region, node.exited) == ("m", "sf", None)
    assert [n.id for n in await provider.nodes()] == [node.id]
    process = process_of(provider, node.id)
    await provider.stop(node.id)
    assert not process.is_running()
    assert list(await provider.nodes()) == []
    await provider.stop(node.id)  # again: nothing happens


async def test_nodes_are_independent_and_have_ids_of_their_own(provider: LocalProvider) -> None:
    first, second = await provider.start("m"), await provider.start("m")
    assert first.id != second.id
    await provider.stop(first.id)
    assert [n.id for n in await provider.nodes()] == [second.id]


async def test_a_node_that_dies_is_listed_with_its_reason_until_it_is_returned(
    provider: LocalProvider,
) -> None:
    node = await provider.start("m")
    process_of(provider, node.id).send_signal(signal.SIGKILL)
    assert await exited(provider, node.id) == "killed by signal 9"
    await provider.stop(node.id)
    assert list(await provider.nodes()) == []


async def test_a_hung_node_is_stopped_too(provider: LocalProvider) -> None:
    node = await provider.start("m")
    process = process_of(provider, node.id)
    process.send_signal(signal.SIGSTOP)
    await provider.stop(node.id)
    assert not process.is_running()


async def test_only_a_worker_of_ours_is_admitted(provider: LocalProvider) -> None:
    node = await provider.start("m")
    assert not provider.admits(node.id, "")
    assert not provider.admits(node.id, "guess")
    assert not provider.admits("another", "")
    secret = provider._secrets[node.id]
    assert provider.admits(node.id, secret)
    assert secret not in " ".join(process_of(provider, node.id).cmdline())
    await provider.stop(node.id)
    assert not provider.admits(node.id, secret)


async def test_close_returns_everything(provider: LocalProvider) -> None:
    processes = [process_of(provider, (await provider.start("m")).id) for _ in range(3)]
    await provider.close()
    assert not any(process.is_running() for process in processes)
