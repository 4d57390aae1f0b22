"""A model's slots: queues of input in, one batched step over all that are due, output out."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from understudy.core.wire import BYTES_PER_SAMPLE, Card, Heard
from understudy.seams import Model

FULL_SCALE: Final = 32768.0
WARM_UP_FRAMES: Final = 2400


@dataclass(frozen=True, slots=True)
class Output:
    """What a step made for one slot: int16 PCM from `position` on."""

    slot: int
    position: int
    pcm: bytes


@dataclass(slots=True)
class _Slot:
    position: int  # of the first sample in `waiting`
    waiting: bytearray = field(default_factory=bytearray)
    changes: deque[tuple[int, Mapping[str, float]]] = field(default_factory=deque)


def card_of(model: Model) -> Card:
    """The card of a model, once it is loaded."""
    return Card(
        sample_rate=model.sample_rate,
        frame=model.frame,
        latency=model.latency_samples,
        context_s=model.context_s,
        slots=model.slots,
        controls=model.controls,
        alignment=model.alignment_samples,
        kind="listen" if listens(model) else "convert",
        labels=tuple(getattr(model, "labels", ())),
    )


def listens(model: Model) -> bool:
    """Whether it is a seams.Listening."""
    return hasattr(model, "events")


def warm_up(model: Model) -> None:
    """A model's first steps may compile for seconds, in which a worker would be taken for dead."""
    slots = Slots(model)
    slots.open(0, 0, {})
    samples = max(1, model.burst) * model.frame
    slots.feed(0, 0, bytes(min(samples, WARM_UP_FRAMES * model.frame) * BYTES_PER_SAMPLE))
    while slots.due:
        slots.step()
    slots.close(0)


class Slots:
    """Feeds a loaded model. Used by the worker process, and without one by files and `talk`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._frame_bytes = model.frame * BYTES_PER_SAMPLE
        self._slots: dict[int, _Slot] = {}
        self._fed: dict[int, _Slot] = {}  # those with a whole frame waiting
        self.refused: list[tuple[int, str]] = []  # (slot, why), for who steps to take
        self.heard: list[Heard] = []  # of the last step, at positions in the session
        self._events: Callable[[], Sequence[Heard]] | None = getattr(model, "events", None)

    def open(self, slot: int, position: int, params: Mapping[str, float]) -> None:
        """Starts a slot from silence; its input begins at `position`. Raises ValueError."""
        self._model.open(slot, params)
        self._slots[slot] = _Slot(position)
        self._fed.pop(slot, None)

    def close(self, slot: int) -> None:
        self._slots.pop(slot, None)
        self._fed.pop(slot, None)

    def _look(self, number: int, slot: _Slot) -> None:
        """Keeps `_fed` true after a change of what waits."""
        if len(slot.waiting) >= self._frame_bytes:
            self._fed[number] = slot
        else:
            self._fed.pop(number, None)

    def set_params(self, slot: int, params: Mapping[str, float]) -> None:
        """From the next sample fed on; what the model refuses is listed in `refused`."""
        if state := self._slots.get(slot):
            end = state.position + len(state.waiting) // BYTES_PER_SAMPLE
            state.changes.append((end, params))
            self._change(slot, state)

    def _change(self, number: int, slot: _Slot) -> int:
        """Applies the params whose time has come; returns the samples up to the next."""
        while slot.changes and slot.changes[0][0] <= slot.position:
            try:
                self._model.set_params(number, slot.changes.popleft()[1])
            except ValueError as error:
                self.refused.append((number, str(error)))
        return slot.changes[0][0] - slot.position if slot.changes else sys.maxsize

    def feed(self, slot: int, position: int, pcm: bytes | memoryview) -> None:
        """Appends input. What is not contiguous was shed by the edge: the slot skips ahead."""
        state = self._slots.get(slot)
        if state is None:
            return  # closed while this was on its way
        end = state.position + len(state.waiting) // BYTES_PER_SAMPLE
        if position != end:
            state.waiting.clear()
            state.position = position
        state.waiting += pcm
        self._look(slot, state)

    def skip(self, slot: int, until: int) -> None:
        """Drops waiting input before position `until`: nobody waits for its answer any more."""
        state = self._slots.get(slot)
        if state is None or until <= state.position:
            return
        # A few samples more: the model's own grid must stay where the positions say.
        until += (state.position - until) % self._model.alignment_samples
        del state.waiting[: (until - state.position) * BYTES_PER_SAMPLE]
        state.position = until
        self._look(slot, state)

    @property
    def due(self) -> bool:
        return bool(self._fed)

    def _placed(self, heard: Sequence[Heard], due: Mapping[int, _Slot]) -> list[Heard]:
        """From samples of the step to positions."""
        placed = []
        for one in heard:
            position = due[one.slot].position
            start, at = max(0, position + one.start), position + one.at
            placed.append(one._replace(start=start, at=at))
        return placed

    def step(self) -> list[Output]:
        """One batched step over every slot with a whole frame waiting."""
        due = dict(self._fed)
        if not due:
            return []
        shortest = min(len(slot.waiting) for slot in due.values()) // self._frame_bytes
        until = min(self._change(number, slot) for number, slot in due.items())
        frames_now = min(shortest, self._model.burst, max(1, until // self._model.frame))
        samples = frames_now * self._model.frame
        taken = samples * BYTES_PER_SAMPLE
        # Only the rows that are due: one session on a worker of many slots should be cheap.
        rows = np.array([*due])
        pcm = np.frombuffer(b"".join([slot.waiting[:taken] for slot in due.values()]), np.int16)
        frames = np.zeros((self._model.slots, samples), np.float32)
        frames[rows] = pcm.reshape(len(rows), samples) * np.float32(1 / FULL_SCALE)
        active = np.zeros(self._model.slots, np.bool_)
        active[rows] = True
        made = self._model.step(frames, active)[rows]
        self.heard = [] if self._events is None else self._placed(self._events(), due)
        made *= np.float32(FULL_SCALE)
        if np.isnan(made).any():  # a model's NaN must not become full-scale noise
            np.nan_to_num(made, copy=False)
        made.clip(-FULL_SCALE, FULL_SCALE - 1, out=made)
        np.rint(made, out=made)
        outputs = []
        for row, (number, slot) in zip(made.astype(np.int16), due.items(), strict=True):
            del slot.waiting[:taken]
            self._look(number, slot)
            position = slot.position - self._model.latency_samples
            early = min(samples, max(0, -position))  # answers to what came before the start
            slot.position += samples
            if early < samples:
                outputs.append(Output(number, position + early, row[early:].tobytes()))
        return outputs
