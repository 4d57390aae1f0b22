"""The wire, sans I/O: bytes and text to typed messages and back (docs/protocol.md).

Golden vectors in tests/vectors are read by this module's tests and by the TypeScript client's.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from understudy.core.errors import (
    BadJson,
    BadMessage,
    BadSampleRate,
    LinkError,
    MessageTooBig,
    UnderstudyError,
)

MIN_RATE_HZ: Final = 8_000
MAX_RATE_HZ: Final = 48_000
MAX_AUDIO_S: Final = 0.200
MAX_TEXT_BYTES: Final = 64 * 1024
MAX_USER_CHARS: Final = 128
BYTES_PER_SAMPLE: Final = 2

Params = Mapping[str, float]


# From the client ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The first message of a stream. `sample_rate` in Hz, of the audio in both directions."""

    voice: str
    user: str
    sample_rate: int
    params: Params = field(default_factory=dict)
    token: str | None = None
    resume: str | None = None
    takeover: bool = False


@dataclass(frozen=True, slots=True)
class SetParams:
    params: Params


@dataclass(frozen=True, slots=True)
class Stop:
    pass


@dataclass(frozen=True, slots=True)
class Ping:
    id: int


ClientMessage = Start | SetParams | Stop | Ping


def decode_client(text: str | bytes) -> ClientMessage:
    """Reads one text message of a client.

    Raises BadJson, BadMessage, BadSampleRate or MessageTooBig, each with what to do.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise MessageTooBig(f"a text message may have at most {MAX_TEXT_BYTES} bytes")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise BadJson('text messages are JSON objects, such as {"type": "stop"}') from None
    if not isinstance(raw, dict):
        raise BadJson('text messages are JSON objects, such as {"type": "stop"}')
    match raw.get("type"):
        case "start":
            return _start(raw)
        case "params":
            return SetParams(_params(raw.get("params")))
        case "stop":
            return Stop()
        case "ping":
            return Ping(_integer(raw, "id"))
        case other:
            raise BadMessage(
                f"unknown message type {_brief(other)}; send start, params, stop or ping"
            )


def _start(raw: Mapping[str, Any]) -> Start:
    user = _string(raw, "user")
    if not 1 <= len(user) <= MAX_USER_CHARS:
        raise BadMessage(f"user must have 1 to {MAX_USER_CHARS} characters")
    rate = raw.get("sample_rate")
    if isinstance(rate, float) and rate.is_integer():
        rate = int(rate)
    if not isinstance(rate, int) or isinstance(rate, bool):
        raise BadMessage("start needs sample_rate, an integer in Hz, such as 24000")
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise BadSampleRate(f"sample_rate must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, not {rate}")
    takeover = raw.get("takeover", False)
    if not isinstance(takeover, bool):
        raise BadMessage("takeover must be true or false")
    return Start(
        voice=_string(raw, "voice"),
        user=user,
        sample_rate=rate,
        params=_params(raw.get("params", {})),
        token=_optional_string(raw, "token"),
        resume=_optional_string(raw, "resume"),
        takeover=takeover,
    )


def _params(raw: object) -> Params:
    if not isinstance(raw, dict):
        raise BadMessage('params must be an object of numbers, such as {"pitch": 3.5}')
    for name, value in raw.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadMessage(f"params.{_brief(name)} must be a number")
        if abs(value) > 1e9 or not math.isfinite(value):  # an int may be too large for a float
            raise BadMessage(f"params.{_brief(name)} is no number that makes sense")
    return {name: float(value) for name, value in raw.items()}


def _string(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str):
        raise BadMessage(f"{raw['type']} needs {name}, a string")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON may hold half a surrogate pair; no store takes that
        raise BadMessage(f"{name} is no valid Unicode") from None
    if "\0" in value:  # nor does PostgreSQL take this
        raise BadMessage(f"{name} has a NUL character in it")
    return value


def _optional_string(raw: Mapping[str, Any], name: str) -> str | None:
    return None if raw.get(name) is None else _string(raw, name)


def _integer(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**53:
        raise BadMessage(f"{raw['type']} needs {name}, an integer")
    return value


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


# From the server ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of a duration, ms."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Queued:
    session: str
    position: int
    eta_s: float | None
    resume: str


@dataclass(frozen=True, slots=True)
class Loading:
    session: str
    eta_s: float | None
    progress: float
    resume: str


@dataclass(frozen=True, slots=True)
class Live:
    session: str
    role: str
    voice: str
    latency_ms: float
    latency_samples: int
    resume: str
    kind: str = "convert"  # or "listen": labels come, and no audio


@dataclass(frozen=True, slots=True)
class Label:
    """What a listener heard, in samples of the session's input: it is about what was said from
    `from_sample` on, and was decided at `at_sample`. `lasts`: it holds until the next label."""

    session: str
    label: str
    score: float
    at_sample: int
    from_sample: int
    lasts: bool


@dataclass(frozen=True, slots=True)
class Usage:
    session: str
    lead_s: float
    understudy_s: float
    silent_s: float
    queue_ms: Spread | None = None
    engine_ms: Spread | None = None
    skipped_s: float = 0.0  # silence of the user's, for which no worker was asked


@dataclass(frozen=True, slots=True)
class Pong:
    session: str
    id: int


@dataclass(frozen=True, slots=True)
class Error:
    session: str
    code: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, session: str, error: UnderstudyError) -> Error:
        return cls(session, error.code, error.message, error.retryable)


@dataclass(frozen=True, slots=True)
class Ended:
    session: str
    reason: str
    lead_s: float
    understudy_s: float


ServerEvent = Queued | Loading | Live | Label | Usage | Pong | Error | Ended

_EVENTS: Final[dict[str, type[Any]]] = {
    cls.__name__.lower(): cls for cls in (Queued, Loading, Live, Label, Usage, Pong, Error, Ended)
}


def encode_event(event: ServerEvent) -> str:
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    return _encode_json({"type": type(event).__name__.lower(), **fields})


_encode_json: Final = json.JSONEncoder(default=asdict).encode  # a Spread inside an event


def decode_event(text: str) -> ServerEvent:
    """The client's side of `encode_event`. Unknown fields are ignored.

    Raises BadMessage on an event of an unknown type or with fields missing.
    """
    raw = json.loads(text)
    cls = _EVENTS.get(raw.get("type", ""))
    if cls is None:
        raise BadMessage(f"unknown event {_brief(raw.get('type'))}")
    known = {name: raw[name] for name in cls.__dataclass_fields__ if name in raw}
    for name in ("queue_ms", "engine_ms"):
        if isinstance(known.get(name), dict):
            known[name] = Spread(**known[name])
    try:
        event: ServerEvent = cls(**known)
    except TypeError as error:
        raise BadMessage(f"incomplete {raw['type']} event: {error}") from None
    return event


def encode_start(start: Start) -> str:
    fields = {name: value for name, value in asdict(start).items() if value not in (None, False)}
    return json.dumps({"type": "start", **fields})


# The link, between an edge and its workers --------------------------------------------------

_HEADER: Final = struct.Struct("<HHIQ")
HEADER_BYTES: Final = _HEADER.size
STEP_UNIT_S: Final = 10e-6


class Record(NamedTuple):  # a tuple is made ten times faster, and every frame needs two
    """A run of one session's samples (int16) from `position` on, at the model's rate."""

    slot: int
    position: int
    pcm: memoryview
    step_s: float


def encode_header(slot: int, position: int, nbytes: int, step_s: float = 0.0) -> bytes:
    step = min(int(step_s / STEP_UNIT_S), 0xFFFF) if step_s else 0
    return _HEADER.pack(slot, step, nbytes // BYTES_PER_SAMPLE, position)


def decode_records(message: bytes) -> Iterator[Record]:
    """Reads a binary message of the link. Raises LinkError where lengths do not add up."""
    view = memoryview(message)
    at, size = 0, len(message)
    while at < size:
        if at + HEADER_BYTES > size:
            raise LinkError("a record's header is cut off")
        slot, step, samples, position = _HEADER.unpack_from(view, at)
        at += HEADER_BYTES
        end = at + samples * BYTES_PER_SAMPLE
        if end > size:
            raise LinkError("a record's audio is cut off")
        yield Record(slot, position, view[at:end], step * STEP_UNIT_S)
        at = end


class Heard(NamedTuple):
    """A label that a listener gives to what it hears in a slot, in samples at the model's rate.

    On the link, `start` and `at` are positions in the session; out of a model's `events`, they
    count from the first sample of its last step (`start` may be negative). It is about what was
    said from `start` on, and is known once the samples before `at` are in; a slot has one label
    an `at`, at most. `lasts`: it holds until the slot's next label.
    """

    slot: int
    start: int
    at: int
    label: str
    score: float
    lasts: bool = False


def encode_labels(slot: int, heard: Iterable[Heard]) -> dict[str, Any]:
    """A text message of the link: what was heard in a slot, in the order of `at`."""
    return {"type": "labels", "slot": slot, "events": [list(one[1:]) for one in heard]}


def decode_labels(raw: Mapping[str, Any]) -> list[Heard]:
    """Raises KeyError, TypeError or ValueError where it makes no sense."""
    found = [
        Heard(int(raw["slot"]), int(start), int(at), str(label), float(score), bool(lasts))
        for start, at, label, score, lasts in raw["events"]
    ]
    for one in found:
        if not (0 <= one.start <= one.at and math.isfinite(one.score)):
            raise ValueError(f"{one} is no label")
    return found


@dataclass(frozen=True, slots=True)
class Control:
    """What a slider may do: a parameter's range, its default and its unit."""

    min: float
    max: float
    default: float
    unit: str


