"""Who comes in at the public port, from where, and how often; what the gate and the API ask."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final
from urllib.parse import urlsplit

from understudy.core.errors import Forged, LinkError, TooMany, UnderstudyError
from understudy.core.limits import Address, Buckets, Limits, Rate, address, is_trusted, key_of
from understudy.core.limits import origin as origin_of
from understudy.seams import Clock

log = logging.getLogger(__name__)

MOST_INSIDE: Final = 10_000
_NOWHERE: Final = ipaddress.IPv4Address(0)

CheckUser = Callable[[str | None, str], None]  # (token, user); raises BadToken


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HostCheck:
    """Refuses what a web page of another site could make a browser send (CSRF, DNS rebinding).

    `hosts`: the names by which the server is known beyond its machine; `origins`: other sites
    whose pages may talk to it.
    """

    def __init__(
        self, host: str, hosts: Collection[str] = (), origins: Collection[str] = ()
    ) -> None:
        self._only_loopback = is_loopback(host)
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)
        self.edges: Callable[[], Collection[str]] = lambda: ()  # addresses of the fleet's edges

    def refusal(self, host: str | None, origin: str | None) -> str | None:
        """Why a request with these headers is refused, or None."""
        try:
            name = urlsplit(f"//{host or ''}").hostname or ""
            site = urlsplit(origin or "").netloc
        except ValueError:  # "[" is no IPv6 address
            return "this request has no valid Host or Origin"
        if (self._only_loopback or self._hosts) and not (is_loopback(name) or name in self._hosts):
            if self._hosts:
                return f"this server is not known as {name[:80]!r}; see [access] hosts"
            return "this server answers on localhost only; open http://127.0.0.1 and its port"
        if origin == "null":
            return "pages without an origin may not connect"
        if origin and site != host and not self.welcomes(origin):
            return "pages of other sites may not connect; serve the page from this server"
        return None

    def welcomes(self, origin: str | None) -> bool:
        """Whether another site's pages may talk to us."""
        if origin is None:
            return False
        known = origin.lower()
        # A page opened as localhost is this machine's as much as one opened as 127.0.0.1.
        return known in self._origins or known.replace("//localhost", "//127.0.0.1") in self.edges()


class Visit:
    """One connection, from its accept to its end. `peer` is who connected, `address` who is
    behind that; None: nobody who is counted."""

    def __init__(self, door: Door, peer: str) -> None:
        self._door = door
        self.peer = peer
        self.address: str | None = None
        self._held: list[str] = []
        self._here = True
        door.inside += 1

    def hold(self, key: str) -> None:
        """Counts as one of this address's connections until it leaves. Raises TooMany."""
        self._door.hold(key)
        self._held.append(key)

    def leave(self) -> None:
        """Idempotent."""
        if self._here:
            self._here = False
            self._door.inside -= 1
        held, self._held = self._held, []
        for key in held:
            self._door.let_go(key)

    def erred(self, error: UnderstudyError) -> None:
        """What it said was refused; was that an attempt to get in?"""
        if isinstance(error, Forged | LinkError):
            self._door.wrong(self.address)


class Door:
    """Counts by address. Loopback is exempt, unless a proxy there brings somebody."""

    def __init__(
        self,
        host: str,
        clock: Clock,
        *,
        limits: Callable[[], Limits] = Limits,
        check_user: CheckUser = lambda token, user: None,
        is_admin: Callable[[str], bool] = lambda key: False,
        private: bool = False,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
    ) -> None:
        """`limits()` are those of now. `private`: users have to show who they are, and only who
        `is_admin(key)` sees them all."""
        self.hosts = HostCheck(host, hosts, origins)
        self.check_user = check_user
        self.is_admin = is_admin
        self.private = private
        self.refused: Counter[str] = Counter()  # by why
        self.inside = 0  # connections, of anybody
        self.most = MOST_INSIDE
        self._limits = limits
        self._clock = clock
        self._connects, self._requests, self._bad = Buckets(), Buckets(), Buckets()
        self._open: Counter[str] = Counter()
        self._warned = False

    # a connection

    def enter(self, peer: str) -> Visit:
        """Somebody has connected. Raises TooMany."""
        if self.inside >= self.most:
            raise self._too_many("full", f"this server has all of its {self.most} connections", 5.0)
        visit = Visit(self, peer)
        found = address(peer) or _NOWHERE
        if not found.is_loopback and not is_trusted(found, self._limits().trusted_proxies):
            try:
                visit.hold(key_of(found))
            except TooMany:
                visit.leave()
                raise
        return visit

    def hold(self, key: str) -> None:
        most = self._limits().connections_per_address
        if self._open[key] >= most:
            raise self._too_many("connections", f"{most} connections are open from here", 5.0)
        self._open[key] += 1

    def let_go(self, key: str) -> None:
        self._open[key] -= 1
        if self._open[key] <= 0:
            del self._open[key]

    def connect(self, visit: Visit, forwarded: Sequence[str]) -> None:
        """It asks for a stream or a link. Raises TooMany."""
        visit.address = self.address(visit.peer, forwarded)
        if visit.address is None:
            return
        self.check_wrong(visit.address)
        self._take("connects", self._connects, visit.address, self._limits().connects)
        if visit.address != key_of(address(visit.peer) or _NOWHERE):  # held when it came
            visit.hold(visit.address)

    # a request

    def request(self, peer: str, forwarded: Sequence[str], *, shows_key: bool) -> str | None:
        """Whom to count this HTTP request for. Raises TooMany."""
        who = self.address(peer, forwarded)
        if who is not None:
            if shows_key:
                self.check_wrong(who)
            self._take("requests", self._requests, who, self._limits().requests)
        return who

    # users and keys

    def admit(self, token: str | None, user: str) -> None:
        """A user wants to be live. Raises BadToken, TooMany."""
        self.check_user(token, user)
        if self.private:  # else anybody could use up anybody's
            self._take("connects", self._connects, f"user {user}", self._limits().connects)

    def check_wrong(self, who: str | None) -> None:
        """Raises TooMany to somebody who has shown too many wrong keys."""
        if who is not None and (
            wait_s := self._bad.wait_s(who, self._limits().bad_tokens, self._clock.now())
        ):
            raise self._too_many("bad_tokens", "too many wrong keys came from here", wait_s)

    def wrong(self, who: str | None) -> None:
        """Somebody showed a key that nobody who has ours made."""
        self.refused["forged"] += 1
        if who is not None:
            self._bad.take(who, self._limits().bad_tokens, self._clock.now())
            log.warning("a forged token or a wrong key came from %s", who)

    def address(self, peer: str, forwarded: Sequence[str]) -> str | None:
        """What a connection from `peer` is counted by; `forwarded`: its X-Forwarded-For lines."""
        found: Address = address(peer) or _NOWHERE
        proxies = self._limits().trusted_proxies
        if forwarded and not is_trusted(found, proxies) and not self._warned:
            self._warned = True
            log.warning(
                "%s sends X-Forwarded-For, which is not believed, so all who come through it "
                "count as one; if it is your proxy, name it in [limits] trusted_proxies",
                found,
            )
        if not forwarded and found.is_loopback:
            return None
        return key_of(origin_of(found, forwarded, proxies))

    def _take(self, what: str, buckets: Buckets, key: str, rate: Rate) -> None:
        if wait_s := buckets.take(key, rate, self._clock.now()):
            raise self._too_many(what, f"too many {what} from here", wait_s)

    def _too_many(self, what: str, words: str, wait_s: float) -> TooMany:
        self.refused[what] += 1
        return TooMany(f"{words}; try again in {math.ceil(wait_s)} s", wait_s)
