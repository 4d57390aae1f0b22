"""Machines that join a server, are lost, come back, and leave in good order. All real processes."""

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.box import HOUR_S, Box, all_gone, join_token, seen
from tests.server import Server
from understudy import Client
from understudy.bench.server import RATE_HZ, Speaker
from understudy.core.fleet import Machine, Order, Worker
from understudy.core.wire import Live
from understudy.seams import Store
from understudy.store import open_store
from understudy.tokens import Keys

CONFIG = """
[models.pitch]
engine = "understudy.models.pitch:PitchModel"
slots = 8
workers = 1

[models.heavy]
engine = "understudy.models.pitch:PitchModel"
slots = 2
load_s = 0.5
price_per_h = 1.0

[fleet]
provider = "join"
patience = 0

[voices.low]
model = "pitch"
params = { pitch = -5 }

[voices.star]
model = "heavy"
params = { pitch = 7 }
"""
NOISE = np.random.default_rng(5).integers(-9000, 9000, 2 * RATE_HZ).astype(np.int16)


class Fleet:
    """A server that waits for machines, and machines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.boxes: list[Box] = []

    def join(self, name: str, *options: str, token: str = "", gpus: int = 0, cpus: int = 0) -> Box:
        token = token or join_token(self.data)
        folder = self.folder / name
        box = Box(self.url, token, name, *options, data=folder, gpus=gpus, cpus=cpus)
        self.boxes.append(box)
        return box

    def serve(self) -> Server:
        self.server = Server(self.data, self.port, CONFIG)
        return self.server

    async def machines(self, *names: str) -> Sequence[Machine]:
        """Once these are there, and no others."""
        wanted = [f"box/{name}" for name in sorted(names)]
        return await seen(
            self.data,
            lambda store: store.machines(),
            lambda there: [machine.name for machine in there] == wanted,
        )

    async def orders(self, holds: Callable[[Sequence[Order]], bool]) -> Sequence[Order]:
        return await seen(self.data, lambda store: store.orders(), holds)

    async def workers(self, holds: Callable[[list[Worker]], bool]) -> list[Worker]:
        """Those that are gone, too."""

        async def look(store: Store) -> list[Worker]:
            return list((await store.history(0.0))[0])

        return await seen(self.data, look, holds)

    def close(self) -> None:
        for box in self.boxes:
            if box.process.poll() is None:
                box.process.send_signal(signal.SIGCONT)
                box.end()
        if hasattr(self, "server"):
            assert self.server.stop() == 0
            assert "Traceback" not in self.server.log, self.server.log


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


async def test_a_machine_that_dies_is_outlived_given_up_and_taken_back(fleet: Fleet) -> None:
    fleet.join("light", cpus=1)
    fleet.join("heavy", "--price", "2.5", gpus=1)
    server = fleet.serve()
    light, heavy = fleet.boxes
    assert [(m.gpus, m.cpus) for m in await fleet.machines("heavy", "light")] == [(1, 0), (0, 1)]
    async with Client(server.url).stream("star", "alice") as stream:
        speaker = Speaker(stream, NOISE)
        await speaker.until_live("lead")
        orders = await fleet.orders(lambda orders: len(orders) == 2)
        placed = {order.node.model: (order.machine, order.light) for order in orders}
        assert placed == {"pitch": ("box/light", True), "heavy": ("box/heavy", False)}
        lead = next(w for w in await fleet.workers(bool) if w.model == "heavy")
        assert lead.price_per_h == 2.5
        (worker,) = heavy.workers()
        assert [w.environ()["CUDA_VISIBLE_DEVICES"] for w in (worker, *light.workers())] == [
            "0",
            "",
        ]

        led, covered = len(speaker.lives("lead")), len(speaker.lives("understudy"))
        heavy.kill()
        await all_gone([worker])
        await speaker.until_live("understudy", covered + 1)
        await speaker.until_heard(0.5)
        await asyncio.to_thread(server.wait_for, "machine box/heavy is silent and given up")
        await fleet.machines("light")
        left = await fleet.orders(lambda orders: len(orders) == 1)
        assert left[0].node.model == "pitch"
        dead = await fleet.workers(lambda all: any(w.stopped_s for w in all))
        assert [w.id for w in dead if w.stopped_s] == [lead.id]
        await asyncio.to_thread(server.wait_for, "heavy is not started: no machine in local")

        heavy.start()
        await speaker.until_live("lead", led + 1)
        await fleet.machines("heavy", "light")
        await speaker.stop()
    assert len(await fleet.workers(bool)) == 3  # nothing was recorded that never was
    assert server.log.count("heavy is not started") == 1


async def test_who_is_on_a_machine_that_leaves_is_moved_first(fleet: Fleet) -> None:
    light, one = fleet.join("light", cpus=1), fleet.join("one", gpus=1)
    server = fleet.serve()
    async with Client(server.url).stream("star", "alice") as stream:
        speaker = Speaker(stream, NOISE)
        await speaker.until_live("lead")
        processes = one.workers()
        other = fleet.join("other", gpus=1)
        await fleet.machines("light", "one", "other")
        told = len(speaker.told)
        one.leave()
        assert await asyncio.to_thread(one.wait) == 0
        await all_gone(processes)
        await fleet.machines("light", "other")
        moves = [t.event for t in speaker.told[told:] if isinstance(t.event, Live)]
        assert [move.role for move in moves] == ["lead"]  # no understudy in between
        assert "though workers run" not in one.log
        orders = await fleet.orders(lambda orders: len(orders) == 2)
        assert {order.machine for order in orders} == {"box/light", "box/other"}

        # Nobody is left to move her to but her understudy.
        covered = len(speaker.lives("understudy"))
        other.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(other.wait_for, "once all who are here have been moved")
        other.process.send_signal(signal.SIGINT)  # now
        assert await asyncio.to_thread(other.wait) == 0
        await speaker.until_live("understudy", covered + 1)
        await fleet.machines("light")
        await speaker.until_heard(0.3)
        await speaker.stop()
    assert len(light.workers()) == 1


async def test_a_machine_whose_users_cannot_be_moved_goes_when_its_grace_is_over(
    fleet: Fleet,
) -> None:
    fleet.join("light", cpus=1)
    heavy = fleet.join("heavy", "--grace", "1", gpus=1)
    server = fleet.serve()
    async with Client(server.url).stream("star", "alice") as stream:
        speaker = Speaker(stream, NOISE)
        await speaker.until_live("lead")
        covered = len(speaker.lives("understudy"))
        heavy.leave()
        assert await asyncio.to_thread(heavy.wait) == 0
        assert "leaving, though workers run: 1" in heavy.log
        await speaker.until_live("understudy", covered + 1)
        await fleet.machines("light")
        await fleet.orders(lambda orders: len(orders) == 1)  # not after a silence: at once
        assert "silent" not in server.log
        await speaker.stop()


async def test_a_machine_that_was_given_up_comes_back_with_what_it_ran(fleet: Fleet) -> None:
    fleet.join("light", cpus=1)
    heavy = fleet.join("heavy", gpus=1)
    server = fleet.serve()
    async with Client(server.url).stream("star", "alice") as stream:
        speaker = Speaker(stream, NOISE)
        await speaker.until_live("lead")
        (worker,) = heavy.workers()
        covered = len(speaker.lives("understudy"))
        heavy.process.send_signal(signal.SIGSTOP)  # it says nothing; its worker performs on
        await asyncio.to_thread(server.wait_for, "machine box/heavy is silent and given up")
        await fleet.machines("light")
        # Nobody owns that worker now, so it is told to leave, by its edge.
        await speaker.until_live("understudy", covered + 1)
        await asyncio.to_thread(heavy.wait_for, "it was given up")
        heavy.process.send_signal(signal.SIGCONT)
        await speaker.until_live("lead", 2)
        await all_gone([worker])
        await fleet.machines("heavy", "light")
        assert len(heavy.workers()) == 1
        await speaker.stop()


async def test_what_is_not_to_be_had_leaves_no_rows(fleet: Fleet) -> None:
    light = fleet.join("light", "--grace", "0", cpus=1)
    server = fleet.serve()
    async with Client(server.url).stream("star", "alice") as stream:
        speaker = Speaker(stream, NOISE)
        await speaker.until_live("understudy")
        await asyncio.to_thread(server.wait_for, "heavy is not started: no machine in local")
        before = len(server.lines)
        light.leave()
        assert await asyncio.to_thread(light.wait) == 0
        refused = "pitch is not started: no machine in local"
        await asyncio.to_thread(server.wait_for, refused, after=before)
        (only,) = await fleet.workers(lambda all: all[0].stopped_s is not None)
        assert only.model == "pitch"
        fleet.join("another", gpus=1, cpus=1)
        await speaker.until_live("lead")
        await speaker.stop()
    assert len(await fleet.workers(bool)) == 3
    assert server.log.count("heavy is not started") == 1
    assert "".join(server.lines[before:]).count(refused) == 1


async def test_a_node_that_nobody_owns_is_returned(fleet: Fleet) -> None:
    fleet.join("light", cpus=2)
    server = fleet.serve()
    (order,) = await fleet.orders(lambda orders: len(orders) == 1)
    store = await open_store(fleet.data / "understudy.db")
    stray = replace(order.node, id="stray")
    assert await store.order(stray, light=True) == "box/light"
    await store.close()
    await asyncio.to_thread(server.wait_for, "node stray .* is returned")
    (kept,) = await fleet.orders(lambda orders: len(orders) == 1)
    assert kept.node.id == order.node.id
    assert [worker.id for worker in await fleet.workers(bool)] == [order.node.id]


async def test_who_may_not_join_is_told_why(fleet: Fleet) -> None:
    fleet.join("light", cpus=1)
    fleet.serve()
    await fleet.machines("light")
    keys = Keys.read({}, fleet.data)
    now = time.time()
    bound = keys.join_token("box", "tokyo", now + HOUR_S)
    wrong = {
        "expired": (keys.join_token("box", None, now - 1.0), "the token has expired; make a new"),
        "users": (Keys(keys.fleet).user_token("alice", now + HOUR_S), "this is a user's token"),
        "forged": (Keys(fleet=("k" * 40,)).join_token("b", None, now + HOUR_S), "is not valid"),
        "nonsense": ("nonsense", "is not valid"),
        "light": (join_token(fleet.data), "another machine is called box/light; give this one"),
        "elsewhere": (bound, "this token is for machines in tokyo, not in sf"),
    }
    for name, (token, why) in wrong.items():
        more = ("--region", "sf") if name == "elsewhere" else ()
        box = fleet.join(name, *more, token=token, cpus=1)
        assert await asyncio.to_thread(box.wait) == 1, name
        last = " ".join(" ".join(box.lines[1:]).split())
        assert why in last, name
        assert "Traceback" not in box.log
    await fleet.machines("light")
    assert fleet.boxes[0].process.poll() is None
