"""How far the database may be: connects at an edge whose PostgreSQL is 150 ms away.

`understudy up` reaches its database through a relay that holds every byte back for half the round
trip, each way (bench/world.py's own, understudy/relay.py). Users connect one after the other where
a worker is warm and free. First the relay holds nothing back: so long do edge, worker and this
machine take. Then it is far, and the same again.

- start to live: from when `start` was sent on an open socket to the `live` that says who performs:
  the store has been asked by then, and no audio has to be waited for, so the voice's own latency is
  not in it.
- round trips: (far - the median of near) / the round trip. A connect whose guess of a free slot was
  right takes one; the store's answer is waited for, so it cannot take none.
- statements: what the connection that begins the session runs until it has its seat, by
  PostgreSQL's own log. (Beside them the edge and its controller look and write as ever.)
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from understudy import eventloop
from understudy.bench import world as worlds
from understudy.bench.callers import Caller, never_zero
from understudy.bench.edge_servers import free_port
from understudy.bench.postgres import database
from understudy.bench.recordings import files
from understudy.bench.server import (
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
from understudy.core.errors import ConfigError
from understudy.relay import Relay

VOICE: Final = "star"
AT_MOST: Final = 1.25  # round trips: one, and a quarter for the noise of a busy machine
_ENTRY: Final = re.compile(
    r"(?P<pid>\d+) (?P<kind>LOG|DETAIL):\s+(?:execute [^:]*:|statement:|parameters:)(?P<text>.*)",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Effort:
    connects: int  # of each: near and far
    rtt_s: float
    warm_up: int
    pause_s: float  # after each: its end and the edge's next look reach the store


FULL: Final = Effort(connects=60, rtt_s=0.150, warm_up=8, pause_s=1.2)
QUICK: Final = Effort(connects=3, rtt_s=0.060, warm_up=1, pause_s=0.6)


@dataclass(slots=True)
class Found:
    near_s: list[float] = field(default_factory=list)
    far_s: list[float] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)  # of the far ones
    roles: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def run(audio: Path | None, *, quick: bool = False, progress: Say | None = None) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met. Raises ConfigError: there is no
    PostgreSQL here."""
    say = progress or (lambda _line: None)
    effort = QUICK if quick else FULL
    before = load_average()
    logged = {"log_statement": "all", "log_line_prefix": "%p "}
    with database(free_port(), **logged) as postgres:
        if postgres is None or postgres.port is None:
            raise ConfigError("the far bench needs PostgreSQL: `make setup` installs one")
        asyncio.run(postgres.run("CREATE DATABASE far"))
        with _relay(postgres.port) as (relay, port):
            url = f"postgresql://understudy@127.0.0.1:{port}/far"
            config = worlds.configuration([VOICE], nodes=2)
            with serving(config, UNDERSTUDY_STORE=url) as server:
                found = eventloop.run(_measure(server, relay, audio, effort, say))
                tracebacks = worlds.errors(server.log)
        statements = [_statements(postgres.log, session) for session in found.sessions]
    base_s = median(found.near_s)
    trips = sorted((far_s - base_s) / effort.rtt_s for far_s in found.far_s)
    near, far = spread_ms(found.near_s), spread_ms(found.far_s)
    figures = [
        figure("connects", len(trips), at_least=effort.connects),
        figure("... and lost", len(found.lost), at_most=0),
        figure("... led at once", found.roles.count("lead")),
        figure("start to live, near, p50", near["p50"], "ms"),
        figure("start to live, near, p95", near["p95"], "ms"),
        figure("start to live, far, p50", far["p50"], "ms"),
        figure("start to live, far, p95", far["p95"], "ms"),
        figure("round trips, p50", _share(trips, 0.50), at_most=AT_MOST),
        figure("round trips, p90", _share(trips, 0.90), at_most=AT_MOST),
        figure("round trips, p95", _share(trips, 0.95)),
        figure("round trips, p99", _share(trips, 0.99)),
        figure("round trips, max", trips[-1]),
        figure("statements of a connect, p50", median(statements)),
        figure("statements of a connect, max", max(statements)),
        figure("tracebacks in the server's log", tracebacks, at_most=0),
    ]
    return {
        "benchmark": "far",
        "quick": quick,
        "what": " ".join((__doc__ or "").split()),
        "load_average": [before, load_average()],
        "speech": "recorded" if files(audio) else "made up",
        "setup": asdict(effort),
        "round_trips": [round(trip, 3) for trip in trips],
        "statements": statements,
        "lost": found.lost,
        "figures": figures,
        "met": all_met(figures),
    }


