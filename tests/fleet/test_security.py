"""Trying to get in: real servers, real sockets, and nothing that a stranger says gets anywhere.

Strangers are told apart by what a trusted proxy says of them (X-Forwarded-For), so that each test
has addresses of its own, and real limits hold although all of it comes from this machine.
"""

import asyncio
import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import psutil
import pytest

from tests.fleet.raw import BINARY, CONTINUATION, TEXT, Raw
from tests.fleet.test_check import written
from tests.fleet.test_cli import understudy
from tests.server import SMALL, Server
from understudy.client import Client, Refused
from understudy.edge.http1 import plain
from understudy.tokens import Keys

OLD, NEW = (
    "old-secret-0123456789abcdef0123456789abcdef",
    "new-secret-0123456789abcdef0123456789abcdef",
)
ADMIN = "admin-key-0123456789abcdef0123456789abcdef"
KEYS = Keys.read({"UNDERSTUDY_SECRET": f"{NEW},{OLD}", "UNDERSTUDY_ADMIN_KEY": ADMIN})
SECRETS = (OLD, NEW, ADMIN)
FAR = 4e9
CONFIG = (
    SMALL.format(slots=24)
    + """
[access]
hosts = ["voices.example.com"]
origins = ["https://app.example.com"]

[limits]
trusted_proxies = ["127.0.0.1"]
connections_per_address = 400
connects_burst = 40
connects_per_minute = 60
requests_burst = 40
requests_per_minute = 60
bad_tokens_burst = 5
bad_tokens_per_minute = 1
"""
)


@pytest.fixture(scope="module")
def fort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with every key, behind a proxy."""
    keys = {"UNDERSTUDY_SECRET": f"{NEW},{OLD}", "UNDERSTUDY_ADMIN_KEY": ADMIN}
    fort = Server(tmp_path_factory.mktemp("fort"), 0, CONFIG, **keys)
    yield fort
    assert fort.stop() == 0, fort.log
    assert "Traceback" not in fort.log, fort.log
    assert not any(secret in fort.log for secret in SECRETS)


def alive(server: Server, user: str = "next", **headers: str) -> None:
    """A good user is served, right now."""
    with Raw(server.port, **headers) as peer:
        peer.start(user, takeover=True, token=KEYS.user_token(user, FAR))
        peer.event("live")


def ask(server: Server, path: str, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """(status, body, headers) of a GET; the body as JSON where it is some."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(server.url + path, headers=names))
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        text = answer.read().decode()
        found = {name.lower(): value for name, value in answer.headers.items()}
    try:
        return answer.status, json.loads(text), found
    except ValueError:
        return answer.status, text, found


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def send(server: Server, data: bytes, *, patience_s: float = 15.0) -> bytes:
    """All that comes back for these bytes, until the server hangs up."""
    heard = b""
    peer = socket.create_connection(("127.0.0.1", server.port), timeout=patience_s)
    with peer, contextlib.suppress(ConnectionError):
        peer.sendall(data)
        while more := peer.recv(65536):
            heard += more
    return heard


def head(line: str, **fields: str) -> bytes:
    named = {"Host": "127.0.0.1", **{k.replace("_", "-"): v for k, v in fields.items()}}
    return "\r\n".join([line, *(f"{k}: {v}" for k, v in named.items()), "", ""]).encode()


# Tokens ---------------------------------------------------------------------------------------

