"""Three times as many users as there is room for: what the admitted notice, and whether the others
are told the truth.

`understudy up` rents at most so many nodes of 4 slots: that is the capacity C. First C users come
and speak without a pause (the mirror performs); then 2 C more, at random over some seconds. All
stay for a random time (exponential, never less than 2 s after they are led) and leave by
themselves, so that those who wait come in. Who waits is covered by the understudy meanwhile, as
always, so the machine carries 3 C streams.

- delay: of each piece of audio, from when its last sample was due to be spoken to when it came
  back, of the C admitted; before (C alone) and during (while others wait).
- eta: `queued` tells who waits how long it will be; the error is against how long it then was until
  the lead performed. First: the first that a user was told; all: each that was told. None is told
  until five sessions have ended since the start: there is no honest guess before.
- a user waits from its `start` to the lead's `live`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from understudy import eventloop
from understudy.bench import world as worlds
from understudy.bench.callers import Caller, never_zero
from understudy.bench.recordings import files
from understudy.bench.server import (
    PATIENCE_S,
    Server,
    all_met,
    as_table,
    figure,
    load_average,
    serving,
    spread_ms,
)
from understudy.bench.world import Say
from understudy.client import Client
from understudy.core import wire

VOICE: Final = "star"
UNTOUCHED_MS: Final = 20.0  # the p99 of the admitted may differ by, before and during
LEAST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Effort:
    nodes: int
    mean_s: float  # how long a user stays, once led
    before_s: float  # the admitted alone
    spread_s: float  # over which the others come
    warm_up: int  # short sessions before, of which lengths are learnt


FULL: Final = Effort(nodes=3, mean_s=30.0, before_s=20.0, spread_s=10.0, warm_up=6)
QUICK: Final = Effort(nodes=1, mean_s=2.0, before_s=1.0, spread_s=1.0, warm_up=5)


@dataclass(slots=True)
class Waited:
    """One user who found no room."""

    user: str
    waited_s: float
    told: list[tuple[float, float]] = field(default_factory=list)  # (eta, how long it then was)
    positions: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Found:
    before_s: list[float] = field(default_factory=list)
    during_s: list[float] = field(default_factory=list)
    waited: list[Waited] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    sent_late_s: list[float] = field(default_factory=list)
    at_once: int = 0  # of the latecomers, those who found a slot


def run(audio: Path | None, *, quick: bool = False, progress: Say | None = None) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met."""
    say = progress or (lambda _line: None)
    effort = QUICK if quick else FULL
    before = load_average()
    capacity = effort.nodes * worlds.SLOTS
    config = worlds.configuration([VOICE], nodes=effort.nodes)
    with serving(config) as server:
        found = eventloop.run(_measure(server, audio, effort, capacity, say))
        tracebacks = worlds.errors(server.log)
    figures = _figures(found, capacity, tracebacks)
    return {
        "benchmark": "overload",
        "quick": quick,
        "what": " ".join((__doc__ or "").split()),
        "load_average": [before, load_average()],
        "speech": "recorded" if files(audio) else "made up",
        "setup": asdict(effort) | {"capacity": capacity, "users": 3 * capacity},
        "waited": [asdict(one) for one in found.waited],
        "lost": found.lost,
        "figures": figures,
        "met": all_met(figures),
    }


