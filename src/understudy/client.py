"""The Python SDK: `async with Client(url).stream("chipmunk", user="alice") as stream: …`.

async with Client().stream("chipmunk", user="alice", sample_rate=24_000) as stream:
    await stream.send(pcm)                  # int16 bytes or array, any length
    async for item in stream:               # bytes of audio, or an event
        ...
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from picows.common import WSHandshakeError

from understudy.core import wire
from understudy.core.errors import UnderstudyError

DEFAULT_URL: Final = "http://127.0.0.1:8765"
MAX_QUEUED: Final = 4096


class Unreachable(UnderstudyError):
    """No server answers at that address."""

    code = "unreachable"
    retryable = True


class Refused(UnderstudyError):
    """The server's `error`, as an exception: `code`, `retryable` and the sentence."""

    def __init__(self, error: wire.Error) -> None:
        super().__init__(error.message)
        self.code = error.code
        self.retryable = error.retryable


Item = bytes | wire.ServerEvent


class _Listener(WSListener):
    def __init__(self) -> None:
        self.items: asyncio.Queue[Item | None] = asyncio.Queue(MAX_QUEUED)
        self.writable = asyncio.Event()
        self.writable.set()
        self._transport: WSTransport | None = None
        self._waiting: list[Item | None] = []

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            self._put(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            self._put(wire.decode_event(frame.get_payload_as_utf8_text()))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._put(None)

    def _put(self, item: Item | None) -> None:
        """Queues an item; a reader who is too slow makes the socket wait, and loses nothing."""
        if self._waiting or self.items.full():
            if not self._waiting and self._transport is not None:
                self._transport.underlying_transport.pause_reading()
            self._waiting.append(item)
        else:
            self.items.put_nowait(item)

    def taken(self) -> None:
        while self._waiting and not self.items.full():
            self.items.put_nowait(self._waiting.pop(0))
            if not self._waiting and self._transport and not self._transport.is_disconnected:
                self._transport.underlying_transport.resume_reading()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


class Stream:
    """One session. Iterate over it for audio (bytes, int16) and events (core.wire)."""

    def __init__(self, url: str, start: wire.Start) -> None:
        self._url = url
        self._start = start
        self._listener = _Listener()
        self._transport: WSTransport | None = None
        self._over = False
        self.live: wire.Live | None = None  # the last `live`
        self.usage: wire.Usage | None = None  # the last `usage`
        self.ended: wire.Ended | None = None

    async def __aenter__(self) -> Stream:
        """Raises Unreachable."""
        self._transport, _ = await _connect(self._url, self._listener)
        self._transport.send(WSMsgType.TEXT, wire.encode_start(self._start).encode())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._transport is not None:
            if not self._over and kind is None:
                await self.stop()
                async for _ in self:
                    pass
            self._transport.disconnect(False)

    async def send(self, pcm: bytes | NDArray[np.int16]) -> None:
        """Sends audio of any length; waits while the server asks for a slower pace."""
        data = pcm if isinstance(pcm, bytes) else np.ascontiguousarray(pcm, "<i2").tobytes()
        step = round(self._start.sample_rate * wire.MAX_AUDIO_S) * wire.BYTES_PER_SAMPLE
        for at in range(0, len(data), step):
            await self._listener.writable.wait()
            self._send(WSMsgType.BINARY, data[at : at + step])

    async def set_params(self, **params: float) -> None:
        """Changes the voice's numbers while talking."""
        self.send_text(json.dumps({"type": "params", "params": params}))

    async def stop(self) -> None:
        """No more input: the last samples and `ended` still come."""
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
        """Raises Refused on a fatal `error`, Unreachable if the connection breaks."""
        refusal: wire.Error | None = None
        while not self._over:
            item = await self._listener.items.get()
            self._listener.taken()
            match item:
                case None:
                    self._over = True
                    if refusal is not None and (not self.ended or self.ended.reason == "error"):
                        raise Refused(refusal)
                    if self.ended is None:
                        raise Unreachable("the connection to the server broke")
                    return
                case wire.Live():
                    self.live = item
                case wire.Usage():
                    self.usage = item
                case wire.Ended():
                    self.ended = item
                case wire.Error():
                    refusal = item
            yield item


class Client:
    """A server to talk to. `token`: who the user is, where the server asks for it; `admin_key`:
    to see all of them there."""

    def __init__(
        self, url: str = DEFAULT_URL, token: str | None = None, *, admin_key: str | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._admin_key = admin_key

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
        return Stream(self.url, start)

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
        return await asyncio.to_thread(self._get_blocking, path)

    def _get_blocking(self, path: str) -> dict[str, Any]:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise Unreachable(f"{self.url} is no address; it looks like {DEFAULT_URL}")
        request = urllib.request.Request(self.url + path)
        if self._admin_key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self._admin_key}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                body: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise _refused(self.url, error) from None
        except (OSError, ValueError) as error:
            raise _unreachable(self.url, error) from None
        return body


async def _connect(url: str, listener: _Listener) -> tuple[WSTransport, WSListener]:
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unreachable(f"{url} is no address; it looks like {DEFAULT_URL}")
    try:
        return await ws_connect(
            lambda: listener, "ws" + url.removeprefix("http") + "/v1/stream", use_aiofastnet=False
        )
    except WSHandshakeError as error:
        if error.response is None or not error.raw_body:
            raise _unreachable(url, error) from None
        status, said = error.response.status, error.raw_body.decode(errors="replace").strip()
        later = status in (429, 503)
        code = "overloaded" if later else "forbidden"
        raise Refused(wire.Error("", code, f"{said} (HTTP {status.value})", later)) from None
    except (OSError, TimeoutError) as error:
        raise _unreachable(url, error) from None


def _refused(url: str, error: urllib.error.HTTPError) -> UnderstudyError:
    try:
        said = json.load(error)["error"]
        return Refused(wire.Error("", said["code"], said["message"], said["retryable"]))
    except (OSError, ValueError, KeyError, TypeError):  # another server's words
        return _unreachable(url, error)


def _unreachable(url: str, error: Exception) -> Unreachable:
    return Unreachable(f"no Understudy answers at {url} ({error}); start one: understudy up")
