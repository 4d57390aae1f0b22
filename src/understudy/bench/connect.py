"""How soon a user hears the voice: real processes, recorded speech at the pace of speech.

A user opens the WebSocket, sends `start` and speaks from that moment on, before any answer: each
chunk of 20 ms is sent when its last sample has been spoken. Measured is when the first sample that
is no silence comes back; speech is cut so that it begins loud, and everything heard is compared
with what `understudy convert` makes of what was said, to the sample.

- first_output_ms: from the open socket (the handshake is done) to that sample.
- voice_latency_ms: the latency that `live` announces. Output sample 0 leaves once input sample
  number `latency_samples` has come, so nobody can be heard sooner than the end of its chunk.
- beyond_ms = first_output_ms - voice_latency_ms - chunk_ms: what server, worker, machine and this
  client's own lateness add. beyond_latency_ms does not take the chunk off: the target holds for
  both. from_connect_ms counts from before the TCP connect.

Warm: nodes x slots of a rented model (load_s after its real load), held up by users who go on
speaking meanwhile, so each connect finds free slots on a busy node. What the connects do to those
users is told by the longest time that each of them heard nothing. From zero: no GPU is up, and
the model was never rented before; the understudy performs first. lead_after_load_ms is the time
from before the connect to the `live` of the lead, less the declared load_s; it holds the order, the
start of the worker's process with its imports, its real load, and the take-over. order_ms,
boot_beyond_load_ms and take_over_ms are its parts, by when the server's log told them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from understudy import eventloop
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
    handover,
    load_average,
    loud,
    serving,
    spread_ms,
)
from understudy.client import Client
from understudy.config import Config, ConfigFile
from understudy.core import wire
from understudy.offline import convert_pcm

FIRST_OUTPUT_MS: Final = 100.0
LEAD_MS: Final = 500.0
SAY_S: Final = 0.4
CUTS: Final = 10
SPEECH_S: Final = 60.0
CHUNK_MS: Final = CHUNK / RATE_HZ * 1e3
VOICE: Final = "star"

CONFIG: Final = """\
[models.pitch]
engine = "understudy.models.pitch:PitchModel"
slots = 24
workers = 1

[voices.low]
model = "pitch"
params = {{ pitch = -5 }}

[voices.high]
model = "pitch"
params = {{ pitch = 6 }}

[fleet]
max_nodes = {nodes}
"""
RENTED: Final = """
[models.heavy-{name}]
engine = "understudy.models.pitch:PitchModel"
slots = {slots}
load_s = {load_s}
price_per_h = 0.4

[voices.{name}]
model = "heavy-{name}"
params = {{ pitch = 7, formant = 2 }}
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    nodes: int
    slots: int
    load_s: float
    holders: int  # users who keep the nodes up; what they leave free is the size of a burst
    sequential: int
    bursts: int
    from_zero: int

    @property
    def free(self) -> int:
        return self.nodes * self.slots - self.holders


FULL: Final = Effort(4, 4, 10.0, holders=13, sequential=100, bursts=20, from_zero=12)
QUICK: Final = Effort(2, 3, 0.2, holders=4, sequential=1, bursts=1, from_zero=1)


@dataclass(frozen=True, slots=True)
class Cut:
    """Speech that begins loud, and the voice's answer to it."""

    said: Pcm
    answer: Pcm


@dataclass(frozen=True, slots=True)
class Connect:
    """One user's first moments."""

    open_s: float  # how long the handshake took
    first_output_s: float  # from the open socket
    latency_s: float
    sent_late_s: float  # the worst of this client's chunks up to then
    role: str
    identical: bool
    silent_s: float

    @property
    def from_connect_s(self) -> float:
        return self.open_s + self.first_output_s

    @property
    def beyond_latency_s(self) -> float:
        return self.first_output_s - self.latency_s

    @property
    def beyond_s(self) -> float:
        return self.beyond_latency_s - CHUNK / RATE_HZ


