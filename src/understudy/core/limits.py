"""How much one address, or one user, may ask for: token buckets, and who an address is."""

from __future__ import annotations

import heapq
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST_KEYS: Final = 20_000
_SLACK_S: Final = 1e-9  # sums of floats

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and so many a second from then on."""

    burst: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """`[limits]` of understudy.toml. Per address, but for `connects_*`, which is per user, too.

    `connections_per_address`: open at once, of any kind. `bad_tokens_*`: forged tokens and wrong
    keys; an address that has none left is refused whatever it brings. `trusted_proxies`: whose
    X-Forwarded-For is believed (addresses or networks).
    """

    connections_per_address: int = 256
    connects_burst: int = 60
    connects_per_minute: float = 300.0
    requests_burst: int = 240
    requests_per_minute: float = 1200.0
    bad_tokens_burst: int = 10
    bad_tokens_per_minute: float = 10.0
    trusted_proxies: tuple[Network, ...] = ()

    @property
    def connects(self) -> Rate:
        return Rate(self.connects_burst, self.connects_per_minute / 60)

    @property
    def requests(self) -> Rate:
        return Rate(self.requests_burst, self.requests_per_minute / 60)

    @property
    def bad_tokens(self) -> Rate:
        return Rate(self.bad_tokens_burst, self.bad_tokens_per_minute / 60)


class Buckets:
    """A token bucket a key, as the generic cell rate algorithm (ITU-T I.371): one number each.

    That number is when the bucket will be full again. Memory is bounded: past `most` keys those
    that are full are dropped, then those that will be so soonest, who have taken least.
    """

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._full_at_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at_s)

    def wait_s(self, key: str, rate: Rate, now: float) -> float:
        """Seconds until the key may take one; 0.0: now."""
        ahead_s = self._full_at_s.get(key, now) - now
        wait_s = ahead_s - (rate.burst - 1) / rate.per_s
        return wait_s if wait_s > _SLACK_S else 0.0

    def take(self, key: str, rate: Rate, now: float) -> float:
        """Takes one if there is one. Returns the seconds to wait otherwise; 0.0: it is taken."""
        if wait_s := self.wait_s(key, rate, now):
            return wait_s
        if key not in self._full_at_s and len(self._full_at_s) >= self._most:
            self._drop(now)
        self._full_at_s[key] = max(self._full_at_s.get(key, now), now) + 1 / rate.per_s
        return 0.0

    def _drop(self, now: float) -> None:
        self._full_at_s = {key: at_s for key, at_s in self._full_at_s.items() if at_s > now}
        spare = len(self._full_at_s) - self._most * 9 // 10
        if spare > 0:
            for key in heapq.nsmallest(spare, self._full_at_s, key=self._full_at_s.__getitem__):
                del self._full_at_s[key]


def address(text: str) -> Address | None:
    """The address in `text`, which may carry a port or brackets; None: there is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def network(text: str) -> Network:
    """Raises ValueError."""
    return ipaddress.ip_network(text, strict=False)


def key_of(found: Address) -> str:
    """What limits count by: an IPv4 address, or an IPv6 network of 64 bits, which one host has."""
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def is_trusted(found: Address, proxies: Sequence[Network]) -> bool:
    return any(found in network for network in proxies)


def origin(peer: Address, forwarded: Sequence[str], proxies: Sequence[Network]) -> Address:
    """Who is behind a connection from `peer` whose X-Forwarded-For lines are `forwarded`.

    Each proxy appends whom it saw, so the list is read from its end, for as long as who says it
    is trusted: what a stranger wrote into it himself is never reached.
    """
    hops = [hop for line in forwarded for hop in line.split(",")]
    found = peer
    while hops and is_trusted(found, proxies):
        before = address(hops.pop())
        if before is None:
            break
        found = before
    return found
