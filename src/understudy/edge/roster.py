"""The workers that an edge reaches, and what is known of their models."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Final

from understudy.config import Config
from understudy.core import wire
from understudy.core.errors import ModelFailed
from understudy.core.fleet import EdgeRow, Fleet, Link, Worker, WorkerState, link_url
from understudy.edge.errands import Errands
from understudy.edge.links import WorkerLink
from understudy.seams import Clock, Store

log = logging.getLogger(__name__)

NOISE_S: Final = 0.005  # by which round trips differ anyway
LOST_LOAD_S: Final = 3.0
FAILED_LOADS: Final = 2  # of a revision that never loaded: then the one before is taken again


class Roster:
    """links.Workers: one edge's links, the models' cards, and which of them fail."""

    def __init__(
        self,
        store: Store,
        config: Callable[[], Config],
        admits_worker: Callable[[str, str], bool],
        errands: Errands,
        row: EdgeRow,
        clock: Clock,
    ) -> None:
        """`admits_worker(node, secret)`; `row`: the edge."""
        self._store = store
        self._config = config
        self.admits = admits_worker
        self._errands = errands
        self._row = row
        self._clock = clock
        self._fleet: Callable[[], Fleet] = Fleet  # as it was last read
        self.changed: Callable[[], None] = lambda: None  # somebody may have to be seated anew
        self.load_gave_up: Callable[[str, str], None] = lambda model, message: None
        self.links: dict[str, WorkerLink] = {}
        self.cards: dict[tuple[str, str], wire.Card] = {}  # by (model, revision)
        self.failures: dict[tuple[str, str], str] = {}  # (model, revision) -> why it fails
        self._failed_loads: Counter[tuple[str, str]] = Counter()
        self._loaded: set[tuple[str, str]] = set()
        self._ended_busy_s: defaultdict[str, float] = defaultdict(float)
        self._links_written: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.new_card = asyncio.Event()

    async def open(self, fleet: Callable[[], Fleet]) -> None:
        """`fleet()`: as it was last read."""
        self._fleet = fleet
        await self.read()
        self._loaded.update(await self._store.loaded())

    def new_link(self) -> WorkerLink:
        return WorkerLink(self, self._clock)

    async def read(self) -> None:
        self.cards.update(await self._store.cards())
        self._wake_for_cards()

    # what is known of models

    def card(self, model: str) -> wire.Card | None:
        """The card of a model: of its newest revision, else of any."""
        spec = self._config().models.get(model)
        if spec is not None and (card := self.cards.get((model, spec.revision))):
            return card
        return next((card for (name, _), card in self.cards.items() if name == model), None)

    def learn_card(self, model: str, revision: str, card: wire.Card) -> None:
        """What a revision says of itself, now that it was loaded."""
        self.failures.pop((model, revision), None)
        if self.cards.get((model, revision)) != card:
            self.cards[model, revision] = card
            self._errands.spawn(
                self._errands.insist(lambda: self._store.save_card(model, revision, card))
            )
        self._wake_for_cards()

    def learn_failure(self, model: str, revision: str, reason: str) -> None:
        self.failures[model, revision] = reason
        self._wake_for_cards()

    def _wake_for_cards(self) -> None:
        event, self.new_card = self.new_card, asyncio.Event()
        event.set()

    def failure(self, model: str) -> str | None:
        """Why the newest revision of a model does not load, if that is all that is known."""
        spec = self._config().models.get(model)
        return None if spec is None else self.failures.get((model, spec.revision))

    def raise_failure(self, model: str) -> None:
        trying = any(link.worker.model == model for link in self.links.values())
        reason = self.failure(model)
        if reason is not None and not trying:
            raise ModelFailed(reason)

    def busy_s(self) -> Mapping[str, float]:
        """By model: what its workers have spent in steps, those that are gone included."""
        total = self._ended_busy_s.copy()
        for link in self.links.values():
            total[link.worker.model] += link.busy_s
        return total

    def failed(self, model: str) -> bool:
        """Whether the model's last load failed, and no worker has it."""
        return self.failure(model) is not None and not self.ready(model)

    def ready(self, model: str) -> bool:
        return any(
            link.worker.model == model and link.worker.state is WorkerState.READY
            for link in self.links.values()
        )

    # links.Workers

    def worker_hello(self, link: WorkerLink) -> None:
        old = self.links.get(link.worker.id)
        self.links[link.worker.id] = link
        if old is not None:  # it dialled again before this edge knew that the old one was lost
            old.cut()
        link.say(type="edges", edge=self._row.name, edges=self.link_urls(link.worker.region))

    def link_urls(self, region: str) -> dict[str, str]:
        """Where workers of a region dial each edge, by its name."""
        urls = {edge.name: edge.url_from(region) for edge in self._fleet().edges}
        return {name: link_url(url) for name, url in urls.items() if url}

    def say_edges(self) -> None:
        for link in self.links.values():
            link.say(type="edges", edge=self._row.name, edges=self.link_urls(link.worker.region))

    def worker_changed(self, link: WorkerLink) -> None:
        worker = link.worker
        if not worker.id:
            return  # it never was one of ours
        if worker.state is WorkerState.GONE:
            self._ended_busy_s[worker.model] += link.busy_s
            if self.links.get(worker.id) is link:
                del self.links[worker.id]
            level = logging.INFO if self._errands.closing else logging.WARNING
            words = ("worker %s (%s) is gone: %s", worker.id, worker.model, worker.reason)
            log.log(level, *words, extra={"worker": worker.id, "model": worker.model})
        if worker.state is WorkerState.READY and link.card is not None:
            self.learn_card(worker.model, worker.revision, link.card)
            self._loaded.add((worker.model, worker.revision))
            extra = {"worker": worker.id, "model": worker.model}
            log.info("worker %(worker)s (%(model)s) is ready", extra, extra=extra)
        self._errands.spawn(self._save(link, worker))

    async def _save(self, link: WorkerLink, worker: Worker) -> None:
        at_s = self._clock.wall()
        async with self._links_written[worker.id]:  # a link that is lost, and the next one
            if worker.state is WorkerState.READY:
                await self._errands.insist(lambda: self._link(link, worker))
                await self._errands.insist(lambda: self._store.ready(worker.id, at_s))
            elif link.left:
                await self._errands.insist(lambda: self._store.gone(worker.id, at_s, worker.reason))
                self._links_written.pop(worker.id, None)
            elif worker.id not in self.links:
                await self._errands.insist(lambda: self._store.unlink(worker.id, self._row.name))
        self.changed()

    async def _link(self, link: WorkerLink, worker: Worker) -> None:
        if not await self._store.link(Link(worker.id, self._row.name, link.rtt_s)):
            link.say(type="leave", why="it was given up")

    def knows(self, worker: Worker) -> bool:
        """Whether the store has such a worker; if not, it is read again soon."""
        asked = (worker.id, worker.model, worker.revision)
        known = any((w.id, w.model, w.revision) == asked for w in self._fleet().workers)
        if not known:
            self.changed()
        return known

    def serves(self, node: str, secret: str) -> bool:
        """Whether it is a worker of ours that is not gone."""
        there = any(worker.id == node for worker in self._fleet().workers)
        return there and self.admits(node, secret)

    def load_lost(self, link: WorkerLink) -> None:
        self._errands.spawn(self._judge_load(link))

    async def _judge_load(self, link: WorkerLink) -> None:
        """Was it the line, or did the worker die? In a while one knows."""
        await self._clock.sleep(LOST_LOAD_S)
        worker = link.worker.id
        if worker not in self.links and all(w.id != worker for w in self._fleet().workers):
            self.load_failed(link, "its worker died while it was loading")

    def load_failed(self, link: WorkerLink, message: str) -> None:
        model = link.worker.model
        returned = (w.id for w in self._fleet().workers if w.state is WorkerState.STOPPING)
        if self._errands.closing or link.worker.id in returned:
            return  # no failure: it was in the middle of its load when it was given back
        log.error("worker %s (%s): %s", link.worker.id, model, message)
        key = (model, link.worker.revision)
        self.learn_failure(*key, message)
        self._failed_loads[key] += 1
        if self._failed_loads[key] >= FAILED_LOADS and key not in self._loaded:
            self._errands.spawn(self._errands.insist(lambda: self._store.fail(*key, message)))
        if self.failed(model):
            self.load_gave_up(model, message)

    async def say_distances(self) -> None:
        """Writes anew how far the workers are, where that has changed, or was lost with us."""
        known = {link.worker: link for link in self._fleet().links if link.edge == self._row.name}
        for link in list(self.links.values()):
            written = known.get(link.worker.id)
            if link.worker.state is not WorkerState.READY:
                continue
            noise_s = max(NOISE_S, 0.25 * written.rtt_s) if written else 0.0
            if written is None or abs(link.rtt_s - written.rtt_s) > noise_s:
                async with self._links_written[link.worker.id]:
                    if self.links.get(link.worker.id) is link:
                        await self._link(link, link.worker)

    async def drain(self, worker: str) -> None:
        await self._store.drain(worker, True)
        self.changed()