BAD_TOKENS = {
    "none": None,
    "expired": KEYS.user_token("alice", 1.0),
    "another user's": KEYS.user_token("bob", FAR),
    "a join token": KEYS.join_token("alice", None, FAR),
    "a worker's": KEYS.worker_token("alice", FAR),
    "alg none": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6NDAwMDAwMDAwMH0.",
    "another secret's": jwt.encode({"sub": "alice", "exp": FAR}, "x" * 32),
    "truncated": KEYS.user_token("alice", FAR)[:-1],
    "the admin key": ADMIN,
    "deep": f"{'W1tb' * 12_000}.e30.e30",
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
def test_a_bad_token_opens_no_stream_and_no_ledger(fort: Server, token: str | None) -> None:
    with Raw(fort.port) as peer:
        peer.start("alice", **({} if token is None else {"token": token}))
        error = peer.event("error")
        assert error["code"] == "bad_token"
        assert not any(secret in error["message"] for secret in SECRETS)
        assert peer.close_code() == 1008
    if token is None or (token != ADMIN and len(token) < 8000):
        status, body, found = ask(fort, "/v1/usage?user=alice", **(bearer(token) if token else {}))
        assert (status, body["error"]["code"]) == (401, "bad_token")
        assert found["www-authenticate"] == "Bearer"


def test_good_tokens_of_the_old_and_the_new_secret_and_of_apps_backends_open_one(
    fort: Server,
) -> None:
    claims = {"sub": "alice", "exp": int(FAR)}
    for key in (OLD, NEW):
        with Raw(fort.port) as peer:
            peer.start("alice", takeover=True, token=jwt.encode(claims, key, algorithm="HS256"))
            peer.event("live")
    token = understudy("token", "alice", data=fort.data, UNDERSTUDY_SECRET=f"{NEW},{OLD}").stdout
    status, body, _ = ask(fort, "/v1/usage?user=alice", **bearer(token.strip()))
    assert status == 200
    assert {row["user"] for row in body["usage"]} <= {"alice"}


# Workers --------------------------------------------------------------------------------------

BAD_WORKERS = {
    "nothing": "",
    "a user's token": KEYS.user_token("ghost", FAR),
    "a join token": KEYS.join_token("ghost", None, FAR),
    "another worker's": KEYS.worker_token("local-1", FAR),
    "an expired one": KEYS.worker_token("ghost", 1.0),
    "one of another fleet": Keys(fleet=("x" * 32,)).worker_token("ghost", FAR),
    "no ASCII": "é",
}


@pytest.mark.parametrize("token", BAD_WORKERS.values(), ids=BAD_WORKERS.keys())
def test_a_worker_that_was_not_asked_for_is_turned_away(fort: Server, token: str) -> None:
    card = {"sample_rate": 24000, "frame": 1, "latency": 0, "context_s": 0, "slots": 99}
    with Raw(fort.port, "/v1/link") as peer:
        hello = {"node": "ghost", "secret": token, "region": "local", "slots": 99}
        peer.say(type="hello", model="mirror", revision="r", **hello)
        peer.say(type="ready", card={**card, "controls": {}, "alignment": 1})
        assert peer.close_code() == 1011
    listed = ask(fort, "/v1/status", **bearer(ADMIN))[1]["workers"]
    assert "ghost" not in [worker["id"] for worker in listed]


def test_a_link_that_says_no_hello_is_cut(fort: Server) -> None:
    with Raw(fort.port, "/v1/link") as peer:
        assert peer.close_code() == 1011
    stranger = Raw(fort.port, "/v1/link", X_Forwarded_For="192.0.2.77")
    # No word: it is not listened to.
    with stranger, pytest.raises((EOFError, ConnectionError)):
        stranger.frame(TEXT, b'{"type":"hello","filling":"', fin=False)
        for _ in range(100):
            stranger.frame(CONTINUATION, b"x" * 10_000, fin=False)
        stranger.next()
    alive(fort)


@pytest.mark.parametrize(
    "message",
    [
        b"[" * 60_000,
        b'{"type":"hello","slots":"' + b"9" * 6000 + b'"}',
        b"\xff",
        b"null",
        b'"hello"',
    ],
    ids=["deep", "large", "no text", "null", "a word"],
)
def test_nonsense_on_a_link_is_refused_in_a_sentence(fort: Server, message: bytes) -> None:
    with Raw(fort.port, "/v1/link") as peer:
        peer.frame(TEXT, message)
        assert peer.close_code() in (1007, 1011)


def test_no_page_is_a_worker(fort: Server) -> None:
    with Raw(fort.port, "/v1/link", Origin="https://evil.example") as peer:
        assert peer.status == 403
    with Raw(fort.port, "/v1/link", Host="10.1.2.3:8765") as peer:
        assert peer.status == 101  # workers know this server by its address


# Other sites ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Host": "evil.example"},
        {"Host": "["},
        {"Host": "voices.example.com.evil.example"},
        {"Host": "voices.example.com", "Origin": "https://app.example.com.evil.example"},
    ],
    ids=str,
)
def test_other_sites_pages_get_nowhere(fort: Server, headers: dict[str, str]) -> None:
    status, body, found = ask(fort, "/v1/voices", **headers)
    assert (status, body["error"]["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in found
    with Raw(fort.port, **headers) as peer:
        assert peer.status == 403


def test_the_page_and_the_apps_that_are_named_get_in(fort: Server) -> None:
    ours = {"Host": "voices.example.com", "Origin": "https://voices.example.com"}
    apps = {"Host": "voices.example.com", "Origin": "https://app.example.com"}
    for headers in (ours, apps):
        alive(fort, **headers)
        assert ask(fort, "/v1/voices", **headers)[0] == 200
    assert ask(fort, "/v1/voices", **apps)[2]["access-control-allow-origin"] == apps["Origin"]
    assert ask(fort, "/healthz", Host="10.1.2.3")[0] == 200  # a balancer asks by address


# Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../understudy.toml",
        "/../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/assets/../../edge/api.py",
        "/..\\..\\edge\\api.py",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/assets/%00",
        "/assets/" + "a" * 5000,
        "/fleet/../../tokens.py",
        "/fleet.key",
        "/understudy.db",
    ],
)
def test_no_path_leads_out_of_the_page(fort: Server, path: str) -> None:
    answer = send(fort, head(f"GET {path} HTTP/1.1", Connection="close"))
    status = int(answer.split()[1])
    assert status in (400, 404, 405), answer
    assert b"root:" not in answer
    assert b"import " not in answer


