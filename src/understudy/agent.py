"""`understudy join`: lends this machine to a fleet. It dials out only, and runs workers.

What is to run is told by whichever edge it is in touch with, as a whole: it starts what is missing
and stops what is not named. So it may lose its line, its address or its edge at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from understudy.core.errors import ConfigError, LinkError
from understudy.core.fleet import Node, link_url
from understudy.providers.subprocesses import Subprocesses
from understudy.seams import Clock

log = logging.getLogger(__name__)

STATE_S: Final = 0.5  # how often it says how it is
DIAL_S: Final = (0.2, 5.0)  # between two rounds of tries: at first, and at most
CONNECT_S: Final = 5.0
SILENCE_S: Final = 4.0  # of an edge, which pings each second: then it is dialled anew
ALONE_S: Final = 60.0  # without any edge: then what runs is nobody's
GOODBYE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Lent:
    """What a machine says of itself. `price_per_h`: of one GPU."""

    name: str
    region: str
    gpus: int
    cpus: int
    price_per_h: float = 0.0


def count_gpus(wish: str) -> int:
    """`all`, or a number. Raises ConfigError."""
    if wish != "all":
        if not wish.isdigit():
            raise ConfigError(f"--gpus takes a number or all, not {wish!r}")
        return int(wish)
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        listed = None
    found = listed.stdout.count("GPU ") if listed and listed.returncode == 0 else 0
    if not found:
        raise ConfigError(
            "nvidia-smi finds no GPU here; say how many to lend with --gpus N (0: this machine's "
            "CPUs only)"
        )
    return found


def link_of(url: str) -> str:
    """Where a machine dials an edge that users reach at `url`."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"{url} is no address of an edge; it looks like https://sf.example.com")
    return link_url(url)


class _Line(WSListener):
    def __init__(self, heard: Callable[[Mapping[str, Any]], None], clock: Clock) -> None:
        self._heard = heard
        self._clock = clock
        self.transport: WSTransport | None = None
        self.why = ""  # it was closed, as the edge said
        self.heard_s = clock.now()
        self.taken = False  # the fleet has let us in
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transport = None
        if not self.closed.done():
            self.closed.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.heard_s = self._clock.now()
        if frame.msg_type == WSMsgType.TEXT:
            message = json.loads(frame.get_payload_as_utf8_text())
            if message:  # else it says that the line holds
                self.taken = True
                self._heard(message)
        elif frame.msg_type == WSMsgType.CLOSE:
            self.why = (frame.get_close_message() or b"").decode(errors="replace")
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def say(self, **message: Any) -> None:
        if self.transport is not None:
            self.transport.send(WSMsgType.TEXT, json.dumps(message).encode())


