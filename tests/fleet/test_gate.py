"""Bad input and bad manners at the door: each gets a word and a clean close; the server goes on."""

import contextlib
import json
import socket
import urllib.request
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fleet.raw import BINARY, CONTINUATION, PING, TEXT, Raw
from tests.server import Server


def alive(server: Server, user: str = "next") -> None:
    """A well-behaved user is served, right now."""
    with Raw(server.port) as peer:
        peer.start(user, takeover=True)
        assert peer.event("live")["role"] == "lead"
        peer.frame(BINARY, b"\1\2" * 480)
        peer.say(type="stop")
        kind, payload = peer.next()
        while kind != BINARY:
            kind, payload = peer.next()
        assert payload == b"\1\2" * 480
        assert peer.event("ended")["reason"] == "stopped"
        assert peer.close_code() == 1000


BAD_FIRST: list[tuple[str, int, bytes, str, int]] = [
    ("no JSON", TEXT, b"hello", "bad_json", 1007),
    ("no UTF-8", TEXT, b"\xff\xfe\xfd", "bad_json", 1007),
    ("deep JSON", TEXT, b"[" * 60_000, "bad_json", 1007),
    ("no type", TEXT, b"{}", "bad_message", 1008),
    ("audio first", BINARY, b"\0\0", "audio_before_start", 1008),
    ("stop first", TEXT, b'{"type":"stop"}', "bad_message", 1008),
    ("100 kB of text", TEXT, b" " * 100_000, "message_too_big", 1009),
    ("100 kB of audio first", BINARY, bytes(100_000), "audio_before_start", 1008),
]


@pytest.mark.parametrize(
    ("kind", "payload", "code", "close_code"),
    [case[1:] for case in BAD_FIRST],
    ids=[case[0] for case in BAD_FIRST],
)
def test_a_bad_first_message(
    server: Server, kind: int, payload: bytes, code: str, close_code: int
) -> None:
    with Raw(server.port) as peer:
        peer.frame(kind, payload)
        error = peer.event("error")
        assert error["code"] == code
        assert error["retryable"] is False
        assert len(error["message"]) > 15
        assert error["session"]
        assert peer.event("ended")["reason"] == "error"
        assert peer.close_code() == close_code
    alive(server)


BAD_STARTS: list[tuple[dict[str, Any], str]] = [
    ({"voice": "nobody"}, "unknown_voice"),
    ({"voice": "x" * 5000}, "unknown_voice"),
    ({"sample_rate": 0}, "bad_sample_rate"),
    ({"sample_rate": -24000}, "bad_sample_rate"),
    ({"sample_rate": 10**30}, "bad_sample_rate"),
    ({"sample_rate": None}, "bad_message"),
    ({"user": ""}, "bad_message"),
    ({"user": "x" * 129}, "bad_message"),
    ({"user": "\ud800"}, "bad_message"),
    ({"user": "a\0b"}, "bad_message"),
    ({"params": {"pitch": 1}}, "bad_params"),
    ({"params": {"pitch": 10**400}}, "bad_message"),
    ({"params": "loud"}, "bad_message"),
    ({"voice": "chipmunk", "params": {"pitch": 99}}, "bad_params"),
    ({"token": 5}, "bad_message"),
]


@pytest.mark.parametrize(("change", "code"), BAD_STARTS)
def test_a_bad_start(server: Server, change: dict[str, Any], code: str) -> None:
    with Raw(server.port) as peer:
        peer.start("bad", **change)
        assert peer.event("error")["code"] == code
        peer.close_code()
    alive(server)


def test_the_refusal_of_a_voice_names_those_there_are(server: Server) -> None:
    with Raw(server.port) as peer:
        peer.start("bad", voice="nobody")
        assert "chipmunk" in peer.event("error")["message"]


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        (BINARY, bytes(9602), "message_too_big"),
        (BINARY, bytes(100_000), "message_too_big"),
        (TEXT, b"nonsense", "bad_json"),
        (TEXT, b'{"type":"start","voice":"mirror","user":"b","sample_rate":24000}', "bad_message"),
    ],
)
def test_a_bad_message_on_a_live_stream(
    server: Server, kind: int, payload: bytes, code: str
) -> None:
    with Raw(server.port) as peer:
        peer.start("midway")
        peer.event("live")
        peer.frame(kind, payload)
        assert peer.event("error")["code"] == code
        assert peer.event("ended")["reason"] == "error"
        peer.close_code()
    alive(server, "midway")


def test_exactly_200_ms_and_odd_bytes_are_legal(server: Server) -> None:
    with Raw(server.port) as peer:
        peer.start("odd")
        peer.event("live")
        data = bytes(range(1, 256)) * 38  # 9,690 bytes
        peer.frame(BINARY, data[:9600])
        for at in range(9600, len(data), 3):
            peer.frame(BINARY, data[at : at + 3])
        peer.say(type="stop")
        assert peer.heard_until_ended() == data
        assert peer.close_code() == 1000


