"""The wire against the golden vectors, and against nonsense."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core import wire
from understudy.core.errors import LinkError, UnderstudyError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "protocol.json").read_text())
TYPES = {wire.Start: "start", wire.SetParams: "params", wire.Stop: "stop", wire.Ping: "ping"}


def named(part: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[part]]


@pytest.mark.parametrize("vector", named("client"))
def test_client_messages_are_read_as_the_vectors_say(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(UnderstudyError) as caught:
            wire.decode_client(vector["text"])
        assert caught.value.code == vector["error"]
        assert len(caught.value.message) > 10
    else:
        message = wire.decode_client(vector["text"])
        assert {"type": TYPES[type(message)], **asdict(message)} == vector["message"]


@pytest.mark.parametrize("vector", named("server"))
def test_events_are_written_and_read_as_the_vectors_say(vector: dict[str, Any]) -> None:
    event = wire.decode_event(vector["text"])
    assert json.loads(wire.encode_event(event)) == vector["message"]


@pytest.mark.parametrize("vector", named("link"))
def test_link_records_are_written_and_read_as_the_vectors_say(vector: dict[str, Any]) -> None:
    pcm = np.array(vector["samples"], "<i2").tobytes()
    step_s = vector["step_units"] * wire.STEP_UNIT_S * 1.0001  # truncation must not lose a unit
    header = wire.encode_header(vector["slot"], vector["position"], len(pcm), step_s)
    assert (header + pcm).hex() == vector["hex"]
    (record,) = wire.decode_records(bytes.fromhex(vector["hex"]))
    assert (record.slot, record.position) == (vector["slot"], vector["position"])
    assert bytes(record.pcm) == pcm


@pytest.mark.parametrize("vector", named("labels"))
def test_labels_on_the_link_are_written_and_read_as_the_vectors_say(vector: dict[str, Any]) -> None:
    raw = json.loads(vector["text"])
    heard = wire.decode_labels(raw)
    assert [list(one) for one in heard] == [[vector["slot"], *one] for one in vector["heard"]]
    assert json.loads(json.dumps(wire.encode_labels(vector["slot"], heard))) == raw
    for nonsense in ([1, 0, "x", 0.5, True], [0, 1, "x", "high", True], [0, 1, "x", 0.5]):
        with pytest.raises((KeyError, TypeError, ValueError)):
            wire.decode_labels({"slot": 0, "events": [nonsense]})


def test_an_older_server_has_converters_only() -> None:
    live = {"type": "live", "session": "s", "role": "lead", "voice": "v", "resume": "r"}
    event = wire.decode_event(json.dumps({**live, "latency_ms": 1.0, "latency_samples": 24}))
    assert isinstance(event, wire.Live)
    assert event.kind == "convert"
    usage = {"type": "usage", "session": "s", "lead_s": 1.0, "understudy_s": 0.0, "silent_s": 0.0}
    told = wire.decode_event(json.dumps(usage))
    assert isinstance(told, wire.Usage)
    assert told.skipped_s == 0.0


def test_a_start_survives_the_trip() -> None:
    start = wire.Start("giant", "Zoë", 48_000, {"pitch": -3.0}, takeover=True)
    assert wire.decode_client(wire.encode_start(start)) == start


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("latin-1"))))
def test_any_text_is_read_or_refused_with_a_code(text: str) -> None:
    try:
        wire.decode_client(text)
    except UnderstudyError as error:
        refusal = error
    else:
        return
    assert refusal.code
    assert refusal.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["start", "params", "stop", "ping"])},
        optional=dict.fromkeys(
            ("voice", "user", "sample_rate", "params", "token", "takeover", "id"), json_values
        ),
    )
)
def test_any_json_is_read_or_refused_with_a_code(message: dict[str, Any]) -> None:
    try:
        decoded = wire.decode_client(json.dumps(message))
    except UnderstudyError:
        return
    if isinstance(decoded, wire.Start):
        assert wire.MIN_RATE_HZ <= decoded.sample_rate <= wire.MAX_RATE_HZ


@given(st.binary(max_size=200))
def test_any_bytes_on_the_link_are_read_or_refused(data: bytes) -> None:
    try:
        total = sum(wire.HEADER_BYTES + len(record.pcm) for record in wire.decode_records(data))
    except LinkError:
        return
    assert total == len(data)


def test_a_card_without_sense_is_refused() -> None:
    card = wire.Card(24_000, 240, 960, 3.0, 4, {"pitch": wire.Control(-24, 24, 0, "semitones")})
    assert wire.Card.parse(json.loads(json.dumps(card.dump()))) == card
    for change in ({"frame": 0}, {"slots": 0}, {"sample_rate": 7}, {"latency": -1}, {"slots": "x"}):
        with pytest.raises(LinkError):
            wire.Card.parse(card.dump() | change)
    with pytest.raises(LinkError):
        wire.Card.parse({"frame": 1})


def test_a_card_from_before_listeners_is_a_converters() -> None:
    old = {"sample_rate": 24_000, "frame": 240, "latency": 0, "context_s": 1.0, "slots": 4}
    card = wire.Card.parse({**old, "controls": {}, "alignment": 1})
    assert (card.kind, card.listens, card.labels) == ("convert", False, ())
    listener = wire.Card(16_000, 160, 0, 3.7, 4, alignment=160, kind="listen", labels=("a", "b"))
    assert wire.Card.parse(json.loads(json.dumps(listener.dump()))) == listener
    assert listener.listens
    assert not listener.can_follow(replace(listener, kind="convert"))
    with pytest.raises(LinkError):
        wire.Card.parse(listener.dump() | {"kind": "sing"})
