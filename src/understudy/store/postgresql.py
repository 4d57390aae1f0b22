"""The store of a fleet: PostgreSQL, or what speaks like it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import os
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import astuple
from functools import cache
from socket import gethostname
from typing import Any, Final, ParamSpec, TypeVar

import asyncpg

from understudy.clock import SystemClock
from understudy.core.errors import ConfigError, StoreAway, UnderstudyError
from understudy.core.fleet import Seat, SessionRow
from understudy.store import transactions
from understudy.store.base import SqlStore
from understudy.store.transactions import (
    VERSION,
    Ask,
    Done,
    Kind,
    Rows,
    Transaction,
    advance,
    insert,
    script,
)

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CALL_S: Final = 5.0  # how long a call may take, all its tries together
OPEN_S: Final = 60.0  # how long migrations may
CONNECTIONS: Final = 4  # at most, beside the one that leads ...
EXPRESS: Final = 2  # ... and those of users who come: they wait for nobody's look at the fleet
MANY_ROWS: Final = 500  # more are read on a thread: this one has audio to relay
CONFLICT_S: Final = (0.002, 0.05)  # before the next try: up to this, growing to that
AWAY_S: Final = (0.05, 0.5)

_SESSION: Final = {
    # Shown beside the locks that it holds: who leads is told by it (store.leader).
    "application_name": f"understudy {os.getpid()}@{gethostname()}"[:63],
    # Who vanishes without a word leaves neither a transaction open nor the fleet without a leader.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
_BEGIN: Final = {
    Kind.READ: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    Kind.WRITE: "BEGIN ISOLATION LEVEL SERIALIZABLE",
}

# Nobody's fault: another transaction was faster, or the tables have just been changed.
_CONFLICT: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,
)
# The server is not there, or not ready, or only a standby of what it should be.
_AWAY: Final = (
    OSError,  # TimeoutError among them
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,  # the wrong server; a connection that is cut off in the middle
)

_HOST: Final = r"(?:[^\s@:/?#,\[\]]*|\[[0-9a-fA-F:.]+\])(?::\d+)?"
_URL: Final = re.compile(
    rf"postgres(?:ql)?://(?:[^\s@/?#]*@)?(?P<shown>{_HOST}(?:,{_HOST})*(?:/[^\s@?#]*)?)(?:\?[^\s@#]*)?"
)


class PostgresStore(SqlStore):
    """seams.Store on a PostgreSQL database, in the first schema of its `search_path`.

    A call that meets another's is tried again, and so is one that loses its connection, for
    `call_s` in all; then it raises StoreAway. The next one connects anew.
    """

    def __init__(self, url: str, *, call_s: float = CALL_S) -> None:
        """Raises ConfigError. `url` may hold a password, so it is never shown as it is."""
        found = _URL.fullmatch(url)
        if found is None:
            raise ConfigError(
                "the database's URL cannot be read; write postgresql://USER:PASSWORD@HOST:PORT/NAME"
                " and %40 for an @ in the password, %2F for a /, %23 for a #, %3F for a ?"
            )
        self._url = url
        self._shown = found["shown"]
        self._call_s = call_s
        self._clock = SystemClock()
        self._random = random.Random()
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._express = asyncio.Semaphore(EXPRESS)
        self._beating = asyncio.Semaphore(1)  # who lives must be able to say so, however busy
        self._idle: list[Any] = []  # connections, the last used last
        self._closed = False
        self._away_since_s: float | None = None
        self._leader_key = 0
        self._leading = asyncio.Lock()
        self._leader: Any = None  # the connection that holds the lock, or asks for it
        self._holds = False
        self._leads = False  # what was last said

    # opening and closing

    async def open(self) -> None:
        """Makes or migrates the tables. Raises ConfigError if the database cannot be used."""
        try:
            async with asyncio.timeout(OPEN_S), self._connection(self._room) as db:
                schema = await db.fetchval("SELECT current_schema()")
                if schema is None:
                    raise ConfigError(
                        f"the search_path of {self._shown} names no schema that exists; create it"
                    )
                self._leader_key = _key("leader", schema)
                await _migrate(db, schema, self._shown)
        except asyncpg.ClientConfigurationError:  # its words may hold a piece of the password
            raise ConfigError(f"the options of the URL of {self._shown} cannot be used") from None
        except asyncpg.DuplicateTableError as error:
            raise ConfigError(
                f"{self._shown} has other tables already ({error}); give Understudy a database of"
                " its own, or a schema (?search_path=NAME)"
            ) from None
        except (*_AWAY, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ConfigError(
                f"the database {self._shown} cannot be used: {_words(error)}"
            ) from None

    async def close(self) -> None:
        """Waits for nobody: the server rolls back what is under way."""
        self._closed = True
        idle, self._idle = self._idle, []
        leader, self._leader = self._leader, None
        for db in [*idle, *([leader] if leader else [])]:
            # Asked to, the server gives the leader's lock up at once.
            with contextlib.suppress(*_AWAY, asyncpg.InterfaceError):
                await db.close(timeout=1.0)

    async def _connect(self) -> Any:
        return await asyncpg.connect(self._url, timeout=self._call_s, server_settings=_SESSION)

    @contextlib.asynccontextmanager
    async def _connection(self, room: asyncio.Semaphore | None = None) -> AsyncIterator[Any]:
        """A connection that nobody else uses; kept for the next one unless it may be broken."""
        async with room or self._room:
            while self._idle and self._idle[-1].is_closed():
                self._idle.pop()
            db = self._idle.pop() if self._idle else await self._connect()
            sound = False
            try:
                yield db
                sound = True
            except (UnderstudyError, asyncpg.PostgresError):
                sound = not db.is_closed() and not db.is_in_transaction()
                raise
            finally:
                if sound and not self._closed and not db.is_closed():
                    self._idle.append(db)
                else:
                    db.terminate()

    # one round trip, where it matters: users may be far from the database

    async def begin(self, row: SessionRow, seat: Seat | None = None) -> bool:
        if seat is not None:
            begun, seated = await self._run(Kind.EACH, _begin, row, seat)
            if begun:
                return seated
        return await super().begin(row, seat)

    async def take(self, seat: Seat, edge: str) -> bool:
        return await self._run(Kind.EACH, _take, seat, edge)

    # running transactions

    async def _run(
        self, kind: Kind, work: Callable[P, Transaction[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        failed: Exception | None = None
        rooms = {_begin: self._express, transactions.beat: self._beating}
        room = rooms.get(work, self._room)
        try:
            async with asyncio.timeout(self._call_s):
                for tries in itertools.count():
                    try:
                        async with self._connection(room) as db:
                            result = await _transact(db, kind, work(*args, **kwargs))
                    except _CONFLICT as error:
                        failed = error
                        await self._pause(tries, CONFLICT_S)
                    except asyncpg.UniqueViolationError as error:
                        if kind is not Kind.WRITE:
                            raise
                        failed = error  # of a row that this transaction could not see yet
                        await self._pause(tries, CONFLICT_S)
                    except (*_AWAY, asyncpg.InterfaceError) as error:
                        if isinstance(error, ValueError):  # a wrong argument: a bug
                            raise
                        failed = error
                        self._lost(error)
                        await self._pause(tries, AWAY_S)
                    else:
                        self._found()
                        return result
        except TimeoutError:
            if failed is None:
                failed = TimeoutError(f"no answer within {self._call_s:g} s")
                self._lost(failed)
        raise StoreAway("the database is away, or very busy; try again in a moment") from failed

    async def _pause(self, tries: int, limits_s: tuple[float, float]) -> None:
        first_s, most_s = limits_s
        await self._clock.sleep(
            self._random.uniform(0.0, min(first_s * 2 ** min(tries, 10), most_s))
        )

    def _lost(self, error: BaseException) -> None:
        idle, self._idle = self._idle, []  # broken too, most likely
        for db in idle:
            db.terminate()
        if self._away_since_s is None:
            self._away_since_s = self._clock.now()
            log.warning("the database %s is away: %s", self._shown, _words(error))

    def _found(self) -> None:
        if self._away_since_s is not None:
            away_s, self._away_since_s = self._clock.now() - self._away_since_s, None
            log.warning("the database %s is back after %.1f s", self._shown, away_s)

    # leading

    async def is_leader(self) -> bool:
        """A lock that the server holds for one connection; it is asked each time, so that what is
        said is true of now."""
        async with self._leading:
            leads = False
            with contextlib.suppress(*_AWAY, asyncpg.PostgresError, asyncpg.InterfaceError):
                async with asyncio.timeout(self._call_s):
                    try:
                        leads = await self._ask_to_lead()
                    except (*_AWAY, asyncpg.InterfaceError):  # of old; a new one may get it
                        leads = await self._ask_to_lead()
            self._say_leads(leads)
            return leads

    async def _ask_to_lead(self) -> bool:
        if self._leader is None:
            self._leader, self._holds = await self._connect(), False
        try:
            if self._holds:  # for as long as the connection is there
                await self._leader.fetchval("SELECT true")
            else:
                lock = "SELECT pg_try_advisory_lock($1)"
                self._holds = bool(await self._leader.fetchval(lock, self._leader_key))
        except BaseException:
            self._leader.terminate()
            self._leader = None
            raise
        return self._holds

    def _say_leads(self, leads: bool) -> None:
        if leads is not self._leads:
            self._leads = leads
            words = "this process leads" if leads else "this process leads no more"
            log.info("%s (%s)", words, self._shown)


# `kept` changes nothing of the worker: it makes who would give it back at this instant think again.
_BEGIN_AT_ONCE: Final = f"""WITH
    begun AS ({insert("sessions", SessionRow)}
        ON CONFLICT ("user") WHERE ended_s IS NULL DO NOTHING RETURNING id),
    kept AS (UPDATE workers SET draining = draining WHERE id = ? AND state = 'ready'
        AND draining = 0 AND id IN (SELECT worker FROM links WHERE edge = ?)
        AND EXISTS (SELECT 1 FROM begun) RETURNING id),
    seated AS (INSERT INTO seats (session, worker, slot, role, turn, why)
        SELECT ?, id, CAST(? AS INTEGER), ?, CAST(? AS INTEGER), ? FROM kept
        ON CONFLICT DO NOTHING RETURNING slot)
    SELECT (SELECT count(*) FROM begun), (SELECT count(*) FROM seated)"""


def _begin(row: SessionRow, seat: Seat) -> Transaction[tuple[bool, bool]]:
    theirs = (seat.session, seat.slot, seat.role, seat.turn, seat.why)
    rows = yield Ask(_BEGIN_AT_ONCE, (*astuple(row), seat.worker, row.edge, *theirs))
    ((begun, seated),) = rows
    return bool(begun), bool(seated)


_TAKE_AT_ONCE: Final = """WITH
    kept AS (UPDATE workers SET draining = draining WHERE id = ? AND state = 'ready'
        AND draining = 0 AND id IN (SELECT worker FROM links WHERE edge = ?)
        AND EXISTS (SELECT 1 FROM sessions WHERE id = ? AND edge = ? AND ended_s IS NULL)
        AND NOT EXISTS (SELECT 1 FROM seats WHERE session = ? AND (turn >= ? OR role = ?))
        RETURNING id)
    INSERT INTO seats (session, worker, slot, role, turn, why)
        SELECT ?, id, CAST(? AS INTEGER), ?, CAST(? AS INTEGER), ? FROM kept
        ON CONFLICT DO NOTHING RETURNING slot"""


def _take(seat: Seat, edge: str) -> Transaction[bool]:
    theirs = (seat.session, seat.slot, seat.role, seat.turn, seat.why)
    guards = (seat.worker, edge, seat.session, edge, seat.session, seat.turn, seat.role)
    taken = yield Ask(_TAKE_AT_ONCE, (*guards, *theirs))
    return bool(taken)


async def _transact(db: Any, kind: Kind, transaction: Transaction[T]) -> T:
    if kind is Kind.EACH:
        return await _answer(db, transaction)
    await db.execute(_BEGIN[kind])
    try:
        result = await _answer(db, transaction)
    except (UnderstudyError, asyncpg.PostgresError):
        try:
            await db.execute("ROLLBACK")
        except Exception:
            db.terminate()
        raise
    await db.execute("COMMIT")
    return result


async def _answer(db: Any, transaction: Transaction[T]) -> T:
    """Runs a transaction's statements to its end."""
    rows: Rows | None = None
    while True:
        if rows is not None and len(rows) > MANY_ROWS:
            ask = await asyncio.to_thread(advance, transaction, rows)
        else:
            ask = advance(transaction, rows)
        if isinstance(ask, Done):
            return ask.result
        if ask.many:
            await db.executemany(_numbered(ask.sql), ask.values)
            rows = ()
        else:
            rows = await db.fetch(_numbered(ask.sql), *ask.values)