def test_fragments_are_put_together(server: Server) -> None:
    with Raw(server.port) as peer:
        text = b'{"type":"start","voice":"mirror","user":"pieces","sample_rate":24000}'
        peer.frame(TEXT, text[:10], fin=False)
        peer.frame(PING, b"between the pieces")
        peer.frame(CONTINUATION, text[10:20], fin=False)
        peer.frame(CONTINUATION, text[20:])
        peer.event("live")
        peer.frame(BINARY, b"\5\6\7", fin=False)
        peer.frame(CONTINUATION, b"\10")
        kind, payload = peer.next()
        while kind != BINARY:
            kind, payload = peer.next()
        assert payload == b"\5\6\7\10"


def test_ping_is_answered_with_its_id_even_before_start(server: Server) -> None:
    with Raw(server.port) as peer:
        peer.say(type="ping", id=41)
        assert peer.event("pong")["id"] == 41


def test_no_compression_is_agreed_to(server: Server) -> None:
    with Raw(server.port, Sec_WebSocket_Extensions="permessage-deflate") as peer:
        assert peer.status == 101
        assert "permessage-deflate" not in peer.head


def test_a_client_that_runs_ahead_is_slowed_and_loses_nothing(server: Server) -> None:
    data = bytes(range(1, 251)) * 384  # 96,000 bytes: 2 s
    with Raw(server.port) as peer:
        peer.start("hasty")
        peer.event("live")
        for at in range(0, len(data), 960):
            peer.frame(BINARY, data[at : at + 960])
        peer.say(type="stop")
        assert peer.heard_until_ended() == data


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    started=st.booleans(),
    frames=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 15), st.binary(max_size=300), st.booleans(), st.booleans()),
            st.tuples(
                st.just(TEXT),
                st.sampled_from(
                    [b'{"type":"stop"}', b'{"type":"params","params":{"pitch":3}}', b"[]", b"{"]
                ),
                st.just(True),
                st.just(True),
            ),
        ),
        max_size=12,
    ),
    rest=st.binary(max_size=64),
)
def test_no_run_of_frames_hurts_the_server(
    server: Server, started: bool, frames: list[tuple[int, bytes, bool, bool]], rest: bytes
) -> None:
    with Raw(server.port) as peer, contextlib.suppress(OSError):
        if started:
            peer.start("fuzz", voice="chipmunk", takeover=True)
        for kind, payload, fin, masked in frames:
            peer.frame(kind, payload, fin=fin, masked=masked)
        peer.socket.sendall(rest)
    assert server.process.poll() is None


def test_the_server_still_serves_after_the_fuzzing(server: Server) -> None:
    alive(server)
    assert "could not be handled" not in server.log


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_no_bytes_at_the_door_hurt_the_server(server: Server, data: bytes) -> None:
    peer = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    with peer, contextlib.suppress(OSError):
        peer.sendall(data)
    assert server.process.poll() is None


def test_a_first_line_that_comes_in_drops(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
        for byte in b"GET /v1/voices HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n":
            peer.sendall(bytes([byte]))
        answer = b""
        while data := peer.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"voices"' in answer


def get(server: Server, path: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        server.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_http(server: Server) -> None:
    assert get(server, "/healthz") == (200, b"ok\n")
    status, body = get(server, "/v1/status")
    assert status == 200
    assert {worker["state"] for worker in json.loads(body)["workers"]} == {"ready"}
    status, body = get(server, "/v1/nothing")
    assert status == 404
    assert json.loads(body)["error"]["code"] == "not_found"
    status, body = get(server, "/v1/stream")
    assert status == 426
    status, body = get(server, "/")
    assert status == 200
    assert b"<html" in body
    assert get(server, "/../understudy.toml")[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},  # DNS rebinding
    ],
)
def test_other_sites_pages_get_nowhere(server: Server, headers: dict[str, str]) -> None:
    assert get(server, "/v1/voices", **headers)[0] == 403
    with Raw(server.port, **headers) as peer:
        assert peer.status == 403


def test_the_page_of_this_server_gets_in(server: Server) -> None:
    with Raw(server.port, Origin=server.url) as peer:
        assert peer.status == 101


def test_a_worker_that_nobody_started_is_turned_away(server: Server) -> None:
    with Raw(server.port, "/v1/link") as peer:
        assert peer.status == 101
        peer.say(type="hello", node="local-1", secret="", region="r", model="mirror", slots=9)
        assert peer.close_code() == 1011
    for message in ('{"type":"ready"}', "[]", "nonsense", '{"type":"hello"}'):
        with Raw(server.port, "/v1/link") as peer:
            peer.frame(TEXT, message.encode())
            assert peer.close_code() >= 1007
    status = json.loads(get(server, "/v1/status")[1])
    assert len(status["workers"]) == 3  # and none more