def test_a_bundle_that_was_changed_is_not_run(tmp_path: Path) -> None:
    source, data = tmp_path / "bundle", tmp_path / "data"
    source.mkdir()
    written(source)
    (source / "voice.toml").write_text('name = "mine"\nengine = "model:Voice"\nslots = 2\n')
    done = understudy("deploy", str(source), "--json", data=data)
    assert done.returncode == 0, done.stderr
    revision = json.loads(done.stdout)["revision"]
    proof = tmp_path / "proof"
    target = data / "bundles" / revision / "model.py"
    target.chmod(0o644)
    target.write_text(f"open({str(proof)!r}, 'w').close()\n" + target.read_text())
    server = Server(data)
    try:
        with Raw(server.port) as peer:
            # Its understudy is a voice of ours, so the stream is served; the bundle is not.
            peer.start("alice", voice="mine")
            server.wait_for("were changed")
    finally:
        server.stop()
    assert not proof.exists()


# Sizes ----------------------------------------------------------------------------------------


def test_heads_and_bodies_are_small(fort: Server) -> None:
    big = "x" * 20_000
    assert send(fort, head("GET /v1/voices HTTP/1.1", X_Big=big)).startswith(b"HTTP/1.1 431")
    many = {f"X-{n}": "y" * 50 for n in range(500)}
    assert send(fort, head("GET /v1/voices HTTP/1.1", **many)).startswith(b"HTTP/1.1 431")
    assert send(fort, head(f"GET /v1/voices?{big} HTTP/1.1")).startswith(b"HTTP/1.1 431")
    endless = b"GET / HTTP/1.1\r\nX-Endless: " + b"z" * 40_000
    assert send(fort, endless).startswith(b"HTTP/1.1 431")
    ahead = head("GET /healthz HTTP/1.1") + b"GET / HTTP/1.1\r\nX-Endless: "
    assert send(fort, ahead + b"z" * 600_000).startswith(b"HTTP/1.1 200")  # and is over
    trailers = b"0\r\n" + b"T: t\r\n" * 100_000
    send(fort, head("POST / HTTP/1.1", Transfer_Encoding="chunked") + trailers)
    told = head("POST /v1/status HTTP/1.1", Content_Length="1000000000")
    assert send(fort, told).startswith(b"HTTP/1.1 413")
    chunks = b"4000\r\n" + b"c" * 0x4000 + b"\r\n"
    untold = head("POST /v1/status HTTP/1.1", Transfer_Encoding="chunked") + chunks * 100
    send(fort, untold)  # returns only once the server has hung up
    for path in ("/v1/stream", "/v1/link"):
        assert b"101" not in send(fort, head(f"GET {path} HTTP/1.1", X_Big=big))[:12]
    alive(fort)


