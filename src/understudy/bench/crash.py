"""What is heard when workers are killed: real processes, recorded speech at the pace of speech.

`understudy up` runs with users who speak without a pause, chunks of 20 ms, on `voices` rented
models of 4 slots (load_s 1.0) and an always-on understudy of two workers. All models are the
mirror: what is heard is what was said or it is wrong, and two cores hold 40 users. No sample that
is said is zero (zeros are said as ones), so each zero heard is silence in place of audio.

Every other second one worker that performs, by chance, gets SIGKILL; the understudy's too, but
never its last one. Its sessions are taken up by a free slot of a warm worker of their model, or
else by the understudy, until a slot is free again: told apart by the role of the first `live`
after the kill. The kills are dealt out over several servers, one after the other (`rounds`),
because the controller holds a model's starts back that has crashed often within a minute.

Silence heard, of a kill and a session that the worker performed: samples that are zero, and samples
that a listener plays as nothing because they came too late. The listener plays sample k at
began + k / rate + one chunk + the stream's median delay + 60 ms (playout margin), and does not wait
for what is late; where this client itself sent a chunk late (both share the cores with the fleet),
its samples are due as much later. Samples count for a kill from what had been heard by then, for
5 s or to the session's next kill. What is missed at other times is `beside`.

- stall: how much later than its median delay a sample came, at most, in that stretch.
- to_live: from the kill to the first `live` after it; to_lead: to the lead's.
- billed: lead and understudy seconds of GET /v1/usage, once all streams have ended; heard: samples
  that are not zero, by whom the last `live` before them named.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from understudy import chaos, eventloop
from understudy.bench.listening import (
    MARGIN_S,
    Hit,
    Outcome,
    lateness_s,
    missing,
    never_zero,
    outcome_of,
)
from understudy.bench.recordings import files, load_pcm
from understudy.bench.server import (
    CHUNK,
    RATE_HZ,
    Pcm,
    Server,
    Speaker,
    all_met,
    as_table,
    figure,
    load_average,
    rss_mb,
    serving,
    spread_ms,
)
from understudy.bench.world import LOAD_S, SLOTS, configuration
from understudy.client import Client
from understudy.core import wire

SPEECH_S: Final = 30.0
COVERS: Final = 2  # workers of the understudy
LEAVE_S: Final = 6.0  # a provider waits for 3 s before it kills
ALIKE_MS: Final = 1000.0  # billed and heard
MISSED_P95_MS: Final = 100.0
MISSED_P99_MS: Final = 250.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    voices: int
    users: int  # of each voice
    kills: int
    rounds: int  # servers, one after the other, that share them
    pause_s: float  # between two, about
    settle_s: float  # before the first and after the last
    stretch_s: float = 5.0  # so long after a kill, what is missed is because of it

    @property
    def sessions(self) -> int:
        return self.voices * self.users


FULL: Final = Effort(voices=8, users=5, kills=100, rounds=4, pause_s=1.5, settle_s=3.0)
QUICK: Final = Effort(
    voices=1, users=5, kills=2, rounds=1, pause_s=0.7, settle_s=0.1, stretch_s=1.0
)


@dataclass(slots=True)
class Round:
    """One server's users, and what became of them."""

    outcomes: list[Outcome] = field(default_factory=list)
    hits: int = 0
    lost: list[str] = field(default_factory=list)  # streams that ended before their users did
    wrong: int = 0  # samples neither said nor silent
    uneven: int = 0  # samples heard that were not said, or said and not heard
    billed_off_s: list[float] = field(default_factory=list)  # billed less heard, each session
    role_off_s: list[float] = field(default_factory=list)  # ... of one role: the worst, unsigned
    beside_s: list[float] = field(default_factory=list)  # missed at other times, each session
    sent_late_s: list[float] = field(default_factory=list)
    counted: int = 0  # recoveries, by the server's own count
    tracebacks: int = 0
    given_up: int = 0  # workers that the edge took for dead because they were silent
    left: int = 0  # worker processes that the fleet no longer knows
    rss_mb: tuple[float, float] = (0.0, 0.0)  # the server's, before the first and at the end


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met."""
    effort = QUICK if quick else FULL
    before = load_average()
    rounds = measure(audio, effort, signal.SIGKILL, progress or (lambda _line: None))
    found = summary(rounds)
    figures = [
        figure("kills", found["hits"], at_least=effort.kills),
        figure("... of a session that it performed", found["outcomes"]["count"]),
        *figures_of_sessions(found),
        figure("workers that live, taken for dead", found["given_up"], at_most=0),
        figure("silence heard a kill and session, p50", found["outcomes"]["missed_ms"]["p50"],
               "ms"),
        figure("silence heard a kill and session, p95", found["outcomes"]["missed_ms"]["p95"],
               "ms", at_most=MISSED_P95_MS),
        figure("silence heard a kill and session, p99", found["outcomes"]["missed_ms"]["p99"],
               "ms", at_most=MISSED_P99_MS),
        figure("silence heard a kill and session, max", found["outcomes"]["missed_ms"]["max"],
               "ms"),
        figure("... of that, zeros, max", found["outcomes"]["zero_ms"]["max"], "ms"),
        figure("stall of the audio, p50", found["outcomes"]["stall_ms"]["p50"], "ms"),
        figure("stall of the audio, p95", found["outcomes"]["stall_ms"]["p95"], "ms"),
        figure("stall of the audio, p99", found["outcomes"]["stall_ms"]["p99"], "ms"),
    ]  # fmt: skip
    for by, one in found["by"].items():
        figures += [
            figure(f"{by}: recoveries", one["count"]),
            figure(f"{by}: silence heard, p95", one["missed_ms"]["p95"], "ms"),
            figure(f"{by}: silence heard, p99", one["missed_ms"]["p99"], "ms"),
            figure(f"{by}: stall, p95", one["stall_ms"]["p95"], "ms"),
            figure(f"{by}: kill to live, p95", one["to_live_ms"]["p95"], "ms"),
            figure(f"{by}: kill to lead, p95", one["to_lead_ms"]["p95"], "ms"),
        ]
    return result("crash", __doc__, audio, quick, before, effort, found, figures)


def result(
    name: str,
    what: str | None,
    audio: Path | None,
    quick: bool,
    before: float,
    effort: Effort,
    found: dict[str, Any],
    figures: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "benchmark": name,
        "quick": quick,
        "what": " ".join((what or "").split()),
        "load_average": [before, load_average()],
        "speech": "recorded" if files(audio) else "made up",
        "setup": asdict(effort)
        | {
            "sessions": effort.sessions,
            "engine": "mirror, its understudy too",
            "slots": SLOTS,
            "load_s": LOAD_S,
            "covers": COVERS,
            "chunk_ms": CHUNK / RATE_HZ * 1e3,
            "margin_ms": MARGIN_S * 1e3,
            "rate_hz": RATE_HZ,
        },
        **found,
        "figures": list(figures),
        "met": all_met(figures),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    setup = result["setup"]
    head = (
        f"{setup['sessions']} sessions on {setup['voices']} models of {setup['slots']} slots, "
        f"{setup['rounds']} rounds; engine: {setup['engine']}; {result['speech']} speech; "
        f"load average {result['load_average'][0]} to {result['load_average'][1]}"
    )
    return as_table(head, result["figures"])


# --- Servers, users, and what is done to them ---


def measure(audio: Path | None, effort: Effort, number: signal.Signals, say: Say) -> list[Round]:
    """Kills or freezes workers under live users; one Round a server."""
    names = [f"star{k}" for k in range(effort.voices)]
    nodes = effort.voices * (-(-effort.users // SLOTS) + 3)
    config = configuration(names, covers=COVERS, nodes=nodes)
    choice, rounds = random.Random(17), []
    speech = [
        never_zero(load_pcm(audio, RATE_HZ, SPEECH_S, first=3 * k)) for k in range(effort.sessions)
    ]
    for k in range(effort.rounds):
        kills = effort.kills * (k + 1) // effort.rounds - effort.kills * k // effort.rounds
        say(f"round {k + 1} of {effort.rounds}: {effort.sessions} users, {kills} workers")
        with serving(config) as server:
            work = _round(server, names, speech, effort, kills, number, choice, say)
            one = eventloop.run(work)
        one.tracebacks = server.log.count("Traceback")
        one.given_up = server.log.count("and given up")
        one.left += len(chaos.processes_of(_started(server)))  # it has ended, and so should they
        rounds.append(one)
    return rounds


async def _round(
    server: Server,
    names: Sequence[str],
    speech: Sequence[Pcm],
    effort: Effort,
    kills: int,
    number: signal.Signals,
    choice: random.Random,
    say: Say,
) -> Round:
    client, one = Client(server.url), Round()
    for name in names:
        await server.knows(name)
    async with contextlib.AsyncExitStack() as stack:
        speakers = []
        for k in range(effort.sessions):
            stream = client.stream(names[k % len(names)], f"user-{k}", RATE_HZ)
            speakers.append(Speaker(await stack.enter_async_context(stream), speech[k]))
            await asyncio.sleep(choice.uniform(0.0, 0.04))  # in step with nobody
        for speaker in speakers:
            await speaker.until_live("lead")
        await asyncio.sleep(effort.settle_s)
        users = {speaker.lives()[0].event.session: k for k, speaker in enumerate(speakers)}
        hits: list[Hit] = []
        before_mb = rss_mb(server.process.pid)
        while len(hits) < kills:
            hit = await _strike(server, speakers, users, number, choice)
            if hit is None:
                await asyncio.sleep(0.2)
                continue
            hits.append(hit)
            if len(hits) % 5 == 0:
                say(f"{len(hits)} of {kills}")
            await asyncio.sleep(effort.pause_s * choice.uniform(0.7, 1.3))
        await asyncio.sleep(effort.stretch_s)
        await server.seen(lambda state: _all_led(state, users))
        await asyncio.sleep(effort.settle_s)
        one.rss_mb = before_mb, rss_mb(server.process.pid)
        one.left = await _left(server)
        for speaker in speakers:
            await _leave(speaker, one)
    rows = json.loads(await asyncio.to_thread(server.get, "/v1/usage"))["usage"]
    one.counted = round(server.metric('understudy_moves_total{why="crash"}'))
    one.hits = len(hits)
    one.sent_late_s = [late_s for speaker in speakers for late_s in speaker.late_s]
    for k, speaker in enumerate(speakers):
        mine = [hit for hit in hits if k in hit.heard]
        _account(k, speaker, mine, effort.stretch_s, {row["user"]: row for row in rows}, one)
    return one


async def _strike(
    server: Server,
    speakers: Sequence[Speaker],
    users: dict[str, int],
    number: signal.Signals,
    choice: random.Random,
) -> Hit | None:
    """None: nobody performs on a worker that may be hit."""
    state = await asyncio.to_thread(server.fleet)
    ready = {w["id"]: w["always_on"] for w in state["workers"] if w["stage"] == "ready"}
    if sum(ready.values()) < COVERS:  # two faults of the understudy at once: nothing is left
        ready = {worker: cover for worker, cover in ready.items() if not cover}
    performing = sorted({s["worker"] for s in state["sessions"]} & ready.keys())
    if not performing:
        return None
    worker = choice.choice(performing)
    pid = (await asyncio.to_thread(chaos.processes_of, {worker})).get(worker)
    if pid is None:
        return None
    state = await asyncio.to_thread(server.fleet)  # as late as can be: sessions move
    on_it = [users[s["session"]] for s in state["sessions"] if s["worker"] == worker]
    if not on_it:
        return None
    at_s = time.perf_counter()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return Hit(at_s, worker, ready[worker], {k: speakers[k].heard_samples for k in on_it})
    return None


def _all_led(state: dict[str, Any], users: dict[str, int]) -> bool:
    roles = {s["session"]: s["role"] for s in state["sessions"]}
    return all(roles.get(session, "lead") == "lead" for session in users)


def _started(server: Server) -> set[str]:
    """Every worker that it ever started."""
    return {found[1] for line in server.lines if (found := re.search(r"node (\S+) starts", line))}


async def _left(server: Server) -> int:
    """How many workers still run that the fleet no longer knows, given the time to end them."""
    until_s = time.perf_counter() + LEAVE_S
    while True:
        up = {worker["id"] for worker in (await asyncio.to_thread(server.fleet))["workers"]}
        left = await asyncio.to_thread(chaos.processes_of, _started(server) - up)
        if not left or time.perf_counter() > until_s:
            return len(left)
        await asyncio.sleep(0.1)


async def _leave(speaker: Speaker, one: Round) -> None:
    """Ends a stream, and tells whether it had ended by itself."""
    ended = speaker.stream.ended
    try:
        if speaker.speaking.done():
            speaker.speaking.result()
        async with asyncio.timeout(10):
            await speaker.stop()
    except Exception as error:
        one.lost.append(repr(error))
        return
    last = speaker.stream.ended
    if ended is not None or last is None or last.reason != "stopped":
        one.lost.append(last.reason if last else "no word")


# --- What they heard ---


def _account(
    k: int,
    speaker: Speaker,
    hits: Sequence[Hit],
    stretch_s: float,
    rows: dict[str, dict[str, Any]],
    one: Round,
) -> None:
    said, heard = speaker.said_pcm, speaker.heard_pcm
    both = min(len(said), len(heard))
    zero = heard == 0
    one.wrong += int(((heard[:both] != said[:both]) & ~zero[:both]).sum())
    one.uneven += abs(len(said) - len(heard))
    late_s = lateness_s(speaker)
    missed = missing(speaker, late_s)
    outside = np.ones(len(heard), np.bool_)
    outside[: speaker.lives()[0].heard] = False  # nobody performed yet
    for hit, after in zip(hits, [*hits, None][1:], strict=True):
        start = hit.heard[k]
        end = min(len(heard), start + round(stretch_s * RATE_HZ))
        end = min(end, after.heard[k]) if after is not None else end
        outside[start:end] = False
        outcome = outcome_of(speaker, hit, zero, missed, late_s, start, end)
        if outcome is not None:
            one.outcomes.append(outcome)
    one.beside_s.append(float(missed[outside].sum()) / RATE_HZ)
    told = [(t.heard, t.event.role) for t in speaker.told if isinstance(t.event, wire.Live)]
    heard_s = {"lead": 0.0, "understudy": 0.0}
    for (start, role), (end, _) in zip(told, [*told[1:], (len(heard), "")], strict=True):
        heard_s[role] += float((~zero[start:end]).sum()) / RATE_HZ
    row = rows.get(f"user-{k}", {"lead_s": 0.0, "understudy_s": 0.0})
    billed_s = {role: float(row[f"{role}_s"]) for role in heard_s}
    one.billed_off_s.append(sum(billed_s.values()) - sum(heard_s.values()))
    one.role_off_s.append(max(abs(billed_s[role] - heard_s[role]) for role in heard_s))


# --- Their figures ---


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    outcomes = [outcome for one in rounds for outcome in one.outcomes]
    kinds = sorted({outcome.by for outcome in outcomes})
    return {
        "hits": sum(one.hits for one in rounds),
        "counted_as_crash": sum(one.counted for one in rounds),
        "lost": [why for one in rounds for why in one.lost],
        "wrong": sum(one.wrong for one in rounds),
        "uneven": sum(one.uneven for one in rounds),
        "tracebacks": sum(one.tracebacks for one in rounds),
        "given_up": sum(one.given_up for one in rounds),
        "left_behind": sum(one.left for one in rounds),
        "rss_mb": [one.rss_mb for one in rounds],
        "billed_off_ms": spread_ms(abs(off_s) for one in rounds for off_s in one.billed_off_s),
        "billed_more_ms": round(max(off_s for one in rounds for off_s in one.billed_off_s) * 1e3),
        "role_off_ms": spread_ms(off_s for one in rounds for off_s in one.role_off_s),
        "beside_ms": spread_ms(missed_s for one in rounds for missed_s in one.beside_s),
        "sent_late_ms": spread_ms(late_s for one in rounds for late_s in one.sent_late_s),
        "outcomes": _spreads(outcomes),
        "by": {by: _spreads([one for one in outcomes if one.by == by]) for by in kinds},
    }


def _spreads(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    leads = [one.to_lead_s for one in outcomes if one.to_lead_s is not None]
    return {
        "count": len(outcomes),
        "missed_ms": spread_ms(one.missed_s for one in outcomes),
        "zero_ms": spread_ms(one.zero_s for one in outcomes),
        "stall_ms": spread_ms(one.stall_s for one in outcomes),
        "sounds_ms": spread_ms(one.sounds_s for one in outcomes),
        "to_live_ms": spread_ms(one.to_live_s for one in outcomes),
        "to_lead_ms": spread_ms(leads),
    }


def figures_of_sessions(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What must hold whatever is done to workers."""
    return [
        figure("sessions lost", len(found["lost"]), at_most=0),
        figure("samples wrong: neither said nor silent", found["wrong"], at_most=0),
        figure("samples too many or too few", found["uneven"], at_most=0),
        figure("billed and heard apart, a session, p50", found["billed_off_ms"]["p50"], "ms"),
        figure("billed and heard apart, a session, max", found["billed_off_ms"]["max"], "ms",
               at_most=ALIKE_MS),
        figure("... of one role, max", found["role_off_ms"]["max"], "ms", at_most=ALIKE_MS),
        figure("tracebacks in the server's log", found["tracebacks"], at_most=0),
        figure("worker processes left behind", found["left_behind"], at_most=0),
        figure("missed at other times, a session, p50", found["beside_ms"]["p50"], "ms"),
        figure("missed at other times, a session, max", found["beside_ms"]["max"], "ms"),
        figure("this client sent late, p99", found["sent_late_ms"]["p99"], "ms"),
        figure("the server's memory grew in a round, max",
               max(after - before for before, after in found["rss_mb"]), "MiB"),
    ]  # fmt: skip