async def _measure(
    server: Server, audio: Path | None, effort: Effort, capacity: int, say: Say
) -> Found:
    found, choice = Found(), random.Random(29)
    client, speeches = Client(server.url), never_zero(audio)
    await server.knows(VOICE)

    def stays_s() -> float:
        return LEAST_S + choice.expovariate(1 / max(0.1, effort.mean_s - LEAST_S))

    async with AsyncExitStack() as stack:

        async def call(user: str, first: int) -> Caller:
            stream = await stack.enter_async_context(client.stream(VOICE, user, 24_000))
            return Caller(user, stream, speeches[first % len(speeches)])

        # What sessions usually last is learnt from some that were.
        for number in range(0, effort.warm_up, capacity):
            group = range(number, min(effort.warm_up, number + capacity))
            early = [await call(f"early-{k}", k) for k in group]
            await asyncio.gather(*(_stay(one, stays_s(), found) for one in early))
        say(f"{capacity} users, who fill {effort.nodes} nodes")
        admitted = []
        for number in range(capacity):
            admitted.append(await call(f"admitted-{number}", number))
            await asyncio.sleep(0.03)
        for one in admitted:
            await one.until(one.is_led)
        began_s = time.perf_counter()
        await asyncio.sleep(effort.before_s)
        came_s = time.perf_counter()
        say(f"{2 * capacity} more")
        staying = [asyncio.create_task(_stay(one, stays_s(), found)) for one in admitted]
        late = sorted(choice.uniform(0.0, effort.spread_s) for _ in range(2 * capacity))
        waiting: list[Caller] = []
        for number, at_s in enumerate(late):
            await asyncio.sleep(max(0.0, came_s + at_s - time.perf_counter()))
            one = await call(f"late-{number}", number)
            waiting.append(one)
            staying.append(asyncio.create_task(_stay(one, stays_s(), found)))
        await asyncio.gather(*staying)
        for one in admitted:
            found.before_s += [d for at_s, d in one.delays if began_s < at_s <= came_s]
            found.during_s += [d for at_s, d in one.delays if at_s > came_s]
        for one in waiting:
            heard_of = _waited(one)
            if heard_of.told or heard_of.positions:
                found.waited.append(heard_of)
            else:
                found.at_once += 1
        found.sent_late_s = [late_s for one in (*admitted, *waiting) for late_s in one.late_s]
    return found


async def _stay(one: Caller, seconds: float, found: Found) -> None:
    """Until so long after the lead has come."""
    with contextlib.suppress(Exception):  # why it ended is told by `leave`
        await one.until(one.is_led, 10 * PATIENCE_S)
        await asyncio.sleep(seconds)
    if why := await one.leave():
        found.lost.append(why)


def _waited(one: Caller) -> Waited:
    led_s = next(
        (at_s for at_s, e in one.told if isinstance(e, wire.Live) and e.role == "lead"), None
    )
    if led_s is None:
        return Waited(one.user, float("inf"))
    heard_of = Waited(one.user, led_s - one.began_s)
    for at_s, event in one.told:
        if isinstance(event, wire.Queued) and at_s < led_s:
            heard_of.positions.append(event.position)
            if event.eta_s is not None:
                heard_of.told.append((event.eta_s, led_s - at_s))
    return heard_of


def _figures(found: Found, capacity: int, tracebacks: int) -> list[dict[str, Any]]:
    before, during = spread_ms(found.before_s or [0.0]), spread_ms(found.during_s or [0.0])
    firsts = [one.told[0] for one in found.waited if one.told]
    every = [pair for one in found.waited for pair in one.told]
    waits = spread_ms([one.waited_s for one in found.waited] or [0.0])
    return [
        figure("capacity", capacity, "sessions"),
        figure("users who came", 3 * capacity),
        figure("... and were lost", len(found.lost), at_most=0),
        figure("... late, and waited in the queue", len(found.waited), at_least=1),
        figure("... late, and found a slot", found.at_once),
        figure("delay of the admitted before, p50", before["p50"], "ms"),
        figure("delay of the admitted before, p99", before["p99"], "ms"),
        figure("delay of the admitted during, p50", during["p50"], "ms"),
        figure("delay of the admitted during, p99", during["p99"], "ms",
               at_most=before["p99"] + UNTOUCHED_MS),
        figure("waits, p50", waits["p50"] / 1e3, "s"),
        figure("waits, max", waits["max"] / 1e3, "s"),
        figure("who waited and was told an eta", len(firsts)),
        *_errors("first eta told", firsts),
        *_errors("all etas told", every),
        figure("tracebacks in the server's log", tracebacks, at_most=0),
        figure("these clients sent late, p99", spread_ms(found.sent_late_s)["p99"], "ms"),
    ]  # fmt: skip


def _errors(what: str, told: list[tuple[float, float]]) -> list[dict[str, Any]]:
    if not told:
        return []
    return [
        figure(f"{what}: error, the median", median(abs(eta - was) for eta, was in told), "s"),
        figure(f"{what}: ... as a share of the wait",
               median(abs(eta - was) / max(0.1, was) for eta, was in told), "ratio"),
        figure(f"{what}: too long by (too short: negative), the median",
               median(eta - was for eta, was in told), "s"),
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    setup = result["setup"]
    head = (
        f"{setup['users']} users for {setup['capacity']} slots, who stay {setup['mean_s']:g} s on "
        f"average; {result['speech']} speech; load average {result['load_average'][0]} to "
        f"{result['load_average'][1]}"
    )
    return as_table(head, result["figures"])
