"""The worker process's life: dials the edges, loads the model, serves until it is told to leave."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final

from picows import ws_connect

from understudy.seams import Clock
from understudy.worker.bundle_path import add_path
from understudy.worker.fetch import Source, fetch
from understudy.worker.link import Link
from understudy.worker.loading import build_model
from understudy.worker.performance import Performance
from understudy.worker.slots import warm_up

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024  # a priming may carry many seconds
DIAL_S: Final = (0.1, 2.0)  # between two tries: at first, and at most
CONNECT_S: Final = 5.0
ALONE_S: Final = 120.0  # without any edge: then nobody needs it
LOOK_S: Final = 1.0
SILENCE_S: Final = 4.0  # of an edge, which pings each second: then it is dialled anew


async def run(
    urls: Sequence[str], secret: str, node: str, region: str, spec: Mapping[str, Any], clock: Clock
) -> int:
    """Serves until it is told to leave; returns the process's exit status.

    `urls`: of edges to dial first (ws://…/v1/link); each tells of all the others.
    """
    started = clock.now()
    hello = {"node": node, "secret": secret, "region": region, "model": spec["name"]}
    performance = Performance(
        {**hello, "revision": spec["revision"], "slots": spec["slots"]}, clock
    )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, performance.leave)
    dialling = loop.create_task(_Dialling(performance, urls, clock).run())
    try:
        if spec.get("bundle"):
            add_path(await fetch(spec, Source(urls[0], node, secret), clock))
        model = build_model(spec["engine"], spec["slots"], spec["options"])
        # In a thread: a load may take many seconds, and the links have to stay alive meanwhile.
        await asyncio.to_thread(model.load, spec.get("device", "cpu"))
        await asyncio.to_thread(warm_up, model)
        # What stands for a heavier load counts from when the process was asked for.
        waited_s = loop.time() - spec.get("asked_at", started)
        await clock.sleep(max(0.0, spec.get("load_s", 0.0) - waited_s))
    except Exception as error:
        log.exception("model %s does not load", spec["name"])
        while not performance.links and not dialling.done():  # somebody ought to hear of it
            await clock.sleep(DIAL_S[0])
        performance.fail(f"{spec['name']} does not load: {error}")
        return await dialling
    if crashes := spec.get("crash_per_minute", 0.0):
        after_s = random.Random(node).expovariate(crashes / 60.0)
        log.warning("%s is a drill: it dies by itself in %.1f s", spec["name"], after_s)
        loop.call_later(after_s, os.kill, os.getpid(), signal.SIGKILL)
    performance.serve(model, clock.now() - started)
    log.info("%s is ready after %.2f s", spec["name"], clock.now() - started)
    return await dialling


class _Dialling:
    """Keeps a link to every edge there is, for as long as `run` runs."""

    def __init__(self, performance: Performance, urls: Sequence[str], clock: Clock) -> None:
        self._performance = performance
        self._urls = urls
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by url
        self._tries: dict[str, int] = {}

    async def run(self) -> int:
        """Until there was no edge for too long; returns the process's exit status."""
        performance = self._performance
        alone_since = looked_s = self._clock.now()
        while self._clock.now() - alone_since < ALONE_S:
            now, before = self._clock.now(), looked_s
            looked_s = now
            if now - before < 2 * LOOK_S:  # else we were away ourselves
                self._drop_silent(now)
            if performance.links:
                alone_since = self._clock.now()
            performance.news.clear()
            linked = {link.edge for link in performance.links}
            wanted = [url for name, url in performance.edges.items() if name not in linked]
            if not performance.links:  # nobody to hear of the others from
                wanted += self._urls
            for url in wanted:
                if url not in self._tasks:
                    task = asyncio.get_running_loop().create_task(self._dial(url))
                    self._tasks[url] = task
            try:
                async with asyncio.timeout(LOOK_S):
                    await performance.news.wait()
            except TimeoutError:
                pass
        log.error("no edge could be reached for %.0f s", ALONE_S)
        return 1

    def _drop_silent(self, now: float) -> None:
        """Where an address has changed, or a cable is cut, no more than silence tells."""
        for link in list(self._performance.links):
            if now - link.heard_s > SILENCE_S:
                log.warning("edge %s is silent; dialling anew", link.edge or "(unknown)")
                link.disconnect()

    async def _dial(self, url: str) -> None:
        """One link's life, and the wait before the next try."""
        try:
            async with asyncio.timeout(CONNECT_S):
                _, link = await ws_connect(
                    lambda: Link(self._performance),
                    url,
                    max_frame_size=MAX_MESSAGE_BYTES,
                    use_aiofastnet=False,
                )
            if not isinstance(link, Link):  # closed before it had answered: picows says nothing
                raise ConnectionResetError("it closes the connection")
            self._performance.connected(link)
            since = self._clock.now()
            await link.closed
            if self._clock.now() - since > DIAL_S[1]:
                self._tries.pop(url, None)
        except (OSError, TimeoutError) as error:
            log.debug("%s cannot be dialled: %s", url, error)
        except Exception as error:  # refused: a wrong address, or one that is not ready
            log.warning("%s refuses the link: %s", url, error)
        tries = self._tries[url] = self._tries.get(url, 0) + 1
        await self._clock.sleep(min(DIAL_S[1], DIAL_S[0] * 2.0 ** min(tries - 1, 10)))
        del self._tasks[url]
        self._performance.news.set()
