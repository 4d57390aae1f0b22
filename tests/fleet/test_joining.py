"""The edge's end of a machine's line, and the agent's, in this process: who is who."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from picows import WSListener, ws_create_server

from tests.contract.test_provider import node, process_of, spec_json
from tests.joined import Joined
from understudy.core.errors import LinkError, NoCapacity


@pytest.fixture
async def joined() -> AsyncIterator[Joined]:
    joined = Joined(spec_json)
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{silent.sockets[0].getsockname()[1]}/v1/link"
    joined.urls |= {"sf": url, "tokyo": url}
    await joined.open()
    yield joined
    await joined.send_away()
    silent.close()


async def beats(joined: Joined, machine: str) -> None:
    """Until it has been heard of a few times more."""
    seen: set[int] = set()
    async with asyncio.timeout(20):
        while len(seen) < 4:
            seen |= {m.beat for m in await joined.store.machines() if m.name == machine}
            await asyncio.sleep(0.05)


async def test_the_second_machine_of_a_name_is_refused_at_another_edge_too(joined: Joined) -> None:
    other = await joined.edge()
    with pytest.raises(LinkError, match="another machine is called box/sf; give this one a --name"):
        await joined.agent("sf", other).run()
    await beats(joined, "box/sf")  # the first is not disturbed


async def test_the_same_machine_may_come_to_another_edge_with_what_it_runs(
    joined: Joined,
) -> None:
    joined.urls["paris"] = joined.urls["sf"]
    one, other = await joined.edge(), await joined.edge()
    agent = joined.agents["paris"] = asyncio.create_task(joined.agent("paris", one, other).run())
    await beats(joined, "box/paris")
    await joined.start(node("n1", "paris"))
    process = await process_of(joined, "n1")
    joined.lose_edge(one)
    await beats(joined, "box/paris")
    assert process.is_running()
    assert await joined.nodes() == [node("n1", "paris")]
    assert not agent.done()
    await joined.stop("n1")  # the new edge hands it on
    assert not process.is_running()


async def test_an_edge_that_says_nothing_is_left_for_another(joined: Joined) -> None:
    mute = await ws_create_server(lambda request: WSListener(), "127.0.0.1", 0)
    joined.urls["paris"] = joined.urls["sf"]
    urls = (f"http://127.0.0.1:{mute.sockets[0].getsockname()[1]}", await joined.edge())
    joined.agents["paris"] = asyncio.create_task(joined.agent("paris", *urls).run())
    await beats(joined, "box/paris")
    mute.close()


async def test_a_region_that_is_full_refuses_before_it_is_asked_and_after(joined: Joined) -> None:
    await joined.nodes()
    names = [f"n{k}" for k in range(4)]
    words = "no machine in sf has a free GPU; add one: understudy join URL"
    assert joined.refusal(node("more"), [node(name) for name in names]) == words
    assert joined.refusal(node("more", "tokyo"), [node(name) for name in names]) is None
    await asyncio.gather(*(joined.start(node(name)) for name in names))
    await joined.nodes()
    assert joined.refusal(node("more")) == words
    with pytest.raises(NoCapacity, match=words):
        await joined.start(node("more"))
    await joined.stop("n0")
    await joined.nodes()
    assert joined.refusal(node("more"), [node("n1")]) is None  # which has been counted