class Agent:
    """Keeps in touch with the fleet, and runs what it is told to."""

    def __init__(self, urls: Sequence[str], token: str, lent: Lent, clock: Clock) -> None:
        """`urls`: of edges to dial first; each tells of all the others. Raises ConfigError."""
        self._seeds = [link_of(url) for url in urls]
        self._urls = list(self._seeds)
        self._token = token
        self._lent = lent
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._workers = Subprocesses()
        self._orders: dict[str, Mapping[str, Any]] | None = None  # None: not told yet
        self._busy: dict[str, asyncio.Task[None]] = {}  # nodes that are being started or stopped
        self._exited: dict[str, str] = {}  # ... and what could not be started
        self._gpus: dict[int, str] = {}  # index -> node
        self._line: _Line | None = None
        self._news = asyncio.Event()
        self._leaving_since: float | None = None

    async def run(self, grace_s: float = 0.0) -> None:
        """Until it has left, or is cancelled; then nothing that it started is left. `grace_s`: how
        long leaving may take. Raises LinkError if the fleet refuses this machine."""
        works = (self._keep_in_touch(), self._keep_running(), self._until_left(grace_s))
        tasks = [asyncio.get_running_loop().create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *self._busy.values(), return_exceptions=True)
            await self._workers.close()
            if self._line is not None:
                self._line.say(nodes={}, left=True)
                await self._clock.sleep(GOODBYE_S)  # lets the last message leave
                if self._line.transport is not None:
                    self._line.transport.disconnect()

    def leave(self) -> None:
        """Says that this machine is about to go: the fleet moves away who is here. Said again:
        goes at once."""
        again, now = self._leaving_since is not None, self._clock.now()
        self._leaving_since = -math.inf if again else now
        log.info("leaving %s", "at once" if again else "once all who are here have been moved")
        self._say_state()
        self._news.set()

    async def _until_left(self, grace_s: float) -> None:
        touched_s = self._clock.now()
        while True:
            now = self._clock.now()
            if self._line is not None:
                touched_s = now
            if self._leaving_since is not None:
                told = self._line is not None and self._orders
                if not (told or self._busy or self._workers.nodes()):
                    return
                alone = now - max(touched_s, self._leaving_since) > 2 * SILENCE_S
                if alone or now - self._leaving_since >= grace_s:
                    log.warning("leaving, though workers run: %d", len(self._workers.nodes()))
                    return
            await self._clock.sleep(STATE_S / 5)

    # the line

    async def _keep_in_touch(self) -> None:
        tries, alone_since = 0, self._clock.now()
        while True:
            for url in dict.fromkeys([*self._urls, *self._seeds]):
                if await self._talk(f"{url}/machine"):
                    tries, alone_since = 0, self._clock.now()
                    break
            else:
                tries += 1
            if self._clock.now() - alone_since > ALONE_S and self._orders:
                log.error("no edge could be reached for %.0f s: all workers are stopped", ALONE_S)
                self._orders = {}
                self._news.set()
            await self._clock.sleep(min(DIAL_S[1], DIAL_S[0] * 2.0 ** min(tries, 8)))

    async def _talk(self, url: str) -> bool:
        """One line's life; whether it was taken. Raises LinkError if the fleet says no."""
        try:
            async with asyncio.timeout(CONNECT_S):
                _, line = await ws_connect(
                    lambda: _Line(self._heard, self._clock), url, use_aiofastnet=False
                )
        except (OSError, TimeoutError) as error:
            log.info("%s cannot be reached: %s", url, error)
            return False
        except Exception as error:
            log.warning("%s refuses: %s", url, error)
            return False
        if not isinstance(line, _Line):  # closed before it had answered: picows does not say so
            log.info("%s closes the connection", url)
            return False
        line.say(token=self._token, agent=self._id, **asdict(self._lent))
        self._line = line
        while line.transport is not None:
            self._say_state()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATE_S):
                    await asyncio.shield(line.closed)
            # Where an address has changed, or a cable is cut, no more than silence tells.
            if line.transport is not None and self._clock.now() - line.heard_s > SILENCE_S:
                log.warning("%s is silent; dialling anew", url)
                line.transport.disconnect(False)
                await line.closed
        self._line = None
        if line.why and not line.taken:
            raise LinkError(line.why)
        if line.why:
            log.warning("the edge closed the line: %s", line.why)
        return line.taken

    def _say_state(self) -> None:
        if self._line is None:
            return
        nodes = {node.id: node.exited for node in self._workers.nodes()}
        self._line.say(
            nodes={**dict.fromkeys(self._busy), **nodes, **self._exited},
            leaving=self._leaving_since is not None,
        )

    def _heard(self, message: Mapping[str, Any]) -> None:
        self._orders = {order["id"]: order for order in message["nodes"]}
        self._urls = list(message["urls"]) or self._urls
        self._news.set()

    # the workers

    async def _keep_running(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATE_S):
                    await self._news.wait()
            self._news.clear()
            if self._orders is None:
                continue
            self._exited = {node: why for node, why in self._exited.items() if node in self._orders}
            there = {node.id for node in self._workers.nodes()}
            for node in there - self._orders.keys() - self._busy.keys():
                self._begin(node, self._stop(node))
            held = self._orders.keys() | there | self._busy.keys()
            self._gpus = {gpu: node for gpu, node in self._gpus.items() if node in held}
            for node in self._orders.keys() - there - self._busy.keys() - self._exited.keys():
                order = self._orders[node]
                free = order["light"] or len(self._gpus) < self._lent.gpus
                if order["spec"] is not None and free:  # else in a moment
                    self._begin(node, self._start(order))

    def _begin(self, node: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._busy[node] = task

        def done(task: asyncio.Task[None]) -> None:
            self._busy.pop(node, None)
            if not task.cancelled() and (error := task.exception()):
                log.error("node %s: %s", node, error, exc_info=error)
                self._exited[node] = f"could not be started: {error}"
            self._say_state()
            self._news.set()

        task.add_done_callback(done)

    async def _start(self, order: Mapping[str, Any]) -> None:
        node = Node(order["id"], order["model"], order["revision"], order["region"])
        visible = ""
        if not order["light"]:
            free = [gpu for gpu in range(self._lent.gpus) if gpu not in self._gpus]
            if not free:
                raise RuntimeError("no GPU of this machine is free")
            self._gpus[free[0]] = node.id
            visible = str(free[0])
        log.info("node %s starts for %s", node.id, node.model)
        await self._workers.start(
            node, order["spec"], order["secret"], self._urls, CUDA_VISIBLE_DEVICES=visible
        )

    async def _stop(self, node: str) -> None:
        await self._workers.stop(node)
        self._gpus = {gpu: holder for gpu, holder in self._gpus.items() if holder != node}
        log.info("node %s is stopped", node)
