"""What is heard when a whole region dies: SIGKILL to its edge, controller, machine and workers at
once, under live users, in a world of three regions on one PostgreSQL (see bench/world.py).

Users of each region speak without a pause (the mirror performs, no sample that is said is zero, so
each zero heard is silence in its place); their clients know one edge and are told of the others.
Then one region dies. Its sessions are those whose line went to its edge. Each region's turn comes
when the one before is up again (a supervisor starts it after 10 s).

- to sound: from the SIGKILL to the end of the longest time without a sound (a stretch of more than
  80 ms in which no sample came that is not zero) that began within 1 s of it. Who hears nothing
  until the end of the round is lost.
- others: the longest such time of the users of the other edges, whenever it began in the 12 s that
  they were listened to: what a busy machine does to them is in there.
- billed: the ledger, once all streams have ended; heard: samples that are not zero, as the clients
  counted them. An edge that is killed takes what it had not written yet with it (half a second).
- two live sessions: rows of one user in the store, looked at while sessions go over.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from understudy import eventloop
from understudy.bench import world as worlds
from understudy.bench.accounts import Account, accounts, figures_of_ledger
from understudy.bench.callers import Caller, again_s, gaps
from understudy.bench.recordings import files
from understudy.bench.server import all_met, as_table, figure, load_average, spread_ms
from understudy.bench.world import Say, World
from understudy.chaos.faults import Faults
from understudy.clock import SystemClock

VOICE: Final = "star"
SOUND_P95_MS: Final = 2000.0
SETTLE_S: Final = 3.0
LOOKS_S: Final = (0.5, 1.5, 3.0)  # after the kill: when the store is looked at


@dataclass(frozen=True, slots=True)
class Effort:
    regions: tuple[str, ...]
    users: int  # of each region
    rounds: int
    watch_s: float  # after each kill
    sqlite: bool = False


FULL: Final = Effort(("sf", "tokyo", "frankfurt"), users=10, rounds=6, watch_s=12.0)
QUICK: Final = Effort(("sf", "tokyo"), users=2, rounds=1, watch_s=6.0)


@dataclass(slots=True)
class Found:
    to_sound_s: list[float] = field(default_factory=list)
    others_s: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: int = 0
    accounts: list[Account] = field(default_factory=list)
    sent_late_s: list[float] = field(default_factory=list)


def run(audio: Path | None, *, quick: bool = False, progress: Say | None = None) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met."""
    say = progress or (lambda _line: None)
    effort = QUICK if quick else FULL
    before = load_average()
    nodes = len(effort.regions) * (-(-effort.users * 2 // worlds.SLOTS) + 2)
    config = worlds.configuration([VOICE], nodes=nodes)
    with worlds.world(effort.regions, config, sqlite=effort.sqlite) as world:
        store = worlds.store_of(world)
        found = eventloop.run(_measure(world, audio, effort, say))
        tracebacks = worlds.errors(world.log)
    to_sound, others = spread_ms(found.to_sound_s), spread_ms(found.others_s)
    count = len(found.to_sound_s)
    figures = [
        figure("sessions whose region died", count, at_least=effort.rounds),
        figure("... that sounded again", 100.0 * (1 - len(found.lost) / max(1, count)), "%",
               at_least=100),
        figure("kill to sound, p50", to_sound["p50"], "ms"),
        figure("kill to sound, p95", to_sound["p95"], "ms", at_most=SOUND_P95_MS),
        figure("kill to sound, max", to_sound["max"], "ms"),
        figure("others without a sound, p95", others["p95"], "ms"),
        figure("others without a sound, max", others["max"], "ms"),
        *figures_of_ledger(found.accounts, found.doubled),
        figure("tracebacks in the world's log", tracebacks, at_most=0),
        figure("these clients sent late, p99", spread_ms(found.sent_late_s)["p99"], "ms"),
    ]  # fmt: skip
    return {
        "benchmark": "region",
        "quick": quick,
        "what": " ".join((__doc__ or "").split()),
        "store": store,
        "load_average": [before, load_average()],
        "speech": "recorded" if files(audio) else "made up",
        "setup": asdict(effort),
        "lost": found.lost,
        "to_sound_ms": to_sound,
        "others_ms": others,
        "accounts": [asdict(one) for one in found.accounts],
        "figures": figures,
        "met": all_met(figures),
    }


async def _measure(world: World, audio: Path | None, effort: Effort, say: Say) -> Found:
    found, clock = Found(), SystemClock()
    audience = worlds.audience_of(world)
    faults = Faults(clock, data=world.data, where=world.where)
    await audience.open()
    everybody: list[Caller] = []
    for number in range(effort.rounds):
        await world.all_up(audience)
        await worlds.knows(world, [VOICE])
        region = effort.regions[number % len(effort.regions)]
        users = [
            (f"round-{number}-{name}-{k}", name, VOICE)
            for name in effort.regions
            for k in range(effort.users)
        ]
        async with AsyncExitStack() as stack:
            callers = await worlds.call_in(stack, world, users, audio)
            await asyncio.sleep(SETTLE_S)
            theirs = [one for one in callers if one.stream.edge.region == region]
            say(f"round {number + 1} of {effort.rounds}: {region}, with {len(theirs)} sessions")
            scene = await audience.look()
            at_s = time.perf_counter()
            hit = await faults.do("region", scene, region)
            assert hit is not None
            for wait_s in LOOKS_S:
                await asyncio.sleep(max(0.0, at_s + wait_s - time.perf_counter()))
                found.doubled += await worlds.doubled(world.where)
            await asyncio.sleep(max(0.0, at_s + effort.watch_s - time.perf_counter()))
            until_s = time.perf_counter()
            for one in callers:
                if one in theirs:
                    found.to_sound_s.append(again_s(one.sounds, at_s, until_s))
                else:
                    others = (length_s for _, length_s in gaps(one.sounds, at_s, until_s))
                    found.others_s.append(max(others, default=0.0))
            why = await asyncio.gather(
                *(one.leave(sounds_within_s=effort.watch_s / 2) for one in callers)
            )
            found.lost += [words for words in why if words]
        everybody += callers
    await world.all_up(audience)
    billed = await worlds.billed_s(world.where)
    found.accounts = accounts(everybody, billed)
    found.sent_late_s = [late_s for one in everybody for late_s in one.late_s]
    return found


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    setup = result["setup"]
    head = (
        f"{setup['users']} sessions in each of {', '.join(setup['regions'])}; {setup['rounds']} "
        f"rounds; {result['store']}; {result['speech']} speech; load average "
        f"{result['load_average'][0]} to {result['load_average'][1]}"
    )
    return as_table(head, result["figures"])
