"""The life of a session, as one table: (state, event) -> (state, effects).

Everything that decides what a session does next stands in TABLE and DEADLINES; the edge only
carries out effects. docs/architecture.md shows the diagram that `diagram()` draws from them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    NEW = "new"  # connected, `start` has not come
    WAITING = "waiting"  # nobody performs: queued, or a worker is loading
    LEAVING = "leaving"  # `stop` came before a slot; what was said is still to be answered
    OPENING = "opening"  # a slot is taken; the worker is being primed
    LIVE = "live"  # a worker performs: the lead, or the understudy
    MOVING = "moving"  # one performs, another is being primed and takes over under a crossfade
    FLUSHING = "flushing"  # `stop` came; the last samples are on their way
    DETACHED = "detached"  # the client's connection was lost; the slot is kept for it
    ENDED = "ended"


class Event(StrEnum):
    START = "start"  # a valid `start`
    SLOT = "slot"  # a slot was found
    OPENED = "opened"  # the worker that comes has the session
    CROSSED = "crossed"  # ... and is heard now
    SLOT_LOST = "slot_lost"  # the worker that performs died, or gave the session up
    COMING_LOST = "coming_lost"  # the worker that comes did
    STOP = "stop"  # the client's `stop`
    FLUSHED = "flushed"  # the last sample was sent
    CLIENT_LOST = "client_lost"
    RESUME = "resume"  # the client is back with its token, and its slot is still there
    RESUME_SEATLESS = "resume_seatless"  # ... and its slot is not
    TAKEN_OVER = "taken_over"  # the user went live elsewhere
    FAIL = "fail"  # an error that ends the session
    SHUTDOWN = "shutdown"
    DEADLINE = "deadline"


class Effect(StrEnum):
    SEEK = "seek"  # look for a slot, and tell the client where it stands
    OPEN = "open"  # open the session on the slot that comes, primed with its recent input
    PROMOTE = "promote"  # who came performs now; give the old slot back, tell the client
    DROP = "drop"  # give the slot that comes back
    FLUSH = "flush"  # push the last samples out of the model
    ABANDON = "abandon"  # silence for what no worker will answer any more
    REJOIN = "rejoin"  # bind the session to the new connection, positions from 0
    RELEASE = "release"  # give every slot back
    FINISH = "finish"  # say `ended`, close, forget


_S, _E, _F = State, Event, Effect
_END = (_F.RELEASE, _F.FINISH)

TABLE: Final[dict[tuple[State, Event], tuple[State, tuple[Effect, ...]]]] = {
    (_S.NEW, _E.START): (_S.WAITING, (_F.SEEK,)),
    (_S.NEW, _E.CLIENT_LOST): (_S.ENDED, (_F.FINISH,)),
    (_S.NEW, _E.FAIL): (_S.ENDED, (_F.FINISH,)),
    (_S.NEW, _E.SHUTDOWN): (_S.ENDED, (_F.FINISH,)),
    (_S.WAITING, _E.SLOT): (_S.OPENING, (_F.OPEN,)),
    (_S.WAITING, _E.STOP): (_S.LEAVING, ()),
    (_S.WAITING, _E.CLIENT_LOST): (_S.ENDED, _END),
    (_S.LEAVING, _E.SLOT): (_S.FLUSHING, (_F.OPEN, _F.FLUSH)),
    (_S.LEAVING, _E.CLIENT_LOST): (_S.ENDED, _END),
    (_S.LEAVING, _E.DEADLINE): (_S.ENDED, (_F.ABANDON, *_END)),
    (_S.OPENING, _E.OPENED): (_S.LIVE, (_F.PROMOTE,)),
    (_S.OPENING, _E.COMING_LOST): (_S.WAITING, (_F.SEEK,)),
    (_S.OPENING, _E.STOP): (_S.FLUSHING, (_F.FLUSH,)),
    (_S.OPENING, _E.CLIENT_LOST): (_S.DETACHED, ()),
    (_S.LIVE, _E.SLOT): (_S.MOVING, (_F.OPEN,)),
    (_S.LIVE, _E.SLOT_LOST): (_S.WAITING, (_F.SEEK,)),
    (_S.LIVE, _E.STOP): (_S.FLUSHING, (_F.FLUSH,)),
    (_S.LIVE, _E.CLIENT_LOST): (_S.DETACHED, ()),
    (_S.MOVING, _E.CROSSED): (_S.LIVE, (_F.PROMOTE,)),
    (_S.MOVING, _E.SLOT_LOST): (_S.OPENING, ()),
    (_S.MOVING, _E.COMING_LOST): (_S.LIVE, (_F.SEEK,)),
    (_S.MOVING, _E.DEADLINE): (_S.LIVE, (_F.DROP, _F.SEEK)),
    (_S.MOVING, _E.STOP): (_S.FLUSHING, (_F.DROP, _F.FLUSH)),
    (_S.MOVING, _E.CLIENT_LOST): (_S.DETACHED, (_F.DROP,)),
    (_S.FLUSHING, _E.OPENED): (_S.FLUSHING, (_F.PROMOTE,)),
    (_S.FLUSHING, _E.FLUSHED): (_S.ENDED, _END),
    (_S.FLUSHING, _E.SLOT_LOST): (_S.ENDED, (_F.ABANDON, *_END)),
    (_S.FLUSHING, _E.COMING_LOST): (_S.ENDED, (_F.ABANDON, *_END)),
    (_S.FLUSHING, _E.DEADLINE): (_S.ENDED, (_F.ABANDON, *_END)),
    (_S.FLUSHING, _E.CLIENT_LOST): (_S.ENDED, _END),
    (_S.DETACHED, _E.RESUME): (_S.OPENING, (_F.REJOIN, _F.OPEN)),
    (_S.DETACHED, _E.RESUME_SEATLESS): (_S.WAITING, (_F.REJOIN, _F.SEEK)),
    (_S.DETACHED, _E.DEADLINE): (_S.ENDED, _END),
    **{
        (state, event): (_S.ENDED, _END)
        for state in State
        if state not in (_S.NEW, _S.ENDED)
        for event in (_E.TAKEN_OVER, _E.FAIL, _E.SHUTDOWN)
    },
}

# How long a session may stay in a state before DEADLINE (NEW: before the edge raises FAIL with
# start_timeout, which has a code of its own on the wire).
DEADLINES: Final[dict[State, float]] = {
    State.NEW: 10.0,
    State.LEAVING: 1.0,
    State.MOVING: 5.0,
    State.FLUSHING: 2.0,
    State.DETACHED: 10.0,
}


def advance(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """The one way a session changes. An event that the table does not know changes nothing:
    events race (a worker dies while its user says stop), and the loser is late, not wrong."""
    return TABLE.get((state, event), (state, ()))


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, event), (after, _) in TABLE.items():
        edges.setdefault((state, after), []).append(event)
    lines = ["stateDiagram-v2", f"    [*] --> {State.NEW}"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in edges.items() if a != b]
    return "\n".join([*lines, f"    {State.ENDED} --> [*]"])