@contextmanager
def _relay(port: int) -> Iterator[tuple[Relay, int]]:
    """On a thread of its own, so that it is not in the way of the users here."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    relay = Relay("127.0.0.1", port, 0.0)
    try:
        yield relay, asyncio.run_coroutine_threadsafe(relay.open(), loop).result()
        asyncio.run_coroutine_threadsafe(relay.close(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _measure(
    server: Server, relay: Relay, audio: Path | None, effort: Effort, say: Say
) -> Found:
    found, client = Found(), Client(server.url)
    never_zero(audio)  # is kept: nothing may be read while a connect is timed
    await server.knows(VOICE)
    async with client.stream(VOICE, "holder", 24_000) as held:  # the node stays up
        holder = Caller("holder", held, never_zero(audio)[0])
        await holder.until(holder.is_led)
        for number in range(effort.warm_up):
            await _connect(client, f"warm-{number}", audio, Found(), found.near_s)
            await asyncio.sleep(effort.pause_s)
        found.near_s.clear()
        for number in range(effort.connects):
            await _connect(client, f"near-{number}", audio, found, found.near_s)
            await asyncio.sleep(effort.pause_s)
        say(f"near: {median(found.near_s) * 1e3:.0f} ms; now {effort.rtt_s * 1e3:.0f} ms further")
        found.sessions.clear()
        found.roles.clear()
        relay.delay_s = effort.rtt_s / 2
        for number in range(effort.warm_up):
            await _connect(client, f"again-{number}", audio, Found(), [])
            await asyncio.sleep(effort.pause_s)
        for number in range(effort.connects):
            await _connect(client, f"far-{number}", audio, found, found.far_s)
            await asyncio.sleep(effort.pause_s)
        relay.delay_s = 0.0
        if why := await holder.leave():
            found.lost.append(why)
    return found


async def _connect(
    client: Client, user: str, audio: Path | None, found: Found, took_s: list[float]
) -> None:
    async with client.stream(VOICE, user, 24_000) as stream:
        one = Caller(user, stream, never_zero(audio)[1])  # `start` has just been sent
        await one.until(lambda: stream.live is not None)
        at_s, live = next((at_s, e) for at_s, e in one.told if isinstance(e, wire.Live))
        took_s.append(at_s - one.began_s)
        found.roles.append(live.role)
        found.sessions.append(one.session)
        await one.until(lambda: bool(one.sounds))
        if why := await one.leave():
            found.lost.append(why)


def _statements(log: str, session: str) -> int:
    """How many a connect took, by the log: all that its connections to the database ran, from the
    session's begin to its seat."""
    entries: list[list[str]] = []  # [process, statement, parameters]
    for line in log.splitlines():
        if found := _ENTRY.match(line):
            if found["kind"] == "LOG":
                entries.append([found["pid"], found["text"], ""])
            elif entries:
                entries[-1][2] = found["text"]
        elif entries:  # a statement of several lines
            entries[-1][1] += line
    named = [at for at, (_, _, values) in enumerate(entries) if f"'{session}'" in values]
    seated = [at for at in named if "INSERT INTO seats" in entries[at][1]]
    if not seated:
        return 0
    first, last = named[0], max(seated[:1])
    pids = {entries[at][0] for at in named if at <= last}
    return sum(pid in pids for pid, _, _ in entries[first : last + 1])


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    setup = result["setup"]
    head = (
        f"{setup['connects']} connects, {setup['rtt_s'] * 1e3:.0f} ms to the database and back; "
        f"load average {result['load_average'][0]} to {result['load_average'][1]}"
    )
    return as_table(head, result["figures"])
