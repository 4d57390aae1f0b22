"""seams.Store in terms of transactions: all that a database's driver adds is how one is run."""

from __future__ import annotations

import asyncio
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from understudy.core.fleet import (
    Deployment,
    EdgeRow,
    Fleet,
    Link,
    Machine,
    Node,
    Order,
    Placement,
    Request,
    Seat,
    SessionRow,
    Worker,
)
from understudy.core.ledger import Interval, Role
from understudy.core.wire import Card
from understudy.store import bundles, machines, transactions
from understudy.store.transactions import Kind, Transaction

P = ParamSpec("P")
T = TypeVar("T")


class SqlStore(ABC):
    """seams.Store, but for `open`, `close` and `is_leader`."""

    @abstractmethod
    async def _run(
        self, kind: Kind, work: Callable[P, Transaction[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def look(self) -> Fleet:
        return await self._run(Kind.READ, transactions.look)

    async def rent(self, worker: Worker) -> None:
        await self._run(Kind.EACH, transactions.rent, worker)

    async def ready(self, worker: str, at_s: float) -> None:
        await self._run(Kind.EACH, transactions.ready, worker, at_s)

    async def drain(self, worker: str, on: bool) -> bool:
        return await self._run(Kind.EACH, transactions.drain, worker, on)

    async def retire(self, worker: str) -> bool:
        return await self._run(Kind.WRITE, transactions.retire, worker)

    async def gone(self, worker: str, at_s: float | None, reason: str) -> None:
        await self._run(Kind.WRITE, transactions.gone, worker, at_s, reason)

    async def history(self, from_s: float) -> tuple[Sequence[Worker], Sequence[SessionRow]]:
        return await self._run(Kind.READ, transactions.history, from_s)

    async def loaded(self) -> Collection[tuple[str, str]]:
        return await self._run(Kind.READ, transactions.loaded)

    async def beat(self, edge: EdgeRow) -> None:
        await self._run(Kind.EACH, transactions.beat, edge)

    async def lose(self, edge: str, at_s: float, beat: int | None = None) -> int:
        return await self._run(Kind.WRITE, transactions.lose, edge, at_s, beat)

    async def link(self, link: Link) -> bool:
        return await self._run(Kind.EACH, transactions.link, link)

    async def unlink(self, worker: str, edge: str) -> None:
        await self._run(Kind.WRITE, transactions.unlink, worker, edge)

    async def begin(self, row: SessionRow, seat: Seat | None = None) -> bool:
        return await self._run(Kind.WRITE, transactions.begin, row, seat)

    async def take(self, seat: Seat, edge: str) -> bool:
        return await self._run(Kind.WRITE, transactions.take, seat, edge)

    async def place(self, request: Request) -> Placement | None:
        return await self._run(Kind.WRITE, transactions.place, request)

    async def move(self, session: str, source: str | None, target: str, why: str) -> bool:
        return await self._run(Kind.WRITE, transactions.move, session, source, target, why)

    async def release(self, session: str, worker: str, slot: int, edge: str) -> None:
        await self._run(Kind.EACH, transactions.release, session, worker, slot, edge)

    async def end(self, session: str, reason: str, at_s: float, edge: str) -> None:
        await self._run(Kind.WRITE, transactions.end, session, reason, at_s, edge)

    async def evict(self, session: str, reason: str) -> None:
        await self._run(Kind.EACH, transactions.evict, session, reason)

    async def adopt(
        self, user: str, resume: str, edge: str, region: str, *, orphan: bool = False
    ) -> SessionRow | None:
        return await self._run(Kind.WRITE, transactions.adopt, user, resume, edge, region, orphan)

    async def expire(self, before_s: float) -> int:
        return await self._run(Kind.WRITE, transactions.expire, before_s)

    async def offer(self, machine: Machine) -> None:
        await self._run(Kind.EACH, machines.offer, machine)

    async def withdraw(self, machine: str) -> None:
        await self._run(Kind.WRITE, machines.withdraw, machine)

    async def machines(self) -> Sequence[Machine]:
        return await self._run(Kind.READ, machines.machines)

    async def orders(self, machine: str | None = None) -> Sequence[Order]:
        return await self._run(Kind.READ, machines.orders, machine)

    async def order(self, node: Node, *, light: bool) -> str | None:
        return await self._run(Kind.WRITE, machines.order, node, light)

    async def cancel(self, node: str) -> bool:
        return await self._run(Kind.WRITE, machines.cancel, node)

    async def report(self, machine: str, exited: Mapping[str, str], stopped: Sequence[str]) -> None:
        await self._run(Kind.WRITE, machines.report, machine, exited, stopped)

    async def save_card(self, model: str, revision: str, card: Card) -> None:
        await self._run(Kind.EACH, transactions.save_card, model, revision, card)

    async def cards(self) -> Mapping[tuple[str, str], Card]:
        return await self._run(Kind.READ, transactions.cards)

    async def deploy(self, deployment: Deployment) -> None:
        await self._run(Kind.EACH, transactions.deploy, deployment)

    async def deployments(self) -> Sequence[Deployment]:
        return await self._run(Kind.READ, transactions.deployments)

    async def fail(self, model: str, revision: str, reason: str) -> None:
        await self._run(Kind.EACH, transactions.fail, model, revision, reason)

    async def save_bundle(self, revision: str, parts: Iterable[bytes]) -> None:
        size, digest, number = 0, hashlib.sha256(), 0
        waiting = iter(parts)
        while (part := await asyncio.to_thread(next, waiting, None)) is not None:
            number += 1
            await self._run(Kind.EACH, bundles.save_part, revision, number, part)
            size += len(part)
            digest.update(part)
        end = bundles.Manifest(number, size, digest.hexdigest())
        await self._run(Kind.EACH, bundles.finish, revision, end)

    async def bundle_size(self, revision: str) -> int | None:
        manifest = await self._run(Kind.READ, bundles.manifest, revision)
        return None if manifest is None else manifest.size

    async def bundle(self, revision: str) -> AsyncIterator[bytes]:
        manifest = await self._run(Kind.READ, bundles.manifest, revision)
        for number in range(1, manifest.parts + 1 if manifest else 1):
            yield await self._run(Kind.READ, bundles.part, revision, number)

    async def meter(self, intervals: Sequence[Interval]) -> None:
        await self._run(Kind.EACH, transactions.meter, intervals)

    async def ledger(
        self, *, user: str | None = None, from_s: float = 0.0, to_s: float = math.inf
    ) -> Sequence[Interval]:
        return await self._run(Kind.READ, transactions.ledger, user, from_s, to_s)

    async def heard(self, from_s: float, session: str | None = None) -> Mapping[Role, float]:
        return await self._run(Kind.READ, transactions.heard, from_s, session)
