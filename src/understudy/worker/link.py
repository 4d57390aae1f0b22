"""The worker's end of a link: one connection to one edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from understudy.core.wire import Record, decode_records


class Performing(Protocol):
    """What a link needs of the worker."""

    def heard(self, link: Link, message: Mapping[str, Any]) -> None: ...

    def fed(self, link: Link, records: Iterable[Record]) -> None: ...

    def lost(self, link: Link) -> None: ...


class Link(WSListener):
    """Messages in and out; what they mean is the worker's business."""

    def __init__(self, worker: Performing) -> None:
        self._worker = worker
        self.edge = ""  # its name, once it has said it
        self.heard_s = 0.0  # when it last said anything
        self.transport: WSTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transport = None
        self._worker.lost(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            self._worker.fed(self, decode_records(frame.get_payload_as_bytes()))
        elif frame.msg_type == WSMsgType.TEXT:
            self._worker.heard(self, json.loads(frame.get_payload_as_utf8_text()))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def say(self, **message: Any) -> None:
        if self.transport is not None:
            self.transport.send(WSMsgType.TEXT, json.dumps(message).encode())

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.send(WSMsgType.BINARY, data)

    def disconnect(self) -> None:
        if self.transport is not None:
            self.transport.disconnect(False)
