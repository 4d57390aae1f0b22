"""The Python SDK: `async with Client(url).stream("chipmunk", user="alice") as stream: …`.

async with Client().stream("chipmunk", user="alice", sample_rate=24_000) as stream:
    await stream.send(pcm)                  # int16 bytes or array, any length
    async for item in stream:               # bytes of audio, or an event
        ...

Several addresses, one for each region, make a stream that outlives its edge: it begins at the
nearest, and when the line is lost it is resumed where it was, or at the next nearest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from picows import WSMsgType, WSTransport

from understudy.clock import SystemClock
from understudy.core import wire
from understudy.core.errors import UnderstudyError
from understudy.core.regions import Edge, Failure, LineWatch, Route
from understudy.line import (
    DEFAULT_URL,
    Item,
    Listener,
    Refused,
    Unreachable,
    check_url,
    connect,
    unreachable,
)
from understudy.seams import Clock
from understudy.survey import Survey, discover

__all__ = ["DEFAULT_URL", "Client", "Item", "Refused", "Stream", "Unreachable"]

LOOK_S: Final = 0.05
SPREAD_S: Final = 0.1  # the first retry is almost at once: this spreads the clients of one edge
FIRST_RETRY_S: Final = 0.2  # back-off, once a round of all edges
LONGEST_RETRY_S: Final = 4.0
STEADY_S: Final = 0.5  # a line lost so soon after it carried the session is one more failed try
GIVE_UP_S: Final = 600.0
ERRORS_OF_EDGE: Final = ("overloaded", "internal")  # another edge may do better
_RANDOM: Final = random.Random()


class Stream:
    """One session. Iterate over it for audio (bytes, int16) and events (core.wire).

    With several edges a lost line is resumed by itself. Then the session's next event (`live`, or
    what it waits for) begins the new line: sample positions start at 0 again, and what was sent
    meanwhile is lost.
    """

    def __init__(
        self,
        url: str,
        start: wire.Start,
        survey: Callable[[], Awaitable[Survey]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`survey`: finds the edges to choose from; None: there is but one, and it may break."""
        self._url = url
        self._start = start
        self._survey = survey
        self._clock = clock or SystemClock()
        self._route = Route([Edge("", "", url)])
        self._line = LineWatch()
        self._listener = Listener()
        self._transport: WSTransport | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._resume = start.resume
        self._joined_s: float | None = None  # since when this line carries the session
        self._lost_s: float | None = None
        self._silent = False  # the line was lost by our own judgement
        self._pings: dict[int, float] = {}
        self._ping_id = 1 << 40  # out of the way of the user's own
        self._stopping = False
        self._over = False
        self.live: wire.Live | None = None  # the last `live`
        self.usage: wire.Usage | None = None  # the last `usage`
        self.ended: wire.Ended | None = None
        self.resumes = 0  # how often a new line was opened after one was lost

    @property
    def edge(self) -> Edge:
        """Where the session is, or is tried next."""
        return self._route.edge

    async def __aenter__(self) -> Stream:
        """Raises Unreachable, Refused."""
        if self._survey is None:
            self._transport = await connect(self._url, self._listener)
            self._transport.send(WSMsgType.TEXT, wire.encode_start(self._start).encode())
            return self
        survey = await self._survey()
        self._route = Route(await survey.first())
        self._tasks.append(asyncio.create_task(self._remeasure(survey)))
        try:
            while (failed := await self._open()) is not None:
                how, error = failed
                self._route.failed(how)
                if self._route.round:
                    raise error
        except BaseException:
            await self._end_tasks()
            raise
        self._tasks.append(asyncio.create_task(self._look()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._transport is not None:
                if not self._over and kind is None:
                    await self.stop()
                    async for _ in self:
                        pass
                self._transport.disconnect(False)
        finally:
            await self._end_tasks()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _remeasure(self, survey: Survey) -> None:
        try:
            self._route.remeasure(await survey.all())
        finally:
            survey.cancel()

    # the line, where there are several edges

    async def _open(self) -> tuple[Failure, Unreachable | Refused] | None:
        """A try at the edge whose turn it is; None: its line is open, and `start` is sent."""
        edge, listener = self._route.edge, Listener()
        try:
            async with asyncio.timeout(self._route.open_within_ms / 1e3):
                transport = await connect(edge.url, listener)
        except (Unreachable, Refused) as error:
            return "refused", error
        except TimeoutError as error:
            listener.abandoned = True
            return "silent", unreachable(edge.url, error)
        self._transport, self._listener = transport, listener
        listener.on_item = self._heard
        self._pings.clear()
        self._line.opened(self._now_ms())
        start = replace(self._start, resume=self._resume)
        if self._lost_s is not None:  # we must not push out a third stream
            start = replace(start, takeover=False)
        transport.send(WSMsgType.TEXT, wire.encode_start(start).encode())
        return None

    def _now_ms(self) -> float:
        return self._clock.now() * 1e3

    def _heard(self, item: Item) -> bool:
        """As it comes, before the user takes it."""
        now_ms = self._now_ms()
        if isinstance(item, bytes):
            self._line.heard_audio(now_ms)
            return True
        self._line.heard_text(now_ms)
        match item:
            case wire.Pong(id=number) if number in self._pings:
                self._line.round_trip(now_ms - self._pings.pop(number))
                return False
            case wire.Live(kind="listen"):
                pass  # it owes no audio
            case wire.Live(latency_ms=latency_ms):
                self._line.performing(latency_ms)
            case wire.Queued() | wire.Loading() if self.live is None or self.live.role == "lead":
                self._line.waiting()
        return True

    async def _look(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            transport, now_ms = self._transport, self._now_ms()
            if self._stopping or transport is None or transport.is_disconnected:
                continue
            if self._listener.is_full:  # it is our user who does not listen
                self._line.heard_text(now_ms)
            match self._line.look(now_ms):
                case "ping":
                    self._ping_id += 1
                    self._pings[self._ping_id] = now_ms
                    self.send_text(json.dumps({"type": "ping", "id": self._ping_id}))
                case "dead":
                    self._silent = True
                    transport.disconnect(False)

    def _carried(self, resume: str) -> None:
        """The session has a place, or one in the queue: its line is whole."""
        self._resume = resume
        if self._joined_s is not None or self._survey is None:
            return
        if self._lost_s is not None and self._silent and self._route.returns:
            self._line.false_alarm(self._now_ms())
        self._joined_s, self._lost_s, self._silent = self._clock.now(), None, False
        self._route.joined()

    def _may_return(self, refusal: wire.Error | None) -> bool:
        if self._survey is None or self._stopping:
            return False
        again = self._lost_s is not None
        within_round = self._route.round == 0
        if refusal is not None:
            if again and refusal.code in ("already_live", "overloaded"):  # ours, or a passing one
                return True
            return self._route.several and within_round and refusal.code in ERRORS_OF_EDGE
        if self._resume is None:
            return within_round
        return self.ended is None or self.ended.reason in ("shutdown", "gone")

    async def _return(self) -> None:
        """Opens a new line, here or at the next edge. Raises Unreachable."""
        now = self._clock.now()
        steady = self._joined_s is not None and now - self._joined_s >= STEADY_S
        joined = self._joined_s is not None
        fresh = self._lost_s is None and joined and (steady or self.resumes == 0)
        self._transport, self._joined_s, self.live = None, None, None
        self._lost_s = now if self._lost_s is None else self._lost_s
        if now - self._lost_s > GIVE_UP_S:
            raise Unreachable("the connection broke, and no edge takes the session back")
        if not fresh:
            self._route.failed("refused")
        else:
            self._route.lost()
            if self.ended is not None and self.ended.reason == "shutdown" and self._route.several:
                self._route.failed("refused")
        self.ended = None
        while True:
            await self._clock.sleep(self._wait_s(fresh))
            if self._stopping:
                raise Unreachable("the connection broke before the last words")
            if (failed := await self._open()) is None:
                self.resumes += 1
                return
            how, error = failed
            self._route.failed(how)
            nowhere = self._resume is None and self._route.round > 0
            if nowhere or self._clock.now() - self._lost_s > GIVE_UP_S:
                raise error
            fresh = False

    def _wait_s(self, fresh: bool) -> float:
        """Back-off is for full rounds; within one, the next edge is tried at once."""
        route = self._route
        if route.several and fresh:
            return 0.0 if self._silent else SPREAD_S * _RANDOM.random()
        if route.several and not route.starts_round:
            return 0.0
        longest_s = min(FIRST_RETRY_S * 2.0**route.round, LONGEST_RETRY_S)
        return longest_s * (0.5 + 0.5 * _RANDOM.random())

    # what the user does

    async def send(self, pcm: bytes | NDArray[np.int16]) -> None:
        """Sends audio of any length; waits while the server asks for a slower pace."""
        data = pcm if isinstance(pcm, bytes) else np.ascontiguousarray(pcm, "<i2").tobytes()
        step = round(self._start.sample_rate * wire.MAX_AUDIO_S) * wire.BYTES_PER_SAMPLE
        for at in range(0, len(data), step):
            await self._listener.writable.wait()
            self._send(WSMsgType.BINARY, data[at : at + step])
            self._line.sent_audio(self._now_ms())

    async def set_params(self, **params: float) -> None:
        """Changes the voice's numbers while talking."""
        self._start = replace(self._start, params={**self._start.params, **params})
        self.send_text(json.dumps({"type": "params", "params": params}))

    async def stop(self) -> None:
        """No more input: the last samples and `ended` still come."""
        self._stopping = True
        self.send_text('{"type": "stop"}')

    def drop(self) -> None:
        """Cuts the connection without `stop`: the session can be resumed by its token."""
        self._over = True
        if self._transport is not None:
            self._transport.disconnect(False)

    def send_text(self, text: str) -> None:
        """Sends a text message as it is."""
        self._send(WSMsgType.TEXT, text.encode())

    def _send(self, kind: WSMsgType, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.send(kind, data)

    def __aiter__(self) -> AsyncIterator[Item]:
        return self._items()

    async def _items(self) -> AsyncIterator[Item]:
        """Raises Refused on a fatal `error`, Unreachable if the connection breaks for good."""
        refusal: wire.Error | None = None
        while not self._over:
            item = await self._listener.items.get()
            self._listener.taken()
            match item:
                case None if not self._over and self._may_return(refusal):
                    refusal = None
                    await self._return()
                    continue
                case None:
                    self._over = True
                    if refusal is not None and (not self.ended or self.ended.reason == "error"):
                        raise Refused(refusal)
                    if self.ended is None:
                        raise Unreachable("the connection to the server broke")
                    return
                case wire.Live():
                    self.live = item
                    self._carried(item.resume)
                case wire.Queued() | wire.Loading():
                    self._carried(item.resume)
                case wire.Usage():
                    self.usage = item
                case wire.Ended():
                    self.ended = item
                case wire.Error():
                    refusal = item
            yield item


class Client:
    """A server to talk to, or one in each region. `token`: who the user is, where it is asked for;
    `admin_key`: to see all users.

    `discover`: ask the server for the edges in other regions too. With several addresses, or with
    `discover`, streams begin at the nearest edge and outlive the one they are at.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        token: str | None = None,
        *,
        discover: bool = False,
        clock: Clock | None = None,
        admin_key: str | None = None,
    ) -> None:
        given = [url] if isinstance(url, str) else url
        self.urls = tuple(dict.fromkeys(one.rstrip("/") for one in given)) or (DEFAULT_URL,)
        self._token = token
        self._admin_key = admin_key
        self._discover = discover
        self._clock = clock or SystemClock()

    @property
    def url(self) -> str:
        """The first address."""
        return self.urls[0]

    async def regions(self) -> list[Edge]:
        """The edges there are and their round trips, nearest first."""
        survey = await self._measure(ask_others=self._discover or len(self.urls) == 1)
        try:
            return await survey.all()
        finally:
            survey.cancel()

    async def _survey(self) -> Survey:
        return await self._measure(ask_others=self._discover)

    async def _measure(self, *, ask_others: bool) -> Survey:
        for url in self.urls:
            check_url(url)
        return Survey(await discover(self.urls, ask_others=ask_others), self._clock)

    def stream(
        self,
        voice: str,
        user: str,
        sample_rate: int = 24_000,
        *,
        params: Mapping[str, float] | None = None,
        takeover: bool = False,
        resume: str | None = None,
    ) -> Stream:
        """A session, opened by `async with`."""
        start = wire.Start(
            voice, user, sample_rate, dict(params or {}), self._token, resume, takeover
        )
        several = self._discover or len(self.urls) > 1
        return Stream(self.url, start, self._survey if several else None, self._clock)

    async def voices(self) -> list[dict[str, Any]]:
        """What `GET /v1/voices` lists. Raises Unreachable."""
        voices: list[dict[str, Any]] = (await self._get("/v1/voices"))["voices"]
        return voices

    async def status(self) -> dict[str, Any]:
        """What `GET /v1/status` says. Raises Unreachable, Refused."""
        return await self._get("/v1/status")

    async def usage(
        self, user: str | None = None, start: str | None = None, end: str | None = None
    ) -> list[dict[str, Any]]:
        """What `GET /v1/usage` lists. Raises Unreachable, Refused."""
        asked = {"user": user, "from": start, "to": end}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        rows: list[dict[str, Any]] = (await self._get(f"/v1/usage?{query}"))["usage"]
        return rows

    async def _get(self, path: str) -> dict[str, Any]:
        """The answer of the first address that gives one."""
        for url in self.urls[:-1]:
            with contextlib.suppress(Unreachable):
                return await asyncio.to_thread(_get_blocking, url, path, self._admin_key)
        return await asyncio.to_thread(_get_blocking, self.urls[-1], path, self._admin_key)


def _get_blocking(url: str, path: str, admin_key: str | None) -> dict[str, Any]:
    check_url(url)
    try:
        request = urllib.request.Request(url + path)
        if admin_key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {admin_key}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            body: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise _refused(url, error) from None
    except (OSError, ValueError) as error:
        raise unreachable(url, error) from None
    return body


def _refused(url: str, error: urllib.error.HTTPError) -> UnderstudyError:
    try:
        said = json.load(error)["error"]
        return Refused(wire.Error("", said["code"], said["message"], said["retryable"]))
    except (OSError, ValueError, KeyError, TypeError):  # another server's words
        return unreachable(url, error)