@cache
def _numbered(sql: str) -> str:
    """`?` as PostgreSQL has it: $1, $2, ..."""
    first, *rest = sql.split("?")
    return first + "".join(f"${number}{text}" for number, text in enumerate(rest, 1))


def _key(what: str, schema: str) -> int:
    """An advisory lock's number: the server has one space of them a database, we one a schema."""
    digest = hashlib.sha256(f"understudy {what} {schema}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _words(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


async def _version(db: Any, schema: str) -> int:
    """Of the tables; 0: there are none."""
    # Not to_regclass, which in a transaction may remember that there was none.
    known = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = $2"
    if await db.fetchval(known, schema, "understudy_version") is None:
        return 0
    version: int = await db.fetchval("SELECT version FROM understudy_version")
    return version


async def _migrate(db: Any, schema: str, shown: str) -> None:
    if await _version(db, schema) == VERSION:
        return
    async with db.transaction(isolation="read_committed"):
        await db.execute("SELECT pg_advisory_xact_lock($1)", _key("schema", schema))
        version = await _version(db, schema)  # another process may have been faster
        if version > VERSION:
            raise ConfigError(f"{shown} is of a newer Understudy: upgrade, or use another database")
        if version == 0:
            await db.execute(script("schema.sql"))
            await db.execute("CREATE TABLE understudy_version (version INTEGER NOT NULL)")
            await db.execute("INSERT INTO understudy_version VALUES ($1)", VERSION)
        elif version < VERSION:  # 2: there never was an older one here
            await db.execute(script("migrate_2.sql"))
            await db.execute("UPDATE understudy_version SET version = $1", VERSION)
        log.info("the tables in %s, schema %s, are of version %d now", shown, schema, VERSION)