@dataclass(frozen=True, slots=True)
class FromZero:
    """A connect with no GPU up, until the lead performs."""

    first: Connect  # by the understudy
    lead_s: float  # from before the connect
    order_s: float  # ... to when a node is asked for,
    boot_s: float  # ... to when its worker is ready,
    take_over_s: float  # ... to `live`
    given_back_s: float  # from the user's end to no GPU


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
    warm_config = CONFIG.format(nodes=effort.nodes) + _rented(VOICE, effort)
    # For each its own model, so that nothing is kept up or started because of the last one.
    names = [f"{VOICE}{k}" for k in range(effort.from_zero)]
    zero_config = CONFIG.format(nodes=effort.nodes) + "".join(_rented(n, effort) for n in names)
    speech = load_pcm(audio, RATE_HZ, SPEECH_S)
    with serving(warm_config) as server:
        connects, beside = eventloop.run(_warm(server, audio, speech, effort, say))
    with serving(zero_config) as server:
        zeros = eventloop.run(_from_zero(server, names, speech, effort, say))
    warm, zero = _sum_up(connects), _sum_up([zero.first for zero in zeros])
    warm |= {
        "beyond_ms_one_at_a_time": spread_ms(c.beyond_s for c in connects[: effort.sequential]),
        "beyond_ms_in_bursts": spread_ms(c.beyond_s for c in connects[effort.sequential :]),
        "users_beside": {
            "longest_gap_ms": spread_ms(one.longest_gap_s for one in beside),
            "silent_ms": round(sum(one.silent_s for one in beside) * 1e3, 3),
        },
    }
    zero |= {
        "at_once": 1,
        "lead_after_load_ms": spread_ms(zero.lead_s - effort.load_s for zero in zeros),
        "order_ms": spread_ms(zero.order_s for zero in zeros),
        "boot_beyond_load_ms": spread_ms(zero.boot_s - effort.load_s for zero in zeros),
        "take_over_ms": spread_ms(zero.take_over_s for zero in zeros),
        "given_back_ms": spread_ms(zero.given_back_s for zero in zeros),
    }
    figures = [*_figures("warm", warm, "lead"), *_figures("from zero", zero, "understudy")]
    lead, gaps = zero["lead_after_load_ms"], warm["users_beside"]["longest_gap_ms"]
    figures += [
        figure("warm: longest gap in the audio of users beside", gaps["max"], "ms"),
        figure("from zero: lead after load time, p50", lead["p50"], "ms"),
        figure("from zero: lead after load time, p95", lead["p95"], "ms", at_most=LEAD_MS),
        figure("from zero: lead after load time, max", lead["max"], "ms"),
        *(
            figure(f"from zero: {words}, p50", zero[key]["p50"], "ms")
            for words, key in (
                ("of that, until a node is asked for", "order_ms"),
                ("of that, the worker's start beyond load_s", "boot_beyond_load_ms"),
                ("of that, from ready to the take-over", "take_over_ms"),
            )
        ),
    ]
    return {
        "benchmark": "connect",
        "quick": quick,
        "what": " ".join((__doc__ or "").split()),
        "load_average": [before, load_average()],
        "speech": "recorded" if files(audio) else "made up",
        "setup": asdict(effort) | {"chunk_ms": CHUNK_MS, "say_s": SAY_S, "rate_hz": RATE_HZ},
        "warm": warm,
        "from_zero": zero,
        "figures": figures,
        "met": all_met(figures),
    }


def _rented(name: str, effort: Effort) -> str:
    return RENTED.format(name=name, slots=effort.slots, load_s=effort.load_s)


def _sum_up(connects: Sequence[Connect]) -> dict[str, Any]:
    latencies = {round(connect.latency_s * 1e3, 3) for connect in connects}
    return {
        "connects": len(connects),
        "voice_latency_ms": max(latencies),
        "chunk_ms": CHUNK_MS,
        "first_output_ms": spread_ms(connect.first_output_s for connect in connects),
        "beyond_ms": spread_ms(connect.beyond_s for connect in connects),
        "beyond_latency_ms": spread_ms(connect.beyond_latency_s for connect in connects),
        "from_connect_ms": spread_ms(connect.from_connect_s for connect in connects),
        "handshake_ms": spread_ms(connect.open_s for connect in connects),
        "sent_late_ms": spread_ms(connect.sent_late_s for connect in connects),
        "first_by": {
            role: sum(connect.role == role for connect in connects)
            for role in sorted({connect.role for connect in connects})
        },
        "identical": sum(connect.identical for connect in connects),
        "silent_ms": round(sum(connect.silent_s for connect in connects) * 1e3, 3),
    }


