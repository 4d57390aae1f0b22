"""Token buckets, and who is behind a proxy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.limits import Buckets, Rate, address, key_of, network, origin

RATES = st.builds(Rate, burst=st.integers(1, 50), per_s=st.floats(0.05, 100))


def test_a_burst_then_the_rate() -> None:
    buckets, rate = Buckets(), Rate(3, 2.0)
    assert [buckets.take("a", rate, 0.0) for _ in range(3)] == [0.0] * 3
    assert buckets.take("a", rate, 0.0) == pytest.approx(0.5)
    assert buckets.take("b", rate, 0.0) == 0.0  # somebody else's is his own
    assert buckets.wait_s("a", rate, 0.25) == pytest.approx(0.25)
    assert buckets.take("a", rate, 0.5) == 0.0
    assert buckets.take("a", rate, 0.5) > 0
    assert [buckets.take("a", rate, 100.0) for _ in range(4)][:3] == [0.0] * 3  # full again


@given(RATES, st.lists(st.floats(0, 3), max_size=200))
def test_nobody_gets_more_than_burst_and_rate_and_who_waits_as_told_is_served(
    rate: Rate, pauses: list[float]
) -> None:
    buckets, now, taken = Buckets(), 0.0, []
    for pause in pauses:
        now += pause
        wait_s = buckets.take("a", rate, now)
        assert wait_s == 0.0 or buckets.wait_s("a", rate, now + wait_s + 1e-6) == 0.0
        if wait_s == 0.0:
            taken.append(now)
    for i, start in enumerate(taken):
        for j in range(i, len(taken)):
            span_s = taken[j] - start
            assert j - i + 1 <= rate.burst + span_s * rate.per_s + 1e-3


@given(RATES, st.integers(1, 100))
def test_who_is_slower_than_the_rate_is_never_refused(rate: Rate, count: int) -> None:
    buckets = Buckets()
    assert not any(buckets.take("a", rate, k / rate.per_s * 1.001) for k in range(count))


def test_memory_is_bounded_and_a_flood_of_addresses_frees_nobody_who_took_much() -> None:
    buckets, rate = Buckets(most=100), Rate(5, 1.0)
    for _ in range(5):
        buckets.take("guilty", rate, 0.0)
    for k in range(10_000):
        assert buckets.take(f"flood {k}", rate, 0.0) == 0.0
        assert len(buckets) <= 100
    assert buckets.take("guilty", rate, 0.0) > 0
    for k in range(101):  # long after: the old ones go first
        buckets.take(f"later {k}", rate, 1000.0)
    assert len(buckets) <= 101


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]"', "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", None),
        ("", None),
        ("192.0.2.1; rm -rf", None),
    ],
)
def test_addresses(text: str, found: str | None) -> None:
    assert (None if (got := address(text)) is None else str(got)) == found


def test_a_host_cannot_count_as_many_by_its_many_ipv6_addresses() -> None:
    ours, other = address("2001:db8::1"), address("2001:db8::ffff:1")
    neighbour = address("2001:db8:0:1::1")
    assert ours
    assert other
    assert neighbour
    assert key_of(ours) == key_of(other) != key_of(neighbour)


PROXIES = (network("10.0.0.0/8"), network("127.0.0.1"))


@pytest.mark.parametrize(
    ("peer", "lines", "found"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["192.0.2.1"], "203.0.113.9"),  # a stranger may say what he likes
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.66, 192.0.2.1"], "192.0.2.1"),  # he put one before
        ("10.0.0.1", ["198.51.100.66", "192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("127.0.0.1", ["10.0.0.5, 10.0.0.2"], "10.0.0.5"),
        ("10.0.0.1", ["192.0.2.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
    ],
)
def test_who_is_behind_the_proxies(peer: str, lines: list[str], found: str) -> None:
    start = address(peer)
    assert start
    assert str(origin(start, lines, PROXIES)) == found
