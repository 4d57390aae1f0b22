"""A worker at work: one loaded model, its slots, and the edges that fill them.

It dials every edge that there is, so that any user of any of them can be seated here; a slot
belongs to the edge that opened it last, for the store gives it to one session at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from understudy.core.wire import Heard, Record, encode_header, encode_labels
from understudy.seams import Clock, Model
from understudy.worker.link import Link
from understudy.worker.slots import Output, Slots, card_of

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.2
GOODBYE_S: Final = 0.02  # lets the last message leave


class Performance:
    """link.Performing: what the edges say, done; and one step after the other."""

    def __init__(self, hello: Mapping[str, Any], clock: Clock) -> None:
        """`hello`: what it says of itself to each edge."""
        self._hello = hello
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._slots: Slots | None = None
        self._ready: dict[str, Any] = {}  # what it says once its model is loaded
        self._owners: dict[int, Link] = {}
        self._numbers: dict[int, int] = {}  # of each slot's last `open`
        self._stepping = False
        self._busy_s = 0.0
        self._steps = 0
        self.links: list[Link] = []
        self.edges: dict[str, str] = {}  # name -> url, as last heard
        self.news = asyncio.Event()  # of links and edges: for who dials

    # links

    def connected(self, link: Link) -> None:
        link.heard_s = self._clock.now()
        self.links.append(link)
        link.say(type="hello", **self._hello)
        if self._ready:
            link.say(type="ready", **self._ready)

    def lost(self, link: Link) -> None:
        if link in self.links:
            self.links.remove(link)
        for slot in [slot for slot, owner in self._owners.items() if owner is link]:
            self._close(slot)
        self.news.set()

    def heard(self, link: Link, message: Mapping[str, Any]) -> None:
        link.heard_s = self._clock.now()
        match message["type"]:
            case "ping":
                link.say(type="pong", t=message["t"])
            case "edges":
                link.edge = message["edge"]
                self.edges = dict(message["edges"])
                self.news.set()
            case "leave":
                log.info("edge %s: %s", link.edge, message.get("why", "not needed"))
                self.leave()
            case _:
                self._slot_message(link, message)

    def _slot_message(self, link: Link, message: Mapping[str, Any]) -> None:
        slots, slot = self._slots, message["slot"]
        assert slots is not None, "the edge speaks before the worker is ready"
        if message["type"] != "open" and self._owners.get(slot) is not link:
            return  # it is another edge's by now
        try:
            match message["type"]:
                case "open":
                    old = self._owners.get(slot)
                    if old is not None and old is not link:
                        old.say(type="taken", slot=slot, n=self._numbers[slot])
                    self._owners[slot] = link
                    self._numbers[slot] = message["n"]
                    slots.open(slot, message["position"], message["params"])
                    link.say(type="opened", slot=slot, n=message["n"])
                case "params":
                    slots.set_params(slot, message["params"])
                case "shed":
                    slots.skip(slot, message["position"])
                case "close":
                    self._close(slot)
                case other:
                    log.warning("an edge says %r, which this worker does not know", other)
        except ValueError as error:
            self._refuse(slot, str(error))

    def fed(self, link: Link, records: Iterable[Record]) -> None:
        assert self._slots is not None
        owners = self._owners
        for record in records:
            if owners.get(record.slot) is link:
                self._slots.feed(record.slot, record.position, record.pcm)
        self._wake()

    def _close(self, slot: int) -> None:
        self._owners.pop(slot, None)
        if self._slots is not None:
            self._slots.close(slot)

    def _refuse(self, slot: int, message: str) -> None:
        if (link := self._owners.get(slot)) is not None:
            link.say(type="refused", slot=slot, n=self._numbers.get(slot, 0), message=message)
        self._close(slot)

    # the loop: one step, then let newly arrived input join the next

    def serve(self, model: Model, boot_s: float) -> None:
        self._slots = Slots(model)
        self._ready = {"card": card_of(model).dump(), "boot_s": round(boot_s, 3)}
        for link in self.links:
            link.say(type="ready", **self._ready)
        self._loop.call_later(HEARTBEAT_S, self._beat)

    def _say_stats(self) -> None:
        for link in self.links:
            link.say(type="stats", steps=self._steps, busy_s=round(self._busy_s, 6))

    def _beat(self) -> None:
        self._say_stats()
        self._loop.call_later(HEARTBEAT_S, self._beat)

    def _wake(self) -> None:
        if not self._stepping:
            self._stepping = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        assert self._slots is not None
        self._stepping = False
        started = self._clock.now()
        try:
            outputs = self._slots.step()
        except Exception as error:
            log.exception("the model failed in a step")
            self.fail(f"the model failed in a step: {error!r}")
            return
        took = self._clock.now() - started
        self._busy_s += took
        self._steps += 1
        refused = list(self._slots.refused)
        self._slots.refused.clear()
        for slot, message in refused:
            self._refuse(slot, message)
        if self._slots.heard:  # before the audio that they are about
            self._send_labels(self._slots.heard)
        self._send(outputs, took)
        if self._slots.due:
            self._wake()

    def _send_labels(self, heard: list[Heard]) -> None:
        for slot in {one.slot: None for one in heard}:
            if (link := self._owners.get(slot)) is not None:
                link.say(**encode_labels(slot, [one for one in heard if one.slot == slot]))

    def _send(self, outputs: list[Output], took: float) -> None:
        """One message an edge, however many of its sessions are on it."""
        parts: dict[Link, list[bytes]] = {}
        for output in outputs:
            if (link := self._owners.get(output.slot)) is not None:
                header = encode_header(output.slot, output.position, len(output.pcm), took)
                parts.setdefault(link, []).extend((header, output.pcm))
        for link, part in parts.items():
            link.send(b"".join(part))

    # the end

    def fail(self, message: str) -> None:
        """It cannot go on: says so to everybody, and ends."""
        for link in self.links:
            link.say(type="failed", message=message)
        self._loop.call_later(GOODBYE_S, os._exit, 3)

    def leave(self) -> None:
        """The node is given back: says so, that nobody takes it for a crash, and ends."""
        self._say_stats()
        for link in self.links:
            link.say(type="leaving")
        # A load in its thread cannot be stopped; the process can.
        self._loop.call_later(GOODBYE_S, os._exit, 0)
