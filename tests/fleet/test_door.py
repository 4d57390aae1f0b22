"""The door: who counts as whom, and what each of them may ask for."""

import asyncio
import logging
from typing import Any, cast

import pytest

from understudy.core.errors import BadToken, Forged, TooMany
from understudy.core.limits import Limits, network
from understudy.edge.client import ClientConnection
from understudy.edge.door import Door, HostCheck

FAR = "203.0.113.9"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def make(**limits: object) -> tuple[Door, Clock]:
    clock, settings = Clock(), Limits(**limits)  # type: ignore[arg-type]

    def check(token: str | None, user: str) -> None:
        if token != "good":
            raise Forged("no")

    door = Door("0.0.0.0", clock, limits=lambda: settings, check_user=check, private=True)
    return door, clock


def test_an_address_has_so_many_connections_at_once() -> None:
    door, _ = make(connections_per_address=3)
    visits = [door.enter(FAR) for _ in range(3)]
    with pytest.raises(TooMany) as caught:
        door.enter(FAR)
    assert caught.value.http_status == 429
    door.enter("203.0.113.10")
    visits[0].leave()
    visits[0].leave()  # twice is once
    door.enter(FAR)
    with pytest.raises(TooMany):
        door.enter(FAR)
    assert door.refused["connections"] == 2


def test_the_server_keeps_some_descriptors_for_itself() -> None:
    door, _ = make()
    door.most = 3
    visits = [door.enter("127.0.0.1") for _ in range(3)]
    for peer in ("127.0.0.1", FAR):
        with pytest.raises(TooMany, match="all of its 3"):
            door.enter(peer)
    visits[0].leave()
    visits[0].leave()
    door.enter(FAR)
    assert door.inside == 3


def test_loopback_is_exempt_but_not_who_comes_through_a_proxy_there() -> None:
    door, _ = make(connects_burst=2, connections_per_address=2, trusted_proxies=())
    for _ in range(50):
        door.connect(door.enter("127.0.0.1"), [])
        assert door.request("127.0.0.1", [], shows_key=True) is None
    door, _ = make(connects_burst=2, trusted_proxies=(network("127.0.0.1"),))
    for who in ("192.0.2.1", "192.0.2.2"):
        for _ in range(2):
            door.connect(door.enter("127.0.0.1"), [who])
        with pytest.raises(TooMany):
            door.connect(door.enter("127.0.0.1"), [who])


def test_a_proxy_that_is_not_named_makes_its_users_one_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door, _ = make(connects_burst=2)
    with caplog.at_level(logging.WARNING):
        door.connect(door.enter("127.0.0.1"), ["192.0.2.1"])
        door.connect(door.enter("127.0.0.1"), ["192.0.2.2"])
        with pytest.raises(TooMany):
            door.connect(door.enter("127.0.0.1"), ["192.0.2.3"])
    assert caplog.text.count("trusted_proxies") == 1


def test_behind_a_proxy_connections_are_counted_for_who_is_behind_it() -> None:
    door, _ = make(connections_per_address=2, trusted_proxies=(network("10.0.0.1"),))
    visits = []
    for _ in range(2):
        visits.append(door.enter("10.0.0.1"))
        door.connect(visits[-1], ["192.0.2.1"])
    with pytest.raises(TooMany):
        door.connect(door.enter("10.0.0.1"), ["192.0.2.1"])
    door.connect(door.enter("10.0.0.1"), ["192.0.2.2"])
    visits[0].leave()
    door.connect(door.enter("10.0.0.1"), ["192.0.2.1"])


def test_a_direct_connection_counts_once() -> None:
    door, _ = make(connections_per_address=2)
    for _ in range(2):
        door.connect(door.enter(FAR), [])


def test_wrong_keys_use_up_an_addresss_tries_and_time_gives_them_back() -> None:
    door, clock = make(bad_tokens_burst=3, bad_tokens_per_minute=6.0)
    for _ in range(3):
        visit = door.enter(FAR)
        door.connect(visit, [])
        visit.erred(Forged("no"))
    with pytest.raises(TooMany) as caught:
        door.connect(door.enter(FAR), [])
    assert 9 < caught.value.wait_s <= 10
    with pytest.raises(TooMany):
        door.request(FAR, [], shows_key=True)
    door.request(FAR, [], shows_key=False)  # the page may still be looked at
    door.connect(door.enter("203.0.113.10"), [])
    clock.now_s = 11.0
    door.connect(door.enter(FAR), [])


def test_expired_tokens_are_no_attempts_to_get_in() -> None:
    door, _ = make(bad_tokens_burst=1)
    visit = door.enter(FAR)
    door.connect(visit, [])
    for _ in range(5):
        visit.erred(BadToken("expired"))
    door.connect(door.enter(FAR), [])


def test_a_user_connects_so_often_and_strangers_cannot_use_that_up() -> None:
    door, clock = make(connects_burst=2, connects_per_minute=60.0)
    for _ in range(10):
        with pytest.raises(Forged):
            door.admit("forged", "alice")
    door.admit("good", "alice")
    door.admit("good", "alice")
    with pytest.raises(TooMany):
        door.admit("good", "alice")
    door.admit("good", "bob")
    clock.now_s = 1.1
    door.admit("good", "alice")


@pytest.mark.parametrize(
    ("host", "origin", "passes"),
    [
        ("127.0.0.1:8765", None, True),
        ("localhost:8765", "http://localhost:8765", True),
        ("[::1]:8765", None, True),
        ("voices.example.com", "https://voices.example.com", True),
        ("voices.example.com", "https://app.example.com", True),
        ("voices.example.com", "https://APP.example.com", True),
        ("voices.example.com", "https://app.example.com.evil.example", False),
        ("voices.example.com", "https://evil.example", False),
        ("voices.example.com", "http://app.example.com", False),
        ("voices.example.com", "null", False),
        ("voices.example.com.evil.example", None, False),
        ("evil.example", None, False),
        ("evil.example@127.0.0.1", None, True),  # a host is what follows the @
        ("127.0.0.1@evil.example", None, False),
        ("[", None, False),
        ("127.0.0.1", "http://[", False),
        (None, None, False),
    ],
)
def test_hosts_and_origins(host: str | None, origin: str | None, passes: bool) -> None:
    check = HostCheck("127.0.0.1", ["voices.example.com"], ["https://app.example.com"])
    assert (check.refusal(host, origin) is None) == passes


class Socket:
    """What a connection does to its transport."""

    def __init__(self) -> None:
        self.reading = True
        self.sent = 0
        self.underlying_transport = self

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def send(self, kind: Any, data: bytes) -> None:
        self.sent += 1


async def test_a_flood_of_messages_is_left_in_its_socket() -> None:
    clock, held = Clock(), []
    client = ClientConnection(cast(Any, None), clock, "s")
    wire = Socket()
    client.transport = cast(Any, wire)
    for _ in range(1000):  # a slider at 50 a second
        client.on_text('{"type":"ping","id":1}')
        clock.now_s += 0.02
    assert wire.reading
    for n in range(120):
        client.on_text(f'{{"type":"ping","id":{n}}}')
        held.append(not wire.reading)
    assert held.index(True) in (99, 100)  # a hundred at once, but for rounding
    assert wire.sent == 1120  # what was read already is answered
    async with asyncio.timeout(10):
        while not wire.reading:
            await asyncio.sleep(0.01)
