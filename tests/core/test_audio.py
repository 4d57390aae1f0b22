"""The sample lock: whatever the chunks, rates and accidents, output k answers input k."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.audio import OVERDUE_S, History, SampleLock
from understudy.core.wire import Card
from understudy.resample import SoxrResampler


class Delay:
    """A model by hand: the identity, `latency` samples late, in whole frames of its own grid."""

    def __init__(self, lock: SampleLock, card: Card) -> None:
        self.lock, self.card = lock, card
        self.position = 0
        self.waiting = b""

    def feed(self, position: int, pcm: bytes, now: float = 0.0) -> None:
        assert position == self.position + len(self.waiting) // 2
        self.waiting += pcm
        whole = len(self.waiting) // 2 // self.card.frame * self.card.frame
        done, self.waiting = self.waiting[: whole * 2], self.waiting[whole * 2 :]
        start = self.position - self.card.latency
        self.position += whole
        # What the model would put out: its input, late. Here the history is kept by hand.
        self.heard = getattr(self, "heard", bytes(self.card.latency * 2)) + done
        out, self.heard = self.heard[: whole * 2], self.heard[whole * 2 :]
        skip = max(0, -start)
        if skip < whole:
            self.lock.answer(start + skip, out[skip * 2 :], 0.001, now)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20_000, 20_000, samples).astype("<i2")


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 2000), min_size=1, max_size=40),
    frame=st.integers(1, 700),
    latency=st.integers(0, 1500),
)
def test_the_output_is_the_input_sample_for_sample(
    chunks: list[int], frame: int, latency: int
) -> None:
    card = Card(24_000, frame, latency, 1.0, 4)
    lock = SampleLock(24_000, SoxrResampler, card)
    model = Delay(lock, card)
    x = noise(sum(chunks) // 2 + 1).tobytes()[: sum(chunks)]  # chunks in bytes: odd ones included
    heard = b""
    at = 0
    for chunk in chunks:
        model.feed(*lock.feed(x[at : at + chunk], 0.0))
        at += chunk
        heard += lock.take()
        # After n samples in, exactly n - L have come out.
        assert lock.sent == max(0, lock.received - lock.latency)
    model.feed(*lock.finish(0.0))
    heard += lock.take()
    assert lock.done
    assert heard == x[: len(x) // 2 * 2]
    assert lock.silent_s == 0
    assert lock.latency == latency + frame - 1


@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 12_347]),
    chunk_s=st.floats(0.0005, 0.2),
)
def test_resampled_streams_keep_the_same_promise(rate: int, chunk_s: float) -> None:
    card = Card(24_000, 240, 500, 1.0, 4)
    lock = SampleLock(rate, SoxrResampler, card)
    model = Delay(lock, card)
    t = np.arange(rate) / rate
    x = (8000 * np.sin(2 * np.pi * 440 * t)).astype("<i2")
    heard = b""
    chunk = max(1, round(chunk_s * rate))
    for at in range(0, len(x), chunk):
        model.feed(*lock.feed(x[at : at + chunk].tobytes(), 0.0))
        heard += lock.take()
        assert lock.sent == max(0, lock.received - lock.latency)
    model.feed(*lock.finish(0.0))
    heard += lock.take()
    y = np.frombuffer(heard, "<i2")
    assert len(y) == len(x)
    middle = slice(len(x) // 4, -len(x) // 4)
    error = (y[middle].astype(float) - x[middle]).std() / x[middle].std()
    # Half a sample each way is what calibration may leave; a tone at 440 Hz shows it.
    assert error < 2 * np.pi * 440 * (0.51 / rate + 0.51 / 24_000 + 0.51 / rate)


def test_an_overdue_answer_becomes_silence_in_its_place() -> None:
    card = Card(24_000, 240, 0, 1.0, 4)
    lock = SampleLock(24_000, SoxrResampler, card)
    x = noise(24_000)
    for k in range(50):  # half a second, unanswered
        lock.feed(x[k * 240 : (k + 1) * 240].tobytes(), now=k * 0.01)
    assert lock.give_up(now=0.0 + OVERDUE_S) is None
    until = lock.give_up(now=0.5)
    assert until is not None
    silence = lock.take()
    assert silence == bytes(len(silence))
    given_up = len(silence) // 2
    assert 0 < given_up < lock.received - lock.latency
    assert lock.silent_s == pytest.approx(given_up / 24_000, abs=240 / 24_000)
    # The late answer to what was given up is dropped, the rest is in its exact place.
    lock.answer(0, x[:12_000].tobytes(), 0.0, now=0.51)
    rest = np.frombuffer(lock.take(), "<i2")
    assert np.array_equal(rest, x[given_up : given_up + len(rest)])
    assert lock.sent == lock.received - lock.latency


def test_running_ahead_is_not_taken_for_a_slow_engine() -> None:
    card = Card(24_000, 240, 0, 1.0, 4)
    lock = SampleLock(24_000, SoxrResampler, card)
    x = noise(24_000)
    for k in range(100):  # a second at once
        lock.feed(x[k * 240 : (k + 1) * 240].tobytes(), now=5.0)
    assert lock.give_up(now=5.19) is None
    assert lock.give_up(now=5.5) is not None
    assert lock.silent_s < 0.5  # what is due later than now - 100 ms is still waited for


def test_a_hole_between_two_workers_is_silence() -> None:
    card = Card(24_000, 1, 0, 1.0, 4)
    lock = SampleLock(24_000, SoxrResampler, card)
    x = noise(3000)
    lock.feed(x.tobytes(), 0.0)
    lock.answer(0, x[:1000].tobytes(), 0.0, 0.0)
    lock.answer(2000, x[2000:].tobytes(), 0.0, 0.0)
    y = np.frombuffer(lock.take(), "<i2")
    assert np.array_equal(y[:1000], x[:1000])
    assert not y[1000:2000].any()
    assert np.array_equal(y[2000:], x[2000:])
    assert lock.silent_s == pytest.approx(1000 / 24_000)
    assert lock.heard == 2000


def test_abandoned_sessions_get_every_sample_they_are_owed() -> None:
    card = Card(24_000, 240, 100, 1.0, 4)
    lock = SampleLock(24_000, SoxrResampler, card)
    lock.feed(noise(5000).tobytes(), 0.0)
    lock.finish(0.0)
    lock.abandon()
    assert len(lock.take()) == 5000 * 2
    assert lock.done
    assert lock.heard == 0


def test_history_keeps_what_was_asked_and_no_more() -> None:
    history = History()
    x = noise(1000)
    for at in range(0, 1000, 7):
        history.append(x[at : at + 7].tobytes(), horizon=at - 100)
    start, pcm = history.kept()
    assert 1000 - start in range(100, 115)
    assert pcm == x[start:].tobytes()
    aligned, pcm = history.kept(alignment=64)
    assert aligned % 64 == 0
    assert 0 <= aligned - start < 64
    assert pcm == x[aligned:].tobytes()
    assert history.kept(alignment=10_000) == (1000, b"")


def test_the_latency_is_that_of_the_slowest_who_may_perform_and_others_do_not_fit() -> None:
    lead, cover = Card(24_000, 240, 960, 3.0, 4), Card(0, 480, 100, 0.5, 24)
    lock = SampleLock(24_000, SoxrResampler, lead, cover)
    assert lock.latency == 960 + 239
    assert SampleLock(24_000, SoxrResampler, cover, lead).latency == lock.latency
    assert SampleLock(24_000, SoxrResampler, cover).latency == 100 + 479
    for card, fits in (
        (lead, True),
        (cover, True),
        (Card(24_000, 480, 960, 3.0, 4), False),  # later
        (Card(24_000, 480, 720, 9.0, 4), True),
        (Card(48_000, 240, 0, 3.0, 4), False),  # of another rate
    ):
        assert lock.fits(card) == fits


def test_memory_is_flat_over_ten_thousand_blocks() -> None:
    card = Card(24_000, 240, 960, 3.0, 4)
    lock = SampleLock(24_000, SoxrResampler, card)
    model = Delay(lock, card)
    block = noise(240).tobytes()
    sizes = []
    for k in range(10_000):
        model.feed(*lock.feed(block, k * 0.01), now=k * 0.01)
        lock.take()
        if k % 2500 == 2499:
            sizes.append((len(lock._out), len(lock._due), len(lock.history._chunks)))
    assert len(set(sizes)) == 1
