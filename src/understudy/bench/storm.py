"""What is heard in a storm: a fault every 5 s, for 10 minutes, under live users, in a world of
three regions on one PostgreSQL (see bench/world.py; without one on SQLite, which is said).

The faults, by chance: a worker that performs is killed or frozen, or its links are cut; the
process that leads is killed (its edge goes with it, and its region is started anew after 10 s);
every process of a region is killed (never the last region's that is up); all of the database's
processes stop for 10 s, while the other faults go on.

Users speak without a pause (the mirror performs; no sample said is zero, so each zero heard is
silence in its place), spread over the regions; their clients know one edge and find the others.

- gap: a stretch of more than 80 ms in which no sample came that is not zero (a listener who keeps
  60 ms in store hears it), less the 20 ms that a chunk lasts. After a fault: the longest that began
  within 5 s of it and before the next one, of each session whose edge or performer it took (of all,
  for the store's); an earlier fault may have been its reason.
- lost: a stream that ended unasked, or that had been silent for 10 s at the end.
- billed: the ledger, once all streams have ended; heard: samples that are not zero, by the clients'
  own count. A session's edge that is killed takes along what it had not written yet: half a second,
  but more while the store is away.
- memory: RSS of the processes that are edge and controller, from 60 s of their life on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from understudy import eventloop
from understudy.bench import world as worlds
from understudy.bench.accounts import Account, accounts, figures_of_ledger, growth_of_lives
from understudy.bench.callers import Caller, gaps
from understudy.bench.recordings import files
from understudy.bench.server import (
    all_met,
    as_table,
    figure,
    load_average,
    rss_mb,
    spread_ms,
)
from understudy.bench.world import Say, World
from understudy.chaos.audience import Scene
from understudy.chaos.campaign import told
from understudy.chaos.faults import DEEDS, Faults, Hit
from understudy.clock import SystemClock
from understudy.core.errors import StoreAway

AFTER_S: Final = 5.0
CALM_S: Final = 15.0  # at the end: the store and the regions come back
SILENT_S: Final = 10.0
FLAT_MB_PER_MIN: Final = 1.0
WARM_S: Final = 60.0
SAMPLE_S: Final = 5.0
SEED: Final = 11


@dataclass(frozen=True, slots=True)
class Effort:
    regions: tuple[str, ...]
    users: int
    voices: int
    minutes: float
    every_s: float
    store_s: float
    deeds: tuple[str, ...] = DEEDS
    calm_s: float = CALM_S


FULL: Final = Effort(("sf", "tokyo", "frankfurt"), 24, 2, 10.0, 5.0, 10.0)
QUICK: Final = Effort(("sf", "tokyo"), 4, 1, 0.25, 3.0, 2.0, calm_s=6.0)


@dataclass(slots=True)
class Found:
    hits: list[tuple[float, Hit]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    gaps: list[list[tuple[float, float]]] = field(default_factory=list)  # of each session
    after: list[tuple[str, float]] = field(default_factory=list)  # (deed, longest gap after it)
    doubled: int = 0
    accounts: list[Account] = field(default_factory=list)
    lives: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # pid -> (s, MiB)
    sent_late_s: list[float] = field(default_factory=list)
    spoken_s: float = 0.0
    impossible: dict[str, str] = field(default_factory=dict)  # deed -> why


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Say | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met."""
    say = progress or (lambda _line: None)
    effort = QUICK if quick else FULL
    length_s = 60.0 * (minutes or effort.minutes)
    before = load_average()
    voices = [f"star{k}" for k in range(effort.voices)]
    config = worlds.configuration(voices, nodes=2 * effort.users // worlds.SLOTS + 8)
    with worlds.world(effort.regions, config) as world:
        store = worlds.store_of(world)
        found = eventloop.run(_measure(world, voices, audio, effort, length_s, say))
        tracebacks = worlds.errors(world.log)
    figures = _figures(found, effort, length_s, tracebacks)
    return {
        "benchmark": "storm",
        "quick": quick,
        "what": " ".join((__doc__ or "").split()),
        "store": store,
        "load_average": [before, load_average()],
        "speech": "recorded" if files(audio) else "made up",
        "setup": asdict(effort) | {"minutes": length_s / 60.0, "seed": SEED},
        "hits": [asdict(hit) for _, hit in found.hits],
        "impossible": found.impossible,
        "lost": found.lost,
        "accounts": [asdict(one) for one in found.accounts],
        "rss_mb": {str(pid): life for pid, life in found.lives.items()},
        "figures": figures,
        "met": all_met(figures),
    }


async def _measure(
    world: World,
    voices: Sequence[str],
    audio: Path | None,
    effort: Effort,
    length_s: float,
    say: Say,
) -> Found:
    found = Found()
    audience = worlds.audience_of(world)
    clock = SystemClock()
    faults = Faults(clock, data=world.data, where=world.where, seed=SEED, store_s=effort.store_s)
    await audience.open()
    await world.all_up(audience)
    await worlds.knows(world, voices)
    users = [
        (f"user-{k}", effort.regions[k % len(effort.regions)], voices[k % len(voices)])
        for k in range(effort.users)
    ]
    async with AsyncExitStack() as stack:
        callers = await worlds.call_in(stack, world, users, audio)
        sampling = asyncio.create_task(_sample(world, found))
        began_s = time.perf_counter()
        say(f"{len(callers)} users speak; a fault every {effort.every_s:g} s")
        turn = 0
        try:
            while time.perf_counter() - began_s < length_s:
                scene = await audience.look()
                await _strike(faults, effort, scene, found, say)
                turn += 1
                await asyncio.sleep(max(0.0, began_s + turn * effort.every_s - time.perf_counter()))
            await faults.store_back()
            await asyncio.sleep(effort.calm_s)
            await world.all_up(audience)
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
            await faults.close()
        found.impossible = {deed: why.message for deed, why in faults.impossible.items()}
        ended_s = time.perf_counter()
        found.doubled = await worlds.doubled(world.where)
        why = await asyncio.gather(*(one.leave(sounds_within_s=SILENT_S) for one in callers))
        found.lost = [words for words in why if words]
    await asyncio.sleep(1.0)
    found.spoken_s = sum(ended_s - one.began_s for one in callers)
    found.gaps = [gaps(one.sounds, began_s, ended_s) for one in callers]
    nexts = [at_s for at_s, _ in found.hits[1:]] + [ended_s]
    for (at_s, hit), next_s in zip(found.hits, nexts, strict=True):
        found.after += _after(hit, callers, at_s, min(next_s, at_s + AFTER_S), ended_s)
    found.accounts = accounts(callers, await worlds.billed_s(world.where))
    found.sent_late_s = [late_s for one in callers for late_s in one.late_s]
    return found


async def _strike(faults: Faults, effort: Effort, scene: Scene, found: Found, say: Say) -> None:
    try:
        hit = await faults.any(scene, effort.deeds)
    except StoreAway:  # it does not say who leads
        return
    if hit is not None:
        found.hits.append((time.perf_counter(), hit))
        say(told(hit))


def _after(
    hit: Hit, callers: Sequence[Caller], at_s: float, until_s: float, ended_s: float
) -> list[tuple[str, float]]:
    """The longest gap that began between two moments, of each that it touched."""
    found = []
    for one in callers:
        if hit.deed == "store" or one.session in hit.sessions:
            began = [
                length_s
                for start_s, length_s in gaps(one.sounds, at_s - 0.1, ended_s)
                if start_s < until_s
            ]
            found.append((hit.deed, max(began, default=0.0)))
    return found


async def _sample(world: World, found: Found) -> None:
    while True:
        for pids in world.pids().values():
            for pid in pids[:1]:
                size = await asyncio.to_thread(rss_mb, pid)
                if size:
                    found.lives.setdefault(pid, []).append((time.perf_counter(), size))
        await asyncio.sleep(SAMPLE_S)


def _figures(
    found: Found, effort: Effort, length_s: float, tracebacks: int
) -> list[dict[str, Any]]:
    lengths = [length_s for one in found.gaps for _, length_s in one]
    silent = spread_ms(sum(length for _, length in one) for one in found.gaps)
    each = spread_ms(lengths or [0.0])
    figures = [
        figure("faults", len(found.hits), at_least=0.9 * int(length_s / effort.every_s)),
        figure("kinds of fault that this machine does not allow", len(found.impossible), at_most=0),
        figure("sessions", len(found.accounts)),
        figure("sessions lost", len(found.lost), at_most=0),
        figure("gaps heard", len(lengths)),
        figure("a gap, p50", each["p50"], "ms"),
        figure("a gap, p95", each["p95"], "ms"),
        figure("a gap, max", each["max"], "ms"),
        figure("gaps of a session together, p50", silent["p50"] / 1e3, "s"),
        figure("gaps of a session together, max", silent["max"] / 1e3, "s"),
        figure("... of all that was said", 100 * sum(lengths) / found.spoken_s, "%"),
        *figures_of_ledger(found.accounts, found.doubled),
    ]
    counts = Counter(hit.deed for _, hit in found.hits)
    for deed, count in sorted(counts.items()):
        after = spread_ms([length for name, length in found.after if name == deed] or [0.0])
        figures += [
            figure(f"{deed}: faults", count),
            figure(f"{deed}: longest gap of a session after it, p50", after["p50"], "ms"),
            figure(f"{deed}: longest gap of a session after it, p95", after["p95"], "ms"),
            figure(f"{deed}: longest gap of a session after it, max", after["max"], "ms"),
        ]
    lives = list(found.lives.values())
    peak = max((size for life in lives for _, size in life), default=0.0)
    return [
        *figures,
        figure("memory of an edge and controller, at most", peak, "MiB"),
        figure("... grows", growth_of_lives(lives, WARM_S), "MiB/min", at_most=FLAT_MB_PER_MIN),
        figure("tracebacks in the world's log", tracebacks, at_most=0),
        figure("these clients sent late, p99", spread_ms(found.sent_late_s)["p99"], "ms"),
    ]


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    setup = result["setup"]
    head = (
        f"{setup['users']} sessions over {', '.join(setup['regions'])}; a fault every "
        f"{setup['every_s']:g} s for {setup['minutes']:g} min; {result['store']}; "
        f"{result['speech']} speech; load average {result['load_average'][0]} to "
        f"{result['load_average'][1]}"
    )
    return as_table(head, result["figures"])