def _figures(where: str, found: dict[str, Any], role: str) -> list[dict[str, Any]]:
    count, beyond = found["connects"], found["beyond_ms"]
    most = FIRST_OUTPUT_MS
    return [
        figure(f"{where}: connects", count),
        figure(f"{where}: ... the {role} performed first", found["first_by"].get(role, 0),
               at_least=count),
        figure(f"{where}: ... right to the sample", found["identical"], at_least=count),
        figure(f"{where}: silence", found["silent_ms"], "ms", at_most=0),
        figure(f"{where}: announced by the voice", found["voice_latency_ms"], "ms"),
        figure(f"{where}: first output from open, p95", found["first_output_ms"]["p95"], "ms"),
        figure(f"{where}: ... from before connect, p95", found["from_connect_ms"]["p95"], "ms"),
        figure(f"{where}: beyond the voice's latency and the first chunk, p50", beyond["p50"],
               "ms"),
        figure(f"{where}: the same, p95", beyond["p95"], "ms", at_most=most),
        figure(f"{where}: the same, p99", beyond["p99"], "ms"),
        figure(f"{where}: the same, max", beyond["max"], "ms"),
        figure(f"{where}: beyond the voice's latency alone, p95",
               found["beyond_latency_ms"]["p95"], "ms", at_most=most),
    ]  # fmt: skip


