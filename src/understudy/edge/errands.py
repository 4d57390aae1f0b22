"""What is to be said to the store sooner or later, whatever becomes of it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from understudy.core.errors import StoreAway
from understudy.seams import Clock

log = logging.getLogger(__name__)

AWAY_S: Final = 0.5  # between two tries to write to a store that is away


class Errands:
    """Tasks that nobody waits for, until the end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self.closing = False  # then a store that is away is not waited for

    async def insist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Writes what may be written late (and twice), however long the store is away."""
        while True:
            try:
                await write()
                return
            except StoreAway:
                if self.closing:
                    raise
                await self._clock.sleep(AWAY_S)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                log.error("the store failed", exc_info=error)

    async def settle(self) -> None:
        """Waits until all that was begun is done."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