def test_frames_and_fragments_are_small(fort: Server) -> None:
    with Raw(fort.port) as peer, contextlib.suppress(ConnectionError):
        peer.frame(TEXT, b" " * 10_000_000)
        assert peer.close_code() == 1009
    with Raw(fort.port) as peer:
        peer.start("pieces", takeover=True, token=KEYS.user_token("pieces", FAR))
        peer.event("live")
        with contextlib.suppress(ConnectionError):  # empty ones add up, too
            peer.frame(BINARY, b"", fin=False)
            for _ in range(2000):
                peer.frame(CONTINUATION, b"", fin=False)
            assert peer.event("error")["code"] == "message_too_big"
    memory = psutil.Process(fort.process.pid).memory_info().rss
    peers = [Raw(fort.port) for _ in range(20)]
    for peer in peers:  # frames that are announced large and never come
        peer.socket.sendall(bytes([0x81, 0xFF]) + (2**62).to_bytes(8, "big") + bytes(4))
    alive(fort)
    for peer in peers:
        peer.socket.close()
    assert psutil.Process(fort.process.pid).memory_info().rss - memory < 50e6


# Time -----------------------------------------------------------------------------------------


def test_who_says_nothing_or_little_is_cut_and_holds_nobody_up(fort: Server) -> None:
    beginnings = [
        b"",
        b"GET /v1/str",
        b"GET / HTTP/1.1\r\nX-Slow: ",
        b"GET /v1/stream HTTP/1.1\r\n",
    ]
    beginnings += [b"\r\n", b"POST / HTTP/1.1\r\n", b"GET /v1/link HTTP/1.1\r\nHost: a\r\n"]
    slow = []
    for _ in range(40):
        for beginning in beginnings:
            peer = socket.create_connection(("127.0.0.1", fort.port), timeout=30)
            peer.sendall(beginning)
            slow.append(peer)
    after = socket.create_connection(("127.0.0.1", fort.port), timeout=30)
    after.sendall(head("GET /healthz HTTP/1.1"))
    assert after.recv(4096).startswith(b"HTTP/1.1 200")
    after.sendall(b"\r\n")  # no request begins, and none is waited for any more
    alive(fort)
    assert ask(fort, "/v1/voices")[0] == 200
    for peer in [*slow, after]:
        with contextlib.suppress(ConnectionError):
            while peer.recv(4096):
                pass
        peer.close()
    alive(fort)


# Often ----------------------------------------------------------------------------------------