def _cuts(speech: Pcm, config: Config, voice: str) -> list[Cut]:
    """Pieces to connect with; each begins loud, and so does its answer."""
    places = random.Random(3)
    samples = round(SAY_S * RATE_HZ) // CHUNK * CHUNK
    cuts: list[Cut] = []
    while len(cuts) < CUTS:
        at = loud(speech, places.randrange(len(speech) // 2))
        said = speech[at : at + samples]
        answer = convert_pcm(said, RATE_HZ, config, voice)
        if len(said) == samples and answer[0]:
            cuts.append(Cut(said, answer))
    return cuts


async def _connect(client: Client, voice: str, user: str, cut: Cut) -> Connect:
    """One user who says so much and leaves."""
    began_s = time.perf_counter()
    async with client.stream(voice, user, RATE_HZ) as stream:
        speaker = Speaker(stream, cut.said, once=True)
        await speaker.speaking
        await speaker.stop()
    return _measured(speaker, began_s, bool(np.array_equal(speaker.heard_pcm, cut.answer)))


def _measured(speaker: Speaker, began_s: float, identical: bool) -> Connect:
    at_s, _ = speaker.first_sound()
    live = speaker.lives()[0].event
    assert isinstance(live, wire.Live)
    chunks = int((at_s - speaker.began_s) * RATE_HZ / CHUNK)
    return Connect(
        open_s=speaker.began_s - began_s,
        first_output_s=at_s - speaker.began_s,
        latency_s=live.latency_samples / RATE_HZ,
        sent_late_s=max(speaker.late_s[:chunks], default=0.0),
        role=live.role,
        identical=identical,
        silent_s=speaker.silent_s,
    )


@dataclass(frozen=True, slots=True)
class Beside:
    """What a user heard who went on speaking meanwhile."""

    longest_gap_s: float  # between two pieces of audio, which come every 20 ms
    silent_s: float


async def _warm(
    server: Server, audio: Path | None, speech: Pcm, effort: Effort, say: Say
) -> tuple[list[Connect], list[Beside]]:
    client, pauses = Client(server.url), random.Random(5)
    cuts = _cuts(speech, ConfigFile(server.config).current(), VOICE)
    await server.knows(VOICE)
    connects: list[Connect] = []

    async def connect(number: int) -> None:
        await asyncio.sleep(pauses.uniform(0.02, 0.12))  # in step with no tick of the server's
        one = await _connect(client, VOICE, f"user-{number}", cuts[number % len(cuts)])
        connects.append(one)

    async with contextlib.AsyncExitStack() as stack:
        say(f"warm: {effort.holders} users, until {effort.nodes} nodes are up")
        holders = []
        for k in range(effort.holders):
            stream = client.stream(VOICE, f"holder-{k}", RATE_HZ)
            pcm = load_pcm(audio, RATE_HZ, SPEECH_S / 2, first=7 * k)
            holders.append(Speaker(await stack.enter_async_context(stream), pcm))
            await asyncio.sleep(pauses.uniform(0.0, 0.02))  # nor with each other
        for holder in holders:
            await holder.until_live("lead")
        await server.seen(lambda state: _ready(state) == effort.nodes)
        began_s = time.perf_counter()
        for k in range(effort.sequential):
            if k % 20 == 0:
                say(f"warm: connect {k + 1} of {effort.sequential}, one at a time")
            await connect(k)
        say(f"warm: {effort.bursts} bursts of {effort.free}")
        for burst in range(effort.bursts):
            first = effort.sequential + burst * effort.free
            async with asyncio.TaskGroup() as group:
                for k in range(effort.free):
                    group.create_task(connect(first + k))
            await asyncio.sleep(0.2)  # their slots are free again
        if _ready(await asyncio.to_thread(server.fleet)) != effort.nodes:
            raise RuntimeError(f"the nodes did not stay up:\n{server.log[-3000:]}")
        for holder in holders:
            await holder.stop()
    return connects, [_beside(holder, began_s) for holder in holders]


def _beside(holder: Speaker, began_s: float) -> Beside:
    arrivals = [at_s for at_s, _ in holder.arrivals if at_s >= began_s]
    return Beside(float(np.diff(arrivals).max()), holder.silent_s)


def _ready(state: dict[str, Any]) -> int:
    """How many rented workers perform, or could."""
    return sum(not w["always_on"] and w["stage"] == "ready" for w in state["workers"])


async def _from_zero(
    server: Server, names: Sequence[str], speech: Pcm, effort: Effort, say: Say
) -> list[FromZero]:
    """One user after the other, each from no GPU at all."""
    client, config, zeros = Client(server.url), ConfigFile(server.config).current(), []
    places = random.Random(7)
    for k, voice in enumerate(names):
        say(f"from zero: {k + 1} of {len(names)}")
        await server.knows(voice)
        await server.seen(lambda state: all(w["always_on"] for w in state["workers"]))
        pcm = speech[loud(speech, places.randrange(len(speech) // 2)) :]
        began_s = time.perf_counter()
        async with client.stream(voice, f"user-{k}", RATE_HZ) as stream:
            speaker = Speaker(stream, pcm)
            lead = await speaker.until_live("lead")
            await speaker.until_heard(0.5)
            await speaker.stop()
        ended_s = time.perf_counter()
        await server.seen(lambda state: all(w["always_on"] for w in state["workers"]))
        given_back_s = time.perf_counter() - ended_s
        ordered = rf"node (\S+) starts for heavy-{voice}\b"
        found = re.search(ordered, server.wait_for(ordered))
        assert found is not None
        ordered_s = server.said_s(ordered)
        ready_s = server.said_s(rf"worker {found[1]} \(heavy-{voice}\) is ready")
        assert ordered_s is not None
        assert ready_s is not None
        said, heard = speaker.said_pcm, speaker.heard_pcm
        understudy = config.understudy_of(config.voice(voice))
        assert understudy is not None
        before = convert_pcm(said, RATE_HZ, config, understudy.name)
        after = convert_pcm(said, RATE_HZ, config, voice)
        identical = handover(heard, before, after, lead.heard) is not None
        zeros.append(
            FromZero(
                first=_measured(speaker, began_s, identical),
                lead_s=lead.at_s - began_s,
                order_s=ordered_s - began_s,
                boot_s=ready_s - ordered_s,
                take_over_s=lead.at_s - ready_s,
                given_back_s=given_back_s,
            )
        )
    return zeros


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    setup = result["setup"]
    head = (
        f"{setup['nodes']} nodes of {setup['slots']} slots, load {setup['load_s']:g} s, "
        f"{setup['holders']} users beside; from zero one at a time; {result['speech']} speech; "
        f"load average {result['load_average'][0]} to {result['load_average'][1]}"
    )
    return as_table(head, result["figures"])