@dataclass(frozen=True, slots=True)
class Card:
    """What a loaded model says of itself.

    `frame` and `latency` in samples at `sample_rate` Hz (0: at whatever rate the session has);
    output sample k of the model answers input sample k - latency. `context_s`: how much recent
    input rebuilds its state.
    """

    sample_rate: int
    frame: int
    latency: int
    context_s: float
    slots: int
    controls: Mapping[str, Control] = field(default_factory=dict)
    alignment: int = 1  # a primed state is exact if it starts at a multiple of this, in samples
    kind: str = "convert"  # or "listen": it gives labels, and its audio is its input
    labels: tuple[str, ...] = ()  # all that a listener can say

    @property
    def listens(self) -> bool:
        return self.kind == "listen"

    def dump(self) -> dict[str, Any]:
        return asdict(self)

    def can_follow(self, before: Card) -> bool:
        """Whether a session that was opened for the one can go on on the other: of its kind, at
        its rate, within its latency."""
        return (
            self.kind == before.kind
            and self.sample_rate == before.sample_rate
            and self.latency + self.frame <= before.latency + before.frame
        )

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Card:
        """Raises LinkError if a field is missing, of the wrong type or out of range."""
        try:
            card = cls(
                sample_rate=int(raw["sample_rate"]),
                frame=int(raw["frame"]),
                latency=int(raw["latency"]),
                context_s=float(raw["context_s"]),
                slots=int(raw["slots"]),
                controls={name: Control(**value) for name, value in raw["controls"].items()},
                alignment=int(raw["alignment"]),
                kind=str(raw.get("kind", "convert")),
                labels=tuple(map(str, raw.get("labels", ()))),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LinkError(f"a model's card is incomplete: {error!r}") from None
        if (
            not (card.sample_rate == 0 or MIN_RATE_HZ <= card.sample_rate <= MAX_RATE_HZ)
            or card.frame < 1
            or card.latency < 0
            or card.alignment < 1
            or card.kind not in ("convert", "listen")
            or not 1 <= card.slots <= 0xFFFF
        ):
            raise LinkError(f"a model's card makes no sense: {card}")
        return card
