"""Keys: what each kind of token opens, and what opens nothing."""

import base64
import json
import multiprocessing
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest

from understudy.core.errors import BadToken, ConfigError, Forged
from understudy.tokens import ADMIN_KEY, MAX_TOKEN_CHARS, SECRET, Join, Keys, fleet_key

OLD, NEW, ADMIN = "o" * 64, "n" * 32, "a" * 32
FAR = 4e9
KEYS = Keys.read({SECRET: OLD, ADMIN_KEY: ADMIN})


def part(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def by_hand(claims: dict[str, Any], key: str = OLD, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm=algorithm)


def test_each_token_opens_its_own_door() -> None:
    KEYS.check_user(KEYS.user_token("alice", FAR), "alice")
    assert KEYS.check_join(KEYS.join_token("box-7", None, FAR)) == Join("box-7")
    assert KEYS.check_join(KEYS.join_token("box-7", "tokyo", FAR)) == Join("box-7", "tokyo")
    assert KEYS.check_worker(KEYS.worker_token("n1", FAR), "n1")
    assert not KEYS.check_worker(KEYS.worker_token("n1", FAR), "n2")


def test_no_token_opens_anothers_door() -> None:
    tokens = {
        "user": KEYS.user_token("x", FAR),
        "join": KEYS.join_token("x", None, FAR),
        "worker": KEYS.worker_token("x", FAR),
        "foreign": by_hand({"sub": "x", "exp": FAR, "aud": "https://api.example.com"}),
        "several": by_hand({"sub": "x", "exp": FAR, "aud": ["understudy:user", "understudy:join"]}),
    }
    for kind, token in tokens.items():
        assert KEYS.check_worker(token, "x") == (kind == "worker")
        if kind != "user":
            with pytest.raises(Forged):
                KEYS.check_user(token, "x")
        if kind != "join":
            with pytest.raises(Forged):
                KEYS.check_join(token)


def test_a_token_without_an_audience_is_a_users_and_nothing_else() -> None:
    token = by_hand({"sub": "alice", "exp": int(FAR)})
    KEYS.check_user(token, "alice")
    with pytest.raises(Forged, match="a user's token"):
        KEYS.check_join(token)
    assert not KEYS.check_worker(token, "alice")


GOOD = KEYS.user_token("alice", FAR)
HEAD, BODY, SIGNATURE = GOOD.split(".")
FORGED = {
    "another key": by_hand({"sub": "alice", "exp": FAR}, NEW),
    "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{BODY}.",
    "alg NONE, with a signature": f"{part({'alg': 'NONE'})}.{BODY}.{SIGNATURE}",
    "HS512 with the right key": by_hand({"sub": "alice", "exp": FAR}, OLD, "HS512"),
    "RS256, our secret as its key": f"{part({'alg': 'RS256'})}.{BODY}.{SIGNATURE}",
    "another body": f"{HEAD}.{part({'sub': 'alice', 'exp': 5e9})}.{SIGNATURE}",
    "no signature": f"{HEAD}.{BODY}.",
    "truncated": GOOD[:-2],
    "two parts": f"{HEAD}.{BODY}",
    "no expiry": by_hand({"sub": "alice"}),
    "nobody's": by_hand({"exp": FAR}),
    "a number's": jwt.api_jws.PyJWS().encode(b'{"sub":5,"exp":4000000000}', OLD, "HS256"),
    "no dates": by_hand({"sub": "alice", "exp": FAR, "nbf": 3.9e9}),
    "nonsense": "nonsense",
    "nothing": "",
    "no ASCII": "é.é.é",
    "deep": f"{part('[' * 2000)}.{BODY}.{SIGNATURE}",
    "deep and signed": jwt.api_jws.PyJWS().encode(b"[" * 2000, OLD, "HS256"),
    "long": GOOD + "x" * MAX_TOKEN_CHARS,
    "critical": by_hand({"sub": "alice", "exp": FAR}).replace(
        HEAD, part({"alg": "HS256", "crit": ["x"], "x": 1})
    ),
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_opens_nothing(token: str) -> None:
    with pytest.raises(Forged) as caught:
        KEYS.check_user(token, "alice")
    assert OLD not in str(caught.value)
    with pytest.raises(Forged):
        KEYS.check_join(token)
    assert not KEYS.check_worker(token, "alice")


def test_expired_missing_and_others_are_refused_but_nobody_forged_them() -> None:
    for token, user, words in (
        (KEYS.user_token("alice", 1.0), "alice", "expired"),
        (GOOD, "bob", "another user's"),
        (None, "alice", "asks for a token"),
    ):
        with pytest.raises(BadToken, match=words) as caught:
            KEYS.check_user(token, user)
        assert not isinstance(caught.value, Forged)
    with pytest.raises(BadToken, match="token --join"):
        KEYS.check_join(KEYS.join_token("box", None, 1.0))
    assert not KEYS.check_worker(KEYS.worker_token("n", 1.0), "n")


def test_rotation_logs_nobody_out() -> None:
    both = Keys.read({SECRET: f"{NEW}, {OLD}", ADMIN_KEY: f"{'b' * 40},{ADMIN}"})
    both.check_user(GOOD, "alice")
    assert both.check_worker(KEYS.worker_token("n", FAR), "n")
    after = Keys.read({SECRET: NEW, ADMIN_KEY: "b" * 40})
    after.check_user(both.user_token("alice", FAR), "alice")
    with pytest.raises(Forged):
        after.check_user(GOOD, "alice")
    assert both.is_admin(ADMIN)
    assert both.is_admin("b" * 40)
    assert not after.is_admin(ADMIN)


def test_admin_keys() -> None:
    assert KEYS.is_admin(ADMIN)
    for wrong in ("", "é", "\ud800", ADMIN[:-1], ADMIN + "a", OLD, f"{ADMIN},{ADMIN}", GOOD):
        assert not KEYS.is_admin(wrong)
    assert not Keys().is_admin("")


@pytest.mark.parametrize(
    "environ",
    [
        {SECRET: "short"},
        {ADMIN_KEY: "short"},
        {SECRET: f"{OLD},short"},
        {SECRET: OLD, ADMIN_KEY: OLD},
    ],
)
def test_weak_keys_are_refused_and_not_repeated(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Keys.read(environ)
    assert "short" not in str(caught.value).replace("shorter", "")
    assert OLD not in str(caught.value)


def test_keys_are_not_shown() -> None:
    assert not any(key in repr(KEYS) for key in (OLD, ADMIN))


def test_without_a_secret_users_are_who_they_say_and_workers_are_not(tmp_path: Path) -> None:
    keys = Keys.read({}, tmp_path)
    assert not keys.private
    keys.check_user(None, "anybody")
    assert keys.check_worker(keys.worker_token("n", FAR), "n")
    assert not keys.check_worker(KEYS.worker_token("n", FAR), "n")
    assert keys.check_join(keys.join_token("box", None, FAR)).name == "box"
    with pytest.raises(ConfigError, match="UNDERSTUDY_SECRET"):
        keys.user_token("alice", FAR)
    other = Keys.read({}, tmp_path)  # another process on this folder
    assert other.check_worker(keys.worker_token("n", FAR), "n")
    assert not Keys.read({}, tmp_path / "else").check_worker(keys.worker_token("n", FAR), "n")
    for nobodys in ("", ".."):
        assert not Keys().check_worker(nobodys, "n")


def test_the_fleet_key_is_for_its_owner_only(tmp_path: Path) -> None:
    key = fleet_key(tmp_path / "new")
    path = tmp_path / "new" / "fleet.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key) >= 32
    assert [p.name for p in path.parent.iterdir()] == ["fleet.key"]
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        fleet_key(path.parent)
    path.chmod(0o600)
    path.write_text("")
    with pytest.raises(ConfigError, match="no key"):
        fleet_key(path.parent)


def test_processes_that_start_at_once_agree_on_the_fleet_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.map(fleet_key, [tmp_path] * 16)
    assert len(set(found)) == 1
