"""`understudy chaos`: kills or freezes workers of a fleet on this machine, and tells what users
heard meanwhile.

Workers are found by the ids that /v1/fleet lists, in the command lines of this machine's
processes. What was heard is the difference of two readings of /v1/fleet, /metrics and the ledger,
so it holds all users of this edge, those that no worker failed included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import urllib.request
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from understudy.client import Client
from understudy.core.errors import UnderstudyError
from understudy.seams import Clock

SIGNALS: Final = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
PROC: Final = Path("/proc")
SETTLE_S: Final = 3.0  # after the last one, before the second reading
WORKER: Final = "understudy.worker"
LIVE: Final = "understudy_sessions{"

Uses = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]  # the ledger's rows, added up


class NoChaos(UnderstudyError):
    """It will not, or cannot, be done here."""

    code = "no_chaos"


@dataclass(frozen=True, slots=True)
class Hit:
    """One worker that was killed or frozen."""

    worker: str
    model: str
    pid: int
    after_s: float  # since the beginning
    at_s: float  # Unix time, by the server's clock
    sessions: tuple[str, ...]  # that it performed


@dataclass(frozen=True, slots=True)
class Reading:
    """What the server says of itself at one time."""

    listed: frozenset[str]  # the sessions that /v1/fleet names: none, where tokens are asked
    live: int
    silent: int  # ... that nobody performs
    silent_s: float
    lead_s: float
    understudy_s: float
    billed_s: float
    counts: Mapping[str, float]  # of moves, by why
    moves: Mapping[int, Mapping[str, Any]]  # the last ones


def processes(nodes: Collection[str]) -> dict[str, int]:
    """The worker processes of this machine: node -> process id, of the given nodes."""
    found = {}
    for pid, words in _command_lines():
        if WORKER in words and "--node" in words[:-1]:
            node = words[words.index("--node") + 1]
            if node in nodes:
                found[node] = pid
    return found


def _command_lines() -> list[tuple[int, list[str]]]:
    lines = []
    if (PROC / "self" / "cmdline").exists():
        for folder in PROC.iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):  # it has just ended, or is not ours to read
                    raw = (folder / "cmdline").read_bytes()
                    lines.append((int(folder.name), raw.decode(errors="replace").split("\0")))
        return lines
    listed = subprocess.run(  # macOS
        ["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        number, _, words = line.strip().partition(" ")
        lines.append((int(number), words.split()))
    return lines


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
    worker: str | None = None,
    every_s: float = 10.0,
    minutes: float = 1.0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Does `deed` every so often for so long, to `worker` (once) or to any that performs.

    `uses`: reads the ledger; else the server is asked. Raises NoChaos, Unreachable.
    """
    check_url(url)
    client, choice = Client(url), random.Random()
    began_s = clock.now()
    before = await _read(client, uses)
    hits: list[Hit] = []
    moves: dict[int, Mapping[str, Any]] = {}
    try:
        while True:
            state = await _fleet(client)
            moves |= _moves(state)
            found = await _strike(deed, state, worker, choice, clock.now() - began_s)
            if found is not None:
                hits.append(found)
                say(
                    f"{found.after_s:5.1f} s: {found.worker} ({found.model}), which performed "
                    f"{len(found.sessions)} sessions"
                )
            elif worker is not None:
                raise NoChaos(f"no worker {worker} is ready; `understudy status` lists them")
            if worker is not None or clock.now() - began_s + every_s >= minutes * 60:
                break
            await clock.sleep(every_s)
        await clock.sleep(SETTLE_S)
        after = await _read(client, uses)
        moves |= after.moves
    finally:
        await asyncio.to_thread(_thaw, hits)
    return _report(deed, url, hits, moves, before, after, clock.now() - began_s)


async def _strike(
    deed: str, state: Mapping[str, Any], wanted: str | None, choice: random.Random, after_s: float
) -> Hit | None:
    """None: there is nobody to do it to just now."""
    ready = [w for w in state["workers"] if w["stage"] in ("ready", "draining")]
    if wanted is not None:
        ready = [w for w in ready if w["id"] == wanted]
    pids = await asyncio.to_thread(processes, {w["id"] for w in ready})
    if ready and not pids:
        raise NoChaos("no worker of that server runs on this machine")
    performed: dict[str, list[str]] = {}
    for session in state["sessions"]:
        if session["worker"]:
            performed.setdefault(session["worker"], []).append(session["session"])
    here = [w for w in ready if w["id"] in pids]
    here = [w for w in here if wanted is not None or w["id"] in performed] or here
    if not here:
        return None
    chosen = choice.choice(here)
    try:
        os.kill(pids[chosen["id"]], SIGNALS[deed])
    except ProcessLookupError:
        return None
    except PermissionError:
        raise NoChaos(f"worker {chosen['id']} is another user's process") from None
    return Hit(
        worker=chosen["id"],
        model=chosen["model"],
        pid=pids[chosen["id"]],
        after_s=round(after_s, 3),
        at_s=state["now_s"],
        sessions=tuple(performed.get(chosen["id"], ())),
    )


