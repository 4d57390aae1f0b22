"""The batched step: each slot gets what it would get alone, whatever the others do."""

from collections.abc import Mapping

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from understudy.core.wire import Control
from understudy.worker.slots import Slots


class Gain:
    """A model whose state shows: a running sum of gains, and a latency of its own."""

    def __init__(self, slots: int, frame: int, latency: int, burst: int) -> None:
        self.slots, self.frame, self.latency_samples, self.burst = slots, frame, latency, burst
        self.sample_rate, self.context_s, self.alignment_samples = 24_000, 0.0, 1
        self.controls: Mapping[str, Control] = {}
        self.gain = np.ones(slots, np.float32)
        self.heard = [np.zeros(latency, np.float32) for _ in range(slots)]

    def load(self, device: str) -> None: ...

    def open(self, slot: int, params: Mapping[str, float]) -> None:
        self.gain[slot] = 1
        self.heard[slot] = np.zeros(self.latency_samples, np.float32)
        self.set_params(slot, params)

    def set_params(self, slot: int, params: Mapping[str, float]) -> None:
        if params.get("gain", 0) > 5:
            raise ValueError("too loud")
        self.gain[slot] = params.get("gain", self.gain[slot])

    def step(self, frames: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        assert frames.shape[1] % self.frame == 0
        assert frames.shape[1] <= self.frame * self.burst
        out = np.full_like(frames, np.nan)  # nobody may look at an inactive row
        for slot in np.flatnonzero(active):
            line = np.concatenate([self.heard[slot], frames[slot] * self.gain[slot]])
            out[slot], self.heard[slot] = line[: frames.shape[1]], line[frames.shape[1] :]
        return out


def pcm(samples: int, seed: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype("<i2")


@settings(max_examples=60, deadline=None)
@given(
    frame=st.integers(1, 50),
    latency=st.integers(0, 80),
    burst=st.integers(1, 8),
    moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 120), st.booleans()), max_size=60),
)
def test_every_slot_gets_its_own_in_order(
    frame: int, latency: int, burst: int, moves: list[tuple[int, int, bool]]
) -> None:
    slots = Slots(Gain(4, frame, latency, burst))
    said = [pcm(8000, slot) for slot in range(4)]
    fed, heard = [0] * 4, [b""] * 4
    for slot in range(4):
        slots.open(slot, 0, {})

    def step() -> None:
        for output in slots.step():
            assert output.position == len(heard[output.slot]) // 2
            heard[output.slot] += output.pcm

    for slot, samples, now in moves:
        slots.feed(slot, fed[slot], said[slot][fed[slot] : fed[slot] + samples].tobytes())
        fed[slot] += samples
        if now:
            step()
    while slots.due:
        step()
    for slot in range(4):
        expected = max(0, fed[slot] // frame * frame - latency)
        assert heard[slot] == said[slot][:expected].tobytes()


def test_params_wait_for_their_place_in_a_backlog() -> None:
    slots = Slots(Gain(1, 10, 0, 100))
    slots.open(0, 0, {})
    slots.feed(0, 0, pcm(500, 1).tobytes())
    slots.set_params(0, {"gain": 0.0})
    slots.feed(0, 500, pcm(500, 2).tobytes())
    heard = b""
    while slots.due:
        heard += b"".join(output.pcm for output in slots.step())
    made = np.frombuffer(heard, "<i2")
    assert np.array_equal(made[:500], pcm(500, 1))
    assert not made[500:].any()


def test_what_a_model_refuses_is_listed() -> None:
    slots = Slots(Gain(1, 10, 0, 100))
    slots.open(0, 0, {})
    slots.set_params(0, {"gain": 9.0})
    assert slots.refused == [(0, "too loud")]


def test_skipping_and_gaps_keep_positions() -> None:
    slots = Slots(Gain(1, 10, 0, 1))
    slots.open(0, 1000, {})
    x = pcm(100, 1)
    slots.feed(0, 1000, x.tobytes())
    slots.skip(0, 1050)
    assert [o.position for o in slots.step()] == [1050]
    slots.skip(0, 900)  # long past
    slots.feed(0, 3000, x.tobytes())  # the edge has shed what lies between
    outputs = [o for _ in range(20) for o in slots.step()]
    assert outputs[0].position == 3000
    assert b"".join(o.pcm for o in outputs) == x.tobytes()
    slots.close(0)
    slots.feed(0, 3100, x.tobytes())
    assert not slots.due