def test_guessing_gets_slower(fort: Server) -> None:
    guesser = {"X-Forwarded-For": "192.0.2.10"}
    forged = jwt.encode({"sub": "alice", "exp": FAR}, "guess" * 10, algorithm="HS256")
    for k in range(5):
        if k % 2:
            assert ask(fort, "/v1/status", **guesser, **bearer(f"guess {k}"))[0] == 401
        else:
            with Raw(fort.port, **guesser) as peer:
                peer.start("alice", token=forged)
                assert peer.event("error")["code"] == "bad_token"
                peer.close_code()
    with Raw(fort.port, **guesser) as peer:
        assert peer.status == 429
        assert int(peer.head.lower().split("retry-after: ")[1].split()[0]) > 10
    for key in ("guess 6", ADMIN):  # the right one, too: else guessing would go on
        status, body, found = ask(fort, "/v1/status", **guesser, **bearer(key))
        assert (status, body["error"]["code"], body["error"]["retryable"]) == (
            429,
            "overloaded",
            True,
        )
        assert int(found["retry-after"]) > 10
    # Nor does it help to name others before oneself: the proxy's word is the last.
    with Raw(fort.port, X_Forwarded_For="198.51.100.1, 192.0.2.10") as peer:
        assert peer.status == 429
    assert ask(fort, "/v1/status", **guesser)[0] == 200
    alive(fort, X_Forwarded_For="192.0.2.11")
    assert "192.0.2.10" in fort.log
    metrics = ask(fort, "/metrics", **bearer(ADMIN))[1]
    assert 'understudy_refused_total{why="bad_tokens"}' in metrics


def test_who_connects_too_often_waits(fort: Server) -> None:
    def status() -> int:
        with Raw(fort.port, X_Forwarded_For="192.0.2.20") as peer:
            return peer.status

    found = [status() for _ in range(60)]
    assert found[:40] == [101] * 40
    assert found.count(429) >= 15
    alive(fort, X_Forwarded_For="192.0.2.21")
    asked = [ask(fort, "/v1/voices", X_Forwarded_For="192.0.2.22")[0] for _ in range(60)]
    assert asked[:40] == [200] * 40
    assert asked.count(429) >= 5


@pytest.mark.parametrize(
    ("status", "code", "retryable"), [(429, "overloaded", True), (403, "forbidden", False)]
)
async def test_the_python_client_says_why_it_is_turned_away(
    status: int, code: str, retryable: bool
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(plain(status, "not today"))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Refused, match="not today") as caught:
            async with Client(f"http://127.0.0.1:{port}").stream("mirror", "alice"):
                pass
        assert (caught.value.code, caught.value.retryable) == (code, retryable)


def test_a_user_who_connects_too_often_is_told_so_from_wherever(fort: Server) -> None:
    codes = []
    for k in range(60):
        with Raw(fort.port, X_Forwarded_For=f"198.51.100.{k}") as peer:
            token = KEYS.user_token("restless", FAR)
            peer.start("restless", voice="nobody", token=token)
            error = peer.event("error")
            codes.append(error["code"])
            assert error["retryable"] == (error["code"] == "overloaded")
    assert codes[:40] == ["unknown_voice"] * 40
    assert "overloaded" in codes[40:]


def test_an_address_has_so_many_connections(tmp_path: Path) -> None:
    limits = '[limits]\nconnections_per_address = 5\ntrusted_proxies = ["127.0.0.1"]\n'
    server = Server(tmp_path, config=SMALL.format(slots=4) + limits)
    here = {"X-Forwarded-For": "192.0.2.30"}
    try:
        peers = [Raw(server.port, **here) for _ in range(5)]
        assert {peer.status for peer in peers} == {101}
        with Raw(server.port, **here) as peer:
            assert peer.status == 429
        with Raw(server.port, X_Forwarded_For="192.0.2.31") as peer:
            assert peer.status == 101
        peers[0].socket.close()
        for _ in range(500):  # until the server has seen it go
            with Raw(server.port, **here) as peer:
                if peer.status == 101:
                    break
        assert peer.status == 101
        for peer in peers[1:]:
            peer.socket.close()
        for _ in range(200):  # this machine's own are not counted
            with Raw(server.port) as peer:
                assert peer.status == 101
    finally:
        server.stop()


# Who sees what --------------------------------------------------------------------------------


