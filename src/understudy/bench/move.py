"""What a move costs and what is heard of it: real processes, recorded speech at the pace of speech.

Planned moves: users speak without a pause while one worker of their (rented) model after the other
is drained, the way `understudy drain` does it, so that the controller starts another and all its
sessions move there. A move counts when /v1/fleet lists it with why = "drain". Then everything heard
from the first sample of the lead on is compared with what `understudy convert` makes of everything
said: the same voice, never moved.

- missing: silence where the unmoved stream has sound, or samples that never came; repeated: a
  stretch that the unmoved stream has elsewhere, up to 0.5 s away; different: anything else. A
  stretch of at most 10 ms that differs just before a `live` is a crossfade's, counted by itself.
- click: the largest second difference |x[n+1] - 2 x[n] + x[n-1]| around a move (from 200 ms before
  its `live`, where the crossfade lies, to 20 ms after it), over the unmoved stream's own in the
  same place. Both count as 4 at least: rounding alone may make that much of silence.
- order to take-over: from the drain's commit to when the edge let the new worker perform. It holds
  the start of the new worker's process where none is free; ready to take-over is the part of it
  after that. given_back: from when a drained worker's last session performed elsewhere to when it
  was stopped; a next order may hasten it.

Understudy to lead: users connect with no GPU up, and are heard to pass from the one voice to the
other. Up to there it must be the understudy's stream to the sample, from 10 ms later on the lead's,
both unmoved; the click is sought within 20 ms of the crossfade and weighed against the larger of
the two streams' own there. Both voices pass on what has no pitch as it is, so a move in a pause is
no test: users connect until enough moves were audible.

Extra worker time: seconds in the model's steps (understudy_worker_busy_seconds_total), while
sessions move less what the same streams need at rest, per move. Phases with moves and without take
turns, in one run. It is wall time, so it grows where the cores are full, as they are while a worker
starts beside it; and a worker that is given back takes up to 0.5 s of its count with it, which
`lost_at_most_ms` bounds and the figure adds. `priming` is what the same work takes in this process,
in CPU time: a slot opened and fed `context_s` of speech, alone and four at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from understudy import eventloop
from understudy.bench.recordings import files, load_pcm
from understudy.bench.server import (
    BEFORE,
    FADE,
    RATE_HZ,
    Handover,
    Pcm,
    Server,
    Speaker,
    all_met,
    as_table,
    figure,
    handover,
    load_average,
    loud,
    serving,
    spread_ms,
)
from understudy.client import Client
from understudy.config import Config, ConfigFile
from understudy.offline import convert_pcm
from understudy.store.sqlite import SqliteStore
from understudy.worker.loading import build_model
from understudy.worker.slots import Slots, card_of

VOICE: Final = "star"
MODEL: Final = "heavy"
SPEECH_S: Final = 60.0
NODES: Final = 4
SLOTS: Final = 4
BEAT_S: Final = 0.5  # how often workers tell what they have spent
MOVES_PER_HOUR: Final = 2.0  # the scaling policy's, of one session
APART: Final = 240  # samples: places that differ within 10 ms are one stretch
BESIDE: Final = RATE_HZ // 50
NEAR: Final = RATE_HZ // 2  # how far a stretch may be out of place
SHOWN: Final = 20
ROUNDING: Final = 4  # a second difference that rounding may make of silence

CONFIG: Final = """\
[models.pitch]
engine = "understudy.models.pitch:PitchModel"
slots = 24
workers = 1

[models.heavy]
engine = "understudy.models.pitch:PitchModel"
slots = {slots}
price_per_h = 0.4

[fleet]
max_nodes = {nodes}

[voices.low]
model = "pitch"
params = {{ pitch = -5 }}

[voices.high]
model = "pitch"
params = {{ pitch = 6 }}

[voices.star]
model = "heavy"
params = {{ pitch = 7, formant = 2 }}
"""
COVERED: Final = """
[models.heavy-{name}]
engine = "understudy.models.pitch:PitchModel"
slots = {slots}
price_per_h = 0.4

