"""The worker's end of the link: dials the edge, loads the model, steps while there is input."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import random
import signal
from collections.abc import Callable, Mapping
from typing import Any, Final

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from understudy.core.errors import ConfigError
from understudy.core.wire import decode_records, encode_header
from understudy.seams import Clock, Model
from understudy.worker.bundle_path import add_path
from understudy.worker.fetch import Source, fetch
from understudy.worker.slots import Slots, card_of, warm_up

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.2
GOODBYE_S: Final = 0.02  # lets the last message leave
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024  # a priming may carry many seconds


def build_model(engine: str, slots: int, options: Mapping[str, Any]) -> Model:
    """Makes a model of "module:Class". Raises ConfigError, saying what is wrong."""
    module_name, _, class_name = engine.partition(":")
    try:
        model_class: Callable[..., Model] = getattr(
            importlib.import_module(module_name), class_name
        )
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"engine {engine!r} cannot be imported: {error}") from error
    try:
        return model_class(slots=slots, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"engine {engine!r} refuses its options: {error}") from error


class WorkerLink(WSListener):
    """One connection to one edge, and the slots it fills."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._slots: Slots | None = None
        self._numbers: dict[int, int] = {}  # of each slot's last `open`
        self._stepping = False
        self._busy_s = 0.0
        self._steps = 0
        self.transport: WSTransport | None = None
        self.lost: asyncio.Future[str] = self._loop.create_future()

    # picows's side

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._end("the edge closed the link")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            assert self._slots is not None
            for record in decode_records(frame.get_payload_as_bytes()):
                self._slots.feed(record.slot, record.position, record.pcm)
            self._wake()
        elif frame.msg_type == WSMsgType.TEXT:
            self._control(json.loads(frame.get_payload_as_utf8_text()))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    # what the edge says

    def _control(self, message: Mapping[str, Any]) -> None:
        slots = self._slots
        assert slots is not None, "the edge speaks before the worker is ready"
        slot = message["slot"]
        try:
            match message["type"]:
                case "open":
                    self._numbers[slot] = message["n"]
                    slots.open(slot, message["position"], message["params"])
                    self.say(type="opened", slot=slot, n=message["n"])
                case "params":
                    slots.set_params(slot, message["params"])
                case "shed":
                    slots.skip(slot, message["position"])
                case "close":
                    slots.close(slot)
                case other:
                    log.warning("the edge says %r, which this worker does not know", other)
        except ValueError as error:
            slots.close(slot)
            self._refuse(slot, str(error))

    def _refuse(self, slot: int, message: str) -> None:
        self.say(type="refused", slot=slot, n=self._numbers.get(slot, 0), message=message)

    def say(self, **message: Any) -> None:
        if self.transport is not None:
            self.transport.send(WSMsgType.TEXT, json.dumps(message).encode())

    # the loop: one step, then let newly arrived input join the next

    def serve(self, model: Model) -> None:
        self._slots = Slots(model)
        self._loop.call_later(HEARTBEAT_S, self._beat)

    def _say_stats(self) -> None:
        self.say(type="stats", steps=self._steps, busy_s=round(self._busy_s, 6))

    def _beat(self) -> None:
        self._say_stats()
        self._loop.call_later(HEARTBEAT_S, self._beat)

    def _wake(self) -> None:
        if not self._stepping:
            self._stepping = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        assert self._slots is not None
        assert self.transport is not None
        self._stepping = False
        started = self._clock.now()
        try:
            outputs = self._slots.step()
        except Exception as error:
            log.exception("the model failed in a step")
            self.say(type="failed", message=f"the model failed in a step: {error!r}")
            self._end("the model failed in a step")
            return
        took = self._clock.now() - started
        self._busy_s += took
        self._steps += 1
        for slot, message in self._slots.refused:
            self._slots.close(slot)
            self._refuse(slot, message)
        self._slots.refused.clear()
        if outputs:
            parts: list[bytes] = []
            for output in outputs:
                parts += (
                    encode_header(output.slot, output.position, len(output.pcm), took),
                    output.pcm,
                )
            self.transport.send(WSMsgType.BINARY, b"".join(parts))
        if self._slots.due:
            self._wake()

    def leave(self) -> None:
        """The node is given back: says so, that nobody takes it for a crash, and ends."""
        self._say_stats()
        self.say(type="leaving")
        # A load in its thread cannot be stopped; the process can.
        self._loop.call_later(GOODBYE_S, os._exit, 0)

    def _end(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)


async def run(
    url: str, secret: str, node: str, region: str, spec: Mapping[str, Any], clock: Clock
) -> int:
    """Serves one edge until the link is lost; returns the process's exit status."""
    started = clock.now()
    _, link = await ws_connect(
        lambda: WorkerLink(clock), url, max_frame_size=MAX_MESSAGE_BYTES, use_aiofastnet=False
    )
    assert isinstance(link, WorkerLink)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, link.leave)
    link.say(
        type="hello",
        node=node,
        secret=secret,
        region=region,
        model=spec["name"],
        revision=spec["revision"],
        slots=spec["slots"],
    )
    try:
        if spec.get("bundle"):
            add_path(await fetch(spec, Source(url, node, secret), clock))
        model = build_model(spec["engine"], spec["slots"], spec["options"])
        # In a thread: a load may take many seconds, and the link has to stay alive meanwhile.
        await asyncio.to_thread(model.load, spec.get("device", "cpu"))
        await asyncio.to_thread(warm_up, model)
        # What stands for a heavier load counts from when the process was asked for.
        waited_s = asyncio.get_running_loop().time() - spec.get("asked_at", started)
        await clock.sleep(max(0.0, spec.get("load_s", 0.0) - waited_s))
    except Exception as error:
        log.exception("model %s does not load", spec["name"])
        link.say(type="failed", message=f"{spec['name']} does not load: {error}")
        await clock.sleep(0.1)  # lets the message leave
        return 3
    link.serve(model)
    if crashes := spec.get("crash_per_minute", 0.0):
        after_s = random.Random(node).expovariate(crashes / 60.0)
        log.warning("%s is a drill: it dies by itself in %.1f s", spec["name"], after_s)
        asyncio.get_running_loop().call_later(after_s, os.kill, os.getpid(), signal.SIGKILL)
    boot_s = clock.now() - started
    link.say(type="ready", card=card_of(model).dump(), boot_s=round(boot_s, 3))
    log.info("%s is ready after %.2f s", spec["name"], boot_s)
    log.info("%s", await link.lost)
    return 0
