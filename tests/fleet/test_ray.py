"""Nodes in a real Ray cluster of two machines with a GPU each: what only Ray can do, or lose."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from tests.contract.test_provider import exited, process_of, sign, spec_json
from tests.ray_cluster import ray_cluster
from understudy.clock import SystemClock
from understudy.config import parse
from understudy.core.errors import NoCapacity, ProviderFailed
from understudy.core.fleet import Node
from understudy.providers import new_provider
from understudy.providers.ray import RayProvider

TOML = """
[fleet]
provider = "ray"
name = "gpus"
[providers.ray]
address = "{address}"
cpus = 0
gpus = 1
pending_s = {pending_s}
[providers.ray.models.huge]
gpus = 2
[providers.ray.models.doomed]
resources = {{ doomed = 1 }}
"""


def node(name: str, model: str = "m") -> Node:
    return Node(name, model, "r1", "local", started_s=1.5)


async def a_provider(address: str | None = None, pending_s: float = 60.0) -> RayProvider:
    address = address or (await asyncio.to_thread(ray_cluster)).address
    spec = parse(TOML.format(address=address, pending_s=pending_s), "t").provider
    provider = new_provider(spec, spec_json, sign, SystemClock())
    assert isinstance(provider, RayProvider)
    return provider


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/link"
    server.close()


@pytest.fixture
async def provider(silent: str) -> AsyncIterator[RayProvider]:
    provider = await a_provider()
    provider.urls["local"] = silent
    yield provider
    await provider.close()


async def test_two_workers_have_a_gpu_each_on_two_machines(provider: RayProvider) -> None:
    for name in ("n1", "n2"):
        await provider.start(node(name))
    processes = [await process_of(provider, name) for name in ("n1", "n2")]
    assert [one.environ()["CUDA_VISIBLE_DEVICES"] for one in processes] == ["0", "0"]
    actors = [one.parent() for one in processes]
    raylets = {actor.parent() for actor in actors if actor is not None}
    assert len(raylets) == 2


async def test_a_controller_that_starts_anew_finds_its_nodes(
    provider: RayProvider, silent: str
) -> None:
    await provider.start(node("n1/ü", "m"))
    process = await process_of(provider, "n1/ü")
    await provider.leave()
    other = await a_provider()
    try:
        assert list(await other.nodes()) == [node("n1/ü", "m")]
        assert process.is_running()
    finally:
        await other.close()
    assert not process.is_running()
    assert list(await provider.nodes()) == []


async def test_what_no_machine_can_hold_is_refused(provider: RayProvider) -> None:
    with pytest.raises(NoCapacity, match=r"has 2 GPU; they have 1 GPU at the most"):
        await provider.start(node("n1", "huge"))
    assert list(await provider.nodes()) == []


async def test_a_node_waits_for_room_and_is_given_up_in_the_end(silent: str) -> None:
    provider = await a_provider(pending_s=0.5)
    provider.urls["local"] = silent
    try:
        for name in ("n1", "n2"):
            await provider.start(node(name))
            await process_of(provider, name)
        await provider.start(node("n3"))
        assert "for room in the Ray cluster" in await exited(provider, "n3")
        await provider.stop("n3")
        assert {one.id: one.exited for one in await provider.nodes()} == {"n1": None, "n2": None}
    finally:
        await provider.close()


async def test_a_machine_that_is_lost_is_told(provider: RayProvider) -> None:
    cluster = ray_cluster()
    await asyncio.to_thread(cluster.tell, "add", "doomed")
    await provider.start(node("n1", "doomed"))
    process = await process_of(provider, "n1")
    await asyncio.to_thread(cluster.tell, "remove", "doomed")
    why = await exited(provider, "n1")
    assert "is lost with its actor" in why
    await provider.stop("n1")
    assert list(await provider.nodes()) == []
    await asyncio.to_thread(psutil.wait_procs, [process], 20)
    assert not process.is_running()  # a worker does not outlive its machine's actor


async def test_a_driver_that_dies_is_started_again(provider: RayProvider) -> None:
    await provider.start(node("n1"))
    child: Any = provider._driver._process
    child.kill()
    await child.wait()
    assert [one.id for one in await provider.nodes()] == ["n1"]
    child = provider._driver._process
    asked = asyncio.create_task(provider.start(node("n2")))
    await asyncio.sleep(0)
    child.kill()
    with pytest.raises(ProviderFailed):
        await asked
    nodes = await provider.nodes()
    assert replace(node("n1")) in nodes


async def test_no_cluster_is_said() -> None:
    provider = await a_provider(address="127.0.0.1:1")
    try:
        with pytest.raises(ProviderFailed, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
            await asyncio.wait_for(provider.nodes(), 60)
    finally:
        await provider.close()