def test_only_an_admin_sees_users(fort: Server) -> None:
    with Raw(fort.port) as peer:
        peer.start("secretive", token=KEYS.user_token("secretive", FAR))
        session = peer.event("live")["session"]
        for path in ("/v1/status", "/v1/fleet", "/metrics", "/v1/voices"):
            status, body, _ = ask(fort, path)
            assert status == 200
            assert "secretive" not in str(body)
            for k, wrong in enumerate(("wrong", KEYS.user_token("secretive", FAR), NEW)):
                headers = {"X-Forwarded-For": f"192.0.2.{40 + k}"}
                status, body, _ = ask(fort, path, **headers, **bearer(wrong))
                assert (status, body["error"]["code"]) == (401, "bad_token")
                assert wrong not in str(body)
        assert ask(fort, "/v1/fleet")[1]["private"] is True
        assert ask(fort, "/v1/status")[1]["sessions"] >= 1  # a number
        assert ask(fort, "/v1/usage")[0] == 401
        rows = ask(fort, "/v1/status", **bearer(ADMIN))[1]["sessions"]
        assert ("secretive", session) in [(row["user"], row["session"]) for row in rows]
        seen = ask(fort, "/v1/fleet", **bearer(ADMIN))[1]
        assert seen["private"] is False
        assert "secretive" in [row["user"] for row in seen["sessions"]]
        assert "secretive" not in ask(fort, "/metrics", **bearer(ADMIN))[1]
        assert ask(fort, "/v1/usage", **bearer(ADMIN))[0] == 200
        assert ask(fort, "/v1/usage?user=secretive", **bearer(ADMIN))[0] == 200
        for key, shows in ((f"{ADMIN},{'x' * 32}", True), (None, False)):
            env = {} if key is None else {"UNDERSTUDY_ADMIN_KEY": key}
            done = understudy("status", "--url", fort.url, data=fort.data, **env)
            assert ("secretive" in done.stdout) == shows, done.stderr
        done = understudy(
            "status", "--url", fort.url, data=fort.data, UNDERSTUDY_ADMIN_KEY="w" * 32
        )
        assert done.returncode == 1
        assert "not the admin key" in done.stderr
    alive(fort, "secretive")
    env = {"UNDERSTUDY_ADMIN_KEY": ADMIN}
    done = understudy("usage", "--url", fort.url, "--json", data=fort.data, **env)
    assert "usage" in json.loads(done.stdout)
    assert understudy("usage", "--url", fort.url, data=fort.data).returncode == 1


def test_secrets_are_in_no_process_list_no_workers_environment_and_no_log(tmp_path: Path) -> None:
    keys = {"UNDERSTUDY_SECRET": f"{NEW},{OLD}", "UNDERSTUDY_ADMIN_KEY": ADMIN}
    server = Server(tmp_path, 0, SMALL.format(slots=2), PGPASSWORD="pg-" + OLD, **keys)
    try:
        user = KEYS.user_token("alice", FAR)
        with Raw(server.port) as peer:
            peer.start("alice", token=user)
            peer.event("live")
            peer.say(type="params", params={"nothing": 1})
            assert peer.event("error")["code"] == "bad_params"
            server_process = psutil.Process(server.process.pid)
            workers = server_process.children(recursive=True)
            assert workers
            for process in (server_process, *workers):
                assert not any(key in " ".join(process.cmdline()) for key in (*SECRETS, "ey"))
            for process in workers:
                environment = process.environ()
                assert "PATH" in environment
                assert not [name for name in environment if name.startswith(("UNDERSTUDY_", "PG"))]
                assert not any(secret in str(environment) for secret in SECRETS)
            shown = [str(ask(server, path, **bearer(ADMIN))) for path in ("/v1/fleet", "/metrics")]
    finally:
        server.stop()
    for text in (server.log, *shown):
        assert not any(secret in text for secret in (*SECRETS, user))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in SECRETS), path


def test_a_model_that_is_checked_sees_no_keys(tmp_path: Path) -> None:
    source = tmp_path / "bundle"
    source.mkdir()
    nosy = (
        "names = [n for n in os.environ if n.startswith(('UNDERSTUDY_', 'PG'))]\n"
        "        if names: raise RuntimeError(f'found {names}')"
    )
    written(source, ("pass  # load", nosy))
    (source / "voice.toml").write_text('name = "nosy"\nengine = "model:Voice"\nslots = 2\n')
    env = {"UNDERSTUDY_SECRET": NEW, "UNDERSTUDY_ADMIN_KEY": ADMIN, "PGPASSWORD": OLD}
    done = understudy("deploy", str(source), data=tmp_path / "data", **env)
    assert done.returncode == 0, done.stderr