def _moves(state: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    return {move["seq"]: move for move in state["moves"]}


def _thaw(hits: Sequence[Hit]) -> None:
    """Frozen workers that nobody has replaced must not stay behind as they are."""
    left = processes({hit.worker for hit in hits})
    for pid in left.values():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


async def _read(client: Client, uses: Uses | None) -> Reading:
    state = await _fleet(client)
    text = (await asyncio.to_thread(_get, client.url + "/metrics")).decode()
    samples = dict(line.rpartition(" ")[::2] for line in text.splitlines() if line[:1] != "#")

    def number(name: str) -> float:
        return float(samples.get(name, 0.0))

    if uses is None:
        rows = json.loads(await asyncio.to_thread(_get, client.url + "/v1/usage"))["usage"]
    else:
        rows = await uses()
    moves = "understudy_moves_total{why="
    live = {name: float(v) for name, v in samples.items() if name.startswith(LIVE)}
    return Reading(
        listed=frozenset(s["session"] for s in state["sessions"]),
        live=round(sum(live.values())),
        silent=round(sum(count for name, count in live.items() if 'role="none"' in name)),
        silent_s=number("understudy_silent_seconds_total"),
        lead_s=number('understudy_heard_seconds_total{role="lead"}'),
        understudy_s=number('understudy_heard_seconds_total{role="understudy"}'),
        billed_s=sum(row["lead_s"] + row["understudy_s"] for row in rows),
        moves=_moves(state),
        counts={
            name.removeprefix(moves).strip('"}'): float(value)
            for name, value in samples.items()
            if name.startswith(moves)
        },
    )


async def _fleet(client: Client) -> dict[str, Any]:
    # `status` looks whether a server answers at all, and says so in a sentence if none does.
    await client.status()
    state: dict[str, Any] = json.loads(await asyncio.to_thread(_get, client.url + "/v1/fleet"))
    return state


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def _report(
    deed: str,
    url: str,
    hits: Sequence[Hit],
    moves: Mapping[int, Mapping[str, Any]],
    before: Reading,
    after: Reading,
    took_s: float,
) -> dict[str, Any]:
    # The first time that each was taken up again. (A server keeps its last 50 moves only.)
    recovered_s = []
    for one in hits:
        for session in one.sessions:
            since = [m["at_s"] for m in moves.values() if m["session"] == session]
            since = [at_s - one.at_s for at_s in since if at_s >= one.at_s]
            recovered_s += [min(since)] if since else []
    hit = {session for one in hits for session in one.sessions}
    heard_s = after.lead_s + after.understudy_s - before.lead_s - before.understudy_s
    return {
        "chaos": deed,
        "url": url,
        "took_s": round(took_s, 3),
        "hits": [asdict(one) for one in hits],
        "sessions": {
            "before": before.live,
            "after": after.live,
            "hit": len(hit),
            # A user may have gone by themselves: the server does not tell here.
            "hit_and_gone": len(hit - after.listed),
            "silent_now": after.silent,
        },
        "heard": {
            "lead_s": round(after.lead_s - before.lead_s, 3),
            "understudy_s": round(after.understudy_s - before.understudy_s, 3),
            "silent_s": round(after.silent_s - before.silent_s, 3),
        },
        "billed_s": round(after.billed_s - before.billed_s, 3),
        "billed_less_heard_s": round(after.billed_s - before.billed_s - heard_s, 3),
        "recoveries": {
            "wanted": sum(len(one.sessions) for one in hits),
            "count": len(recovered_s),
            "slowest_s": round(max(recovered_s, default=0.0), 3),
        },
        "moves": {
            why: round(count - before.counts.get(why, 0.0))
            for why, count in sorted(after.counts.items())
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """The report as text."""
    sessions, heard, again = result["sessions"], result["heard"], result["recoveries"]
    past = {"kill": "killed", "freeze": "frozen"}[result["chaos"]]
    rows = [
        (f"workers {past}", str(len(result["hits"]))),
        ("sessions before, after", f"{sessions['before']}, {sessions['after']}"),
        ("... performed by such a worker", str(sessions["hit"])),
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