[voices.{name}]
model = "heavy-{name}"
understudy = "{understudy}"
params = {{ pitch = 7, formant = 2 }}
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    sessions: int
    moves: int
    phases: int  # with moves, and as many without
    covered: int  # audible moves from the understudy to the lead, ...
    rounds: int  # ... in as many rounds of `sessions` users, at most
    rest: float  # how long phases without moves are, compared with those before
    settle_s: float  # users speak for so long before the first move
    tries: int  # of the priming alone


FULL: Final = Effort(
    sessions=4, moves=200, phases=10, covered=24, rounds=20, rest=1.0, settle_s=2.5, tries=9
)
QUICK: Final = Effort(
    sessions=2, moves=4, phases=1, covered=1, rounds=4, rest=0.3, settle_s=0.2, tries=1
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples that are not the unmoved stream's."""

    start: int
    end: int
    count: int
    kind: str  # "crossfade", "missing", "repeated" or "different"


@dataclass(slots=True)
class Phases:
    """What was counted while sessions moved, and while they did not."""

    moving_s: float = 0.0
    moving_busy_s: float = 0.0
    resting_s: float = 0.0
    resting_busy_s: float = 0.0
    moves: list[dict[str, Any]] = field(default_factory=list)  # of /v1/fleet, those by a drain
    drained: dict[str, float] = field(default_factory=dict)  # worker -> when it was empty
    to_take_over_s: list[float] = field(default_factory=list)  # each move, from its order
    from_ready_s: list[float] = field(default_factory=list)  # ... from the order and a ready worker


@dataclass(frozen=True, slots=True)
class Covered:
    """What was heard of a move from the understudy to the lead."""

    clean: bool  # the one stream, a crossfade, the other
    is_audible: bool
    click_ratio: float | None


def run(
    audio: Path | None,
    *,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures; each figure with its target and whether it is met."""
    say = progress or (lambda _line: None)
    effort = QUICK if quick else FULL
    before = load_average()
    names = [f"{VOICE}{k}" for k in range(effort.rounds)]
    config_text = CONFIG.format(nodes=NODES, slots=SLOTS) + "".join(
        COVERED.format(name=name, slots=SLOTS, understudy="high" if k % 2 else "low")
        for k, name in enumerate(names)
    )
    with serving(config_text) as server:
        config = ConfigFile(server.config).current()
        planned = eventloop.run(_planned(server, config, audio, effort, say))
        covered = eventloop.run(_covered(server, config, names, audio, effort, say))
    planned["extra"] |= {"priming": _priming(config, load_pcm(audio, RATE_HZ, 10.0), effort.tries)}
    figures = [*_planned_figures(planned, effort), *_covered_figures(covered, effort)]
    return {
        "benchmark": "move",
        "quick": quick,
        "what": " ".join((__doc__ or "").split()),
        "load_average": [before, load_average()],
        "speech": "recorded" if files(audio) else "made up",
        "setup": asdict(effort) | {"slots": SLOTS, "max_nodes": NODES, "rate_hz": RATE_HZ},
        "planned": planned,
        "understudy_to_lead": {
            "moves": len(covered),
            "audible": sum(one.is_audible for one in covered),
            "clean": sum(one.clean for one in covered),
            "click_ratio": _ratios([one.click_ratio for one in covered]),
        },
        "figures": figures,
        "met": all_met(figures),
    }


# --- Planned moves ---


async def _planned(
    server: Server, config: Config, audio: Path | None, effort: Effort, say: Say
) -> dict[str, Any]:
    client, store = Client(server.url), SqliteStore(server.data / "understudy.db")
    await server.knows(VOICE)
    await store.open()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        speakers: dict[str, Speaker] = {}  # by session
        for k in range(effort.sessions):
            said = load_pcm(audio, RATE_HZ, SPEECH_S, first=11 * k)
            stream = await stack.enter_async_context(client.stream(VOICE, f"user-{k}", RATE_HZ))
            speaker = Speaker(stream, said)
            speakers[(await speaker.until_live()).event.session] = speaker
        for speaker in speakers.values():
            await speaker.until_live("lead")
        for speaker in speakers.values():
            await speaker.until_heard(effort.settle_s)
        phases = await _phases(server, store, speakers, effort, say)
        given_back_s = _given_back_s(server, phases)
        for speaker in speakers.values():
            await speaker.stop()
    return {
        "sessions": len(speakers),
        "moves": len(phases.moves),
        "drains": len(phases.drained),
        **_compared(list(speakers.values()), config, say),
        "silent_ms": round(sum(s.silent_s for s in speakers.values()) * 1e3, 3),
        "order_to_take_over_ms": spread_ms(phases.to_take_over_s),
        "ready_to_take_over_ms": spread_ms(phases.from_ready_s),
        "given_back_ms": spread_ms(given_back_s),
        "sent_late_ms": spread_ms(late_s for s in speakers.values() for late_s in s.late_s),
        "other_moves": _other_moves(server),
        "extra": _extra(phases, len(speakers)),
    }


def _compared(speakers: Sequence[Speaker], config: Config, say: Say) -> dict[str, Any]:
    """What was heard from the first sample of the lead on, against the streams never moved."""
    counts: Counter[str] = Counter()
    clicks: list[float | None] = []
    shown: list[dict[str, Any]] = []
    errors = signal = 0.0
    for k, speaker in enumerate(speakers):
        say(f"session {k + 1} of {len(speakers)}: {len(speaker.said) / 2 / RATE_HZ:.0f} s compared")
        said, heard = speaker.said_pcm, speaker.heard_pcm
        unmoved = convert_pcm(said, RATE_HZ, config, VOICE)
        lives = [told.heard for told in speaker.lives("lead")]
        found = compare(heard, unmoved, lives)
        for stretch in found:
            counts[stretch.kind] += stretch.count
            since = [at for at in lives if at <= stretch.start]
            shown.append(
                {
                    "session": k,
                    "at_s": round(stretch.start / RATE_HZ, 3),
                    "ms": round((stretch.end - stretch.start) / RATE_HZ * 1e3, 1),
                    "kind": stretch.kind,
                    "after_a_live_s": round((stretch.start - since[-1]) / RATE_HZ, 3),
                }
            )
        if len(heard) < len(said):
            counts["missing"] += len(said) - len(heard)
        elif len(heard) > len(said):
            counts["repeated"] += len(heard) - len(said)
        outside = np.ones(len(heard), np.bool_)
        for stretch in found:
            outside[stretch.start : stretch.end] = stretch.kind != "crossfade"
        first, end = lives[0], min(len(heard), len(unmoved))
        x, y = (s[first:end][outside[first:end]].astype(np.float64) for s in (heard, unmoved))
        errors += float(((x - y) ** 2).sum())
        signal += float((y**2).sum())
        counts["samples"] += end - first
        counts["fell_back"] += sum(told.heard > first for told in speaker.lives("understudy"))
        clicks += [click_ratio(heard, (unmoved,), at - BEFORE, at + BESIDE) for at in lives[1:]]
    return {
        "takeovers_heard": len(clicks),
        "samples_compared": counts["samples"],
        "missing": counts["missing"],
        "repeated": counts["repeated"],
        "different": counts["different"],
        "in_crossfades": counts["crossfade"],
        "stretches": shown[:SHOWN],
        "snr_db": 10 * math.log10(signal / errors) if errors else None,
        "identical": not errors,
        "fell_back_to_understudy": counts["fell_back"],
        "click_ratio": _ratios(clicks),
    }


def _other_moves(server: Server) -> dict[str, int]:
    """Those that no drain ordered, by why."""
    whys = ("connect", "lead ready", "packing", "new revision", "crash")
    return {why: round(server.metric(f'understudy_moves_total{{why="{why}"}}')) for why in whys}


def _given_back_s(server: Server, phases: Phases) -> list[float]:
    """How long drained workers were kept although nobody was there any more."""
    now_s = time.perf_counter()
    returned = ((w, server.said_s(rf"worker {w} is given back")) for w in phases.drained)
    return [
        max(0.0, (now_s if at_s is None else at_s) - phases.drained[worker])
        for worker, at_s in returned
    ]


async def _phases(
    server: Server,
    store: SqliteStore,
    speakers: dict[str, Speaker],
    effort: Effort,
    say: Say,
) -> Phases:
    """Moves and rest by turns, until there were enough moves."""
    phases, pauses = Phases(), random.Random(11)
    at_s, busy_s = await _busy(server)
    for phase in range(effort.phases):
        goal = effort.moves * (phase + 1) // effort.phases
        while len(phases.moves) < goal:
            say(f"{len(phases.moves)} of {effort.moves} moves")
            await _drain(server, store, speakers, phases)
            await asyncio.sleep(pauses.uniform(0.0, 0.3))
        was_s, was_busy_s = at_s, busy_s
        at_s, busy_s = await _busy(server)
        phases.moving_s += at_s - was_s
        phases.moving_busy_s += busy_s - was_busy_s
        rest_s = max(0.0, effort.rest * phases.moving_s - phases.resting_s)
        say(f"{len(phases.moves)} of {effort.moves} moves; {rest_s:.0f} s without any")
        await asyncio.sleep(rest_s)
        was_s, was_busy_s = at_s, busy_s
        at_s, busy_s = await _busy(server)
        phases.resting_s += at_s - was_s
        phases.resting_busy_s += busy_s - was_busy_s
    return phases


async def _busy(server: Server) -> tuple[float, float]:
    """(now, what the model's workers have spent in steps), once they have told the last of it."""
    await asyncio.sleep(BEAT_S + 0.1)
    sample = f'understudy_worker_busy_seconds_total{{model="{MODEL}"}}'
    return time.perf_counter(), await asyncio.to_thread(server.metric, sample)


async def _drain(
    server: Server, store: SqliteStore, speakers: dict[str, Speaker], phases: Phases
) -> None:
    """Empties the fullest worker, and waits until its sessions perform elsewhere."""
    # Not before there is room for one more node: that wait would not be the move's.
    state = await server.seen(
        lambda state: sum(not w["always_on"] for w in state["workers"]) < NODES
    )
    workers = [w for w in state["workers"] if w["model"] == MODEL and w["stage"] == "ready"]
    worker = max(workers, key=lambda w: len(w["seats"]))
    on_it = {seat["session"] for seat in worker["seats"]}
    waits = [(speakers[s], len(speakers[s].lives("lead")) + 1) for s in sorted(on_it)]
    last = max((move["seq"] for move in state["moves"]), default=0)
    if not await store.drain(worker["id"], True):
        raise RuntimeError(f"worker {worker['id']} is not up:\n{server.log[-3000:]}")
    ordered_s = time.time()  # the edge's wall clock is this machine's
    try:
        for speaker, times in waits:
            await speaker.until_live("lead", times)
    except TimeoutError:
        raise RuntimeError(f"a session does not move:\n{server.log[-3000:]}") from None
    after = await asyncio.to_thread(server.fleet)
    rows = [m for m in after["moves"] if m["seq"] > last and m["why"] == "drain"]
    since_s = {w["id"]: w["since_s"] for w in after["workers"]}
    for row in rows:
        ready_s = since_s.get(row["target"], ordered_s)
        phases.to_take_over_s.append(row["at_s"] - ordered_s)
        phases.from_ready_s.append(row["at_s"] - max(ordered_s, ready_s))
    phases.moves += rows
    phases.drained[worker["id"]] = max(s.lives("lead")[n - 1].at_s for s, n in waits)


def _extra(phases: Phases, sessions: int) -> dict[str, Any]:
    rest = phases.resting_busy_s / phases.resting_s
    moves = max(1, len(phases.moves))
    extra_s = (phases.moving_busy_s - rest * phases.moving_s) / moves
    lost_s = rest * BEAT_S * len(phases.drained) / moves
    return {
        "busy_ms_per_stream_second_at_rest": round(rest / sessions * 1e3, 3),
        "busy_ms_per_stream_second_moving": round(
            phases.moving_busy_s / phases.moving_s / sessions * 1e3, 3
        ),
        "moving_s": round(phases.moving_s, 1),
        "resting_s": round(phases.resting_s, 1),
        "counted_ms_per_move": round(extra_s * 1e3, 3),
        "lost_at_most_ms": round(lost_s * 1e3, 3),
        "ms_per_move": round((extra_s + lost_s) * 1e3, 3),
        "share_of_session_hour": (extra_s + lost_s) * MOVES_PER_HOUR / 3600,
    }


def _priming(config: Config, speech: Pcm, tries: int) -> dict[str, float]:
    """CPU time a session of opening slots and feeding them their context, in this process."""
    spec, voice = config.models[MODEL], config.voice(VOICE)
    model = build_model(spec.engine, spec.slots, spec.options)
    model.load("cpu")
    card = card_of(model)
    context = speech[: math.ceil(card.context_s * RATE_HZ) + card.alignment].tobytes()

    def once_ms(count: int) -> float:
        slots = Slots(model)
        began_s = time.thread_time()
        for slot in range(count):
            slots.open(slot, 0, voice.params)
            slots.feed(slot, 0, context)
        while slots.due:
            slots.step()
        return (time.thread_time() - began_s) / count * 1e3

    once_ms(1)  # what is only ever paid once
    return {
        "context_s": card.context_s,
        **{
            f"cpu_ms_{words}": round(statistics.median(once_ms(count) for _ in range(tries)), 3)
            for words, count in (("alone", 1), ("four_at_once", spec.slots))
        },
    }


def compare(heard: Pcm, unmoved: Pcm, lives: Sequence[int]) -> list[Stretch]:
    """Where the one is not the other, from the first of `lives` (positions) on."""
    end = min(len(heard), len(unmoved))
    places = np.flatnonzero(heard[lives[0] : end] != unmoved[lives[0] : end]) + lives[0]
    if not len(places):
        return []
    parts = np.split(places, np.flatnonzero(np.diff(places) > APART) + 1)
    return [_stretch(heard, unmoved, lives, part) for part in parts]


def _stretch(heard: Pcm, unmoved: Pcm, lives: Sequence[int], places: Any) -> Stretch:
    start, end, count = int(places[0]), int(places[-1]) + 1, len(places)
    piece = heard[start:end]
    kind = "different"
    if end - start <= FADE and any(at - BEFORE <= start and end <= at for at in lives):
        kind = "crossfade"
    elif not piece.any():
        kind = "missing"
    elif len(piece) >= RATE_HZ // 500 and _elsewhere(piece, unmoved, start):
        kind = "repeated"
    return Stretch(start, end, count, kind)


def _elsewhere(piece: Pcm, unmoved: Pcm, start: int) -> bool:
    """Whether it begins with 2 ms that the stream has nearby, but not there."""
    first = max(0, start - NEAR)
    near = unmoved[first : start + NEAR].tobytes()
    wanted = piece[: RATE_HZ // 500].tobytes()
    at = near.find(wanted)
    while at >= 0:
        if at % 2 == 0 and first + at // 2 != start:
            return True
        at = near.find(wanted, at + 1)
    return False


def click_ratio(heard: Pcm, unmoved: Sequence[Pcm], start: int, end: int) -> float | None:
    """The sharpest bend of what was heard there, over the sharpest of the streams themselves.
    None: nothing of it was heard."""
    sharpest = [_bend(stream[max(0, start) : end]) for stream in (heard, *unmoved)]
    return sharpest[0] / max(sharpest[1:]) if len(heard) > start else None


def _bend(pcm: Pcm) -> int:
    bends = np.abs(np.diff(pcm.astype(np.int32), 2))
    return max(ROUNDING, int(bends.max(initial=0)))


def _ratios(found: Sequence[float | None]) -> dict[str, float | None]:
    known = sorted(ratio for ratio in found if ratio is not None)
    if not known:
        return {"p50": None, "max": None}
    return {"p50": round(statistics.median(known), 4), "max": round(known[-1], 4)}


# --- Understudy to lead ---


async def _covered(
    server: Server,
    config: Config,
    names: Sequence[str],
    audio: Path | None,
    effort: Effort,
    say: Say,
) -> list[Covered]:
    client, places = Client(server.url), random.Random(13)
    covered: list[Covered] = []
    for number, voice in enumerate(names):
        audible = sum(one.is_audible for one in covered)
        if audible >= effort.covered:
            break
        say(f"understudy to lead: {audible} of {effort.covered}, {effort.sessions} users connect")
        await server.knows(voice)
        async with contextlib.AsyncExitStack() as stack:
            speakers = []
            for k in range(effort.sessions):
                speech = load_pcm(audio, RATE_HZ, SPEECH_S, first=11 * k + 5 * number)
                said = speech[loud(speech, places.randrange(len(speech) // 2)) :]
                stream = client.stream(voice, f"{voice}-{k}", RATE_HZ)
                speakers.append(Speaker(await stack.enter_async_context(stream), said))
            for speaker in speakers:
                await speaker.until_live("lead")
            for speaker in speakers:
                await speaker.until_heard(0.5)
                await speaker.stop()
        understudy = config.understudy_of(config.voice(voice))
        assert understudy is not None
        for speaker in speakers:
            covered.append(_heard_of(speaker, config, understudy.name, voice))
    return covered


def _heard_of(speaker: Speaker, config: Config, understudy: str, voice: str) -> Covered:
    said, heard = speaker.said_pcm, speaker.heard_pcm
    before, after = (convert_pcm(said, RATE_HZ, config, name) for name in (understudy, voice))
    at = speaker.lives("lead")[0].heard
    found = handover(heard, before, after, at)
    fade = found if found is not None and found.is_audible else Handover(at - BEFORE, at)
    return Covered(
        found is not None,
        found is None or found.is_audible,
        click_ratio(heard, (before, after), fade.start - BESIDE, fade.end + BESIDE),
    )


# --- Figures ---


def _planned_figures(found: dict[str, Any], effort: Effort) -> list[dict[str, Any]]:
    extra, order = found["extra"], found["order_to_take_over_ms"]
    ready, priming = found["ready_to_take_over_ms"], extra["priming"]
    return [
        figure("planned moves", found["moves"], at_least=effort.moves),
        figure("... that their users were told of", found["takeovers_heard"],
               at_least=found["moves"]),
        figure("samples missing", found["missing"], at_most=0),
        figure("samples repeated", found["repeated"], at_most=0),
        figure("samples different, outside crossfades", found["different"], at_most=0),
        figure("samples different, inside crossfades", found["in_crossfades"]),
        figure("silence by the server's count", found["silent_ms"], "ms", at_most=0),
        figure("times the understudy had to cover", found["fell_back_to_understudy"], at_most=0),
        figure("sharpest bend at a move / unmoved, worst", found["click_ratio"]["max"] or 0.0,
               "ratio", at_most=1),
        figure("extra worker time a move", extra["ms_per_move"], "ms"),
        figure(f"... of a session at {MOVES_PER_HOUR:g} moves an hour",
               extra["share_of_session_hour"] * 1e6, "ppm"),
        figure("... of that, lost with returned workers at most", extra["lost_at_most_ms"], "ms"),
        figure("priming alone, CPU a session", priming["cpu_ms_alone"], "ms"),
        figure("... four at once", priming["cpu_ms_four_at_once"], "ms"),
        figure("order to take-over, p50", order["p50"], "ms"),
        figure("order to take-over, p95", order["p95"], "ms"),
        figure("new worker ready to take-over, p50", ready["p50"], "ms"),
        figure("new worker ready to take-over, p95", ready["p95"], "ms"),
        figure("empty to given back, max", found["given_back_ms"]["max"], "ms"),
    ]  # fmt: skip


def _covered_figures(covered: Sequence[Covered], effort: Effort) -> list[dict[str, Any]]:
    worst = _ratios([one.click_ratio for one in covered])["max"] or 0.0
    clean = sum(one.clean for one in covered)
    return [
        figure("understudy to lead: moves", len(covered)),
        figure("... audible, the voices being apart", sum(one.is_audible for one in covered),
               at_least=effort.covered),
        figure("... right to the sample but for 10 ms", clean, at_least=len(covered)),
        figure("... sharpest bend / both unmoved, worst", worst, "ratio", at_most=1),
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    setup = result["setup"]
    head = (
        f"{setup['sessions']} sessions, {result['planned']['drains']} drains, "
        f"{result['speech']} speech; "
        f"load average {result['load_average'][0]} to {result['load_average'][1]}"
    )
    return as_table(head, result["figures"])