def test_what_users_call_themselves_is_only_a_name(tmp_path: Path) -> None:
    server = Server(tmp_path, config=SMALL.format(slots=4))
    names = [
        "[/b]",
        "[red]x[/red]\x1b[31m",
        "=cmd|' /C calc'!A1",
        "a\n2026-11-21 ERROR forged: line",
    ]
    try:
        peers = []
        for name in names:
            peers.append(Raw(server.port))
            peers[-1].start(name)
            peers[-1].event("live")
        shown = understudy("status", "--url", server.url, data=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert "[/b]" in shown.stdout
        assert "\x1b[31m" not in shown.stdout
        for peer in peers:
            for _ in range(20):
                peer.frame(BINARY, bytes(9600))
            peer.say(type="stop")
            peer.heard_until_ended()
    finally:
        server.stop()
    assert not [line for line in server.lines if line.startswith("2026-11-21 ERROR forged")]
    assert "forged: line" in server.log
    assert "\x1b" not in server.log
    listed = understudy("usage", "--csv", data=tmp_path)
    assert "'=cmd" in listed.stdout
    assert understudy("usage", data=tmp_path).returncode == 0


# The keys that there must be ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "arguments", "env", "sentence"),
    [
        ("", ("--host", "0.0.0.0"), {}, "UNDERSTUDY_SECRET=$(openssl rand -hex 32)"),
        ("", ("--host", "::"), {"UNDERSTUDY_SECRET": NEW}, "UNDERSTUDY_ADMIN_KEY=$(openssl"),
        ("", ("--host", "0.0.0.0"), {"UNDERSTUDY_ADMIN_KEY": ADMIN}, "UNDERSTUDY_SECRET=$("),
        ('[access]\nhosts = ["v.example"]', (), {"UNDERSTUDY_SECRET": NEW}, "UNDERSTUDY_ADMIN_KEY"),
        ("", (), {"UNDERSTUDY_SECRET": "short"}, "32 characters or more"),
        ("", (), {"UNDERSTUDY_SECRET": NEW, "UNDERSTUDY_ADMIN_KEY": NEW}, "must differ"),
        ('[limits]\ntrusted_proxies = ["proxy"]', (), {}, "trusted_proxies are addresses"),
        ("[limits]\nconnects_burst = 0", (), {}, "1 or more"),
        ('[access]\norigins = ["app.example"]', (), {}, "origins are sites"),
    ],
)
def test_a_server_that_could_be_reached_asks_for_keys(
    tmp_path: Path, config: str, arguments: tuple[str, ...], env: dict[str, str], sentence: str
) -> None:
    (tmp_path / "understudy.toml").write_text(SMALL.format(slots=2) + config)
    done = understudy("up", "--port", "0", *arguments, data=tmp_path, **env)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(secret in done.stderr for secret in SECRETS)


def test_join_tokens_are_made_on_the_command_line(tmp_path: Path) -> None:
    options = ("token", "--join", "box-7", "--region", "tokyo")
    done = understudy(*options, data=tmp_path, UNDERSTUDY_SECRET=NEW)
    found = KEYS.check_join(done.stdout.strip())
    assert (found.name, found.region) == ("box-7", "tokyo")
    claims = jwt.decode(done.stdout.strip(), options={"verify_signature": False})
    assert 29 * 86_400 < claims["exp"] - time.time() < 31 * 86_400
    done = understudy("token", "--join", "box-8", data=tmp_path)  # with the folder's own key
    assert Keys.read({}, tmp_path).check_join(done.stdout.strip()).name == "box-8"
    for wrong in ((), ("alice", "--join", "box"), ("alice", "--region", "tokyo"), ("alice",)):
        done = understudy("token", *wrong, data=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("understudy: ")
