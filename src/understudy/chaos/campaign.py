"""Deeds one after the other, and the report on what users heard meanwhile.

What was heard is the difference of two readings of all edges and the ledger, so it holds all users
of the fleet, those that no deed touched included.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from understudy.chaos.audience import Audience, Uses
from understudy.chaos.faults import OF_WORKERS, PAST, STORE_S, Faults, Hit
from understudy.chaos.processes import NoChaos
from understudy.core.errors import StoreAway
from understudy.seams import Clock

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
SETTLE_S: Final = 3.0  # after the last one, before the second reading
LONGEST_S: Final = 20.0  # ... and until everybody is taken up again and the ledger is written
STORM_S: Final = 5.0  # between two deeds
EVERY_S: Final = 10.0


def check_url(url: str) -> None:
    """Raises NoChaos."""
    host = urlsplit(url).hostname
    if host not in LOOPBACK:
        raise NoChaos(
            f"chaos is for a fleet on this machine, not for {host}; run it there, on 127.0.0.1"
        )


async def run(
    deed: str,
    url: str,
    uses: Uses | None,
    clock: Clock,
    *,
    target: str | None = None,
    every_s: float | None = None,
    minutes: float = 1.0,
    seed: int | None = None,
    data: Path | None = None,
    where: str | Path | None = None,
    server_pid: int | None = None,
    store_s: float = STORE_S,
    admin_key: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Does `deed` to `target` once; or to any worker, or (`storm`) anything to anybody, every so
    often for so long.

    `uses`: reads the ledger; else the server is asked; `data`, `where`: the fleet's folder and
    store. Raises NoChaos, Unreachable, StoreAway.
    """
    check_url(url)
    audience = Audience(url, uses, clock, admin_key=admin_key)
    faults = Faults(
        clock, data=data, where=where, seed=seed, server_pid=server_pid, store_s=store_s
    )
    pause_s = every_s or (STORM_S if deed == "storm" else EVERY_S)
    once = target is not None or deed not in ("storm", *OF_WORKERS)
    await audience.open()
    began_s, before, billed_s = clock.now(), audience.live, await audience.billed_s()
    hits: list[Hit] = []
    watching = asyncio.create_task(audience.watch())
    try:
        while True:
            scene = await audience.look()
            with contextlib.suppress(StoreAway):  # it does not say who leads
                hit = await (
                    faults.any(scene) if deed == "storm" else faults.do(deed, scene, target)
                )
                if hit is not None:
                    hits.append(hit)
                    say(told(hit))
                elif once:
                    raise NoChaos(_nobody(deed, target))
            if once or clock.now() - began_s + pause_s >= minutes * 60:
                break
            await clock.sleep(pause_s)
        await faults.store_back()
        watching.cancel()
        await _settle(audience, hits, clock)
        billed_s = await audience.billed_s() - billed_s
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await faults.close()
    return _report(deed, url, hits, audience, before, billed_s, clock.now() - began_s)


def _nobody(deed: str, target: str | None) -> str:
    if deed in OF_WORKERS:
        return f"no worker {target} is ready; `understudy status` lists them"
    return "no controller of this machine leads just now" if deed == "controller" else "nobody's up"


def told(hit: Hit) -> str:
    """One deed as a line."""
    model = f" ({hit.model})" if hit.model else ""
    took = f", which took {len(hit.sessions)} sessions" if hit.deed != "store" else ""
    return f"{hit.after_s:5.1f} s: {PAST[hit.deed]}: {hit.target}{model}{took}"


async def _settle(audience: Audience, hits: Sequence[Hit], clock: Clock) -> None:
    began_s = clock.now()
    while (passed_s := clock.now() - began_s) < LONGEST_S:
        await clock.sleep(0.5)
        scene = await audience.look()
        there = {name for name, one in scene.sessions.items() if one["worker"] is not None}
        awaited = {session for hit in hits for session in hit.sessions} - there
        if passed_s >= SETTLE_S and not awaited and not audience.behind:
            break
    await audience.look()


def _report(
    deed: str,
    url: str,
    hits: Sequence[Hit],
    audience: Audience,
    before: int,
    billed_s: float,
    took_s: float,
) -> dict[str, Any]:
    recovered_s = []  # of each, until it was first taken up again
    for hit in hits:
        for session in hit.sessions:
            at_s = [at_s - hit.at_s for name, at_s in audience.moves if name == session]
            recovered_s += sorted(at_s for at_s in at_s if at_s >= 0)[:1]
    taken = {session for hit in hits for session in hit.sessions}
    heard = {key: audience.counts.get(key, 0.0) for key in ("lead_s", "understudy_s", "silent_s")}
    return {
        "chaos": deed,
        "url": url,
        "took_s": round(took_s, 3),
        "hits": [asdict(hit) for hit in hits],
        "deeds": dict(Counter(hit.deed for hit in hits)),
        "sessions": {
            "before": before,
            "after": audience.live,
            "hit": len(taken),
            # A user may have gone by themselves: the server does not tell here.
            "hit_and_gone": len(taken - audience.scene.sessions.keys()),
            "silent_now": audience.scene.silent,
        },
        "heard": {key: round(value, 3) for key, value in heard.items()},
        "billed_s": round(billed_s, 3),
        "billed_less_heard_s": round(billed_s - heard["lead_s"] - heard["understudy_s"], 3),
        "recoveries": {
            "wanted": sum(len(hit.sessions) for hit in hits),
            "count": len(recovered_s),
            "slowest_s": round(max(recovered_s, default=0.0), 3),
        },
        "moves": {
            key.removeprefix("moves "): round(count)
            for key, count in sorted(audience.counts.items())
            if key.startswith("moves ")
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """The report as text."""
    sessions, heard, again = result["sessions"], result["heard"], result["recoveries"]
    rows = [
        *((PAST[deed], str(count)) for deed, count in result["deeds"].items()),
        ("sessions before, after", f"{sessions['before']}, {sessions['after']}"),
        ("... that lost their edge or performer", str(sessions["hit"])),
        ("... and gone now (lost, or left)", str(sessions["hit_and_gone"])),
        ("... silent now", str(sessions["silent_now"])),
        ("recoveries", f"{again['count']} of {again['wanted']}"),
        ("... the slowest after", f"{again['slowest_s']:.3f} s"),
        ("silence heard", f"{heard['silent_s']:.3f} s"),
        ("the understudy heard", f"{heard['understudy_s']:.1f} s"),
        ("the lead heard", f"{heard['lead_s']:.1f} s"),
        ("billed less heard", f"{result['billed_less_heard_s']:+.3f} s"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)
