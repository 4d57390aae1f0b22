"""A move, as it sounds: two performers of one session, and not a sample missing or said twice."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from understudy.core.audio import OVERDUE_S, SampleLock
from understudy.core.crossing import FADE_S, Crossing, Run
from understudy.core.wire import Card
from understudy.resample import SoxrResampler

Pcm = NDArray[np.int16]
HZ = 24_000
FADE = round(FADE_S * HZ)
GARBAGE = 31_313  # what a model says before it has heard anything


def pcm(*samples: int) -> bytes:
    return np.array(samples, "<i2").tobytes()


def samples(pcm: bytes | bytearray) -> list[int]:
    return [int(sample) for sample in np.frombuffer(bytes(pcm), "<i2")]


def noise(count: int, seed: int = 0) -> Pcm:
    """No sample of it is silence."""
    found = np.random.default_rng(seed).integers(1, 20_000, count).astype("<i2")
    found[::2] *= -1
    return found


def same(x: Pcm) -> Pcm:
    return x


def constant(value: int) -> Callable[[Pcm], Pcm]:
    return lambda x: np.full_like(x, value)


class Performer:
    """A worker by hand: says `voice` of its input, late by its card's latency, in whole frames of
    its own grid, and as late as who calls `speak` likes."""

    def __init__(self, card: Card, position: int, voice: Callable[[Pcm], Pcm] = same) -> None:
        self.card, self.voice, self.end = card, voice, position
        self.waiting = np.empty(0, "<i2")
        self.withheld = np.full(card.latency, GARBAGE, "<i2")  # the model's lookahead
        self.said: deque[tuple[int, bytes]] = deque()

    def hear(self, position: int, pcm: bytes) -> None:
        assert position == self.end
        self.end += len(pcm) // 2
        self.waiting = np.concatenate([self.waiting, np.frombuffer(pcm, "<i2")])
        while len(self.waiting) >= self.card.frame:
            frame, self.waiting = np.split(self.waiting, [self.card.frame])
            at = self.end - len(self.waiting) - self.card.frame - self.card.latency
            ready = np.concatenate([self.withheld, self.voice(frame)])
            out, self.withheld = np.split(ready, [self.card.frame])
            early = max(0, -at)
            if early < len(out):
                self.said.append((at + early, out[early:].tobytes()))


class Stage:
    """One session's lock and its performers, as an edge holds them."""

    def __init__(self, x: Pcm, lock: SampleLock, card: Card, voice: Callable[[Pcm], Pcm]) -> None:
        self.x, self.lock, self.fed = x, lock, 0
        self.old: Performer | None = Performer(card, 0, voice)
        self.new: Performer | None = None
        self.heard = b""
        self.latency = lock.latency

    def feed(self, count: int, now: float = 0.0) -> None:
        said, self.fed = self.x[self.fed : self.fed + count], self.fed + count
        self.give(*self.lock.feed(said.tobytes(), now))

    def give(self, position: int, pcm: bytes) -> None:
        for performer in (self.old, self.new):
            if performer is not None and pcm:
                performer.hear(position, pcm)
        self.take()

    def take(self) -> None:
        self.heard += self.lock.take()
        assert self.lock.latency == self.latency
        assert len(self.heard) // 2 == self.lock.sent <= max(0, self.lock.received)

    def meet(self, card: Card, voice: Callable[[Pcm], Pcm] = same) -> None:
        self.lock.meet()
        position, context = self.lock.context(card)
        assert position % card.alignment == 0
        self.new = Performer(card, position, voice)
        if context:
            self.new.hear(position, context)

    def speak(self, old: int = 10**6, new: int = 10**6, now: float = 0.0) -> None:
        """So many of the answers that either has ready arrive, in turns."""
        while self._say(old > 0, False, now) | self._say(new > 0, True, now):
            old, new = old - 1, new - 1
        self.take()

    def _say(self, any_more: bool, comes: bool, now: float) -> bool:
        performer = self.new if comes else self.old
        if not any_more or performer is None or not performer.said:
            return False
        position, pcm = performer.said.popleft()
        if comes:
            self.lock.join(position, pcm, performer.card, 0.0, now)
        else:
            self.lock.answer(position, pcm, 0.0, now)
        if self.new is not None and not self.lock.crossing:
            self.old, self.new = self.new, None
        return True

    def leave(self) -> None:
        self.lock.leave(0.0)
        self.old, self.new = self.new, None
        self.take()

    def part(self) -> None:
        self.lock.part(0.0)
        self.new = None
        self.take()

    def finish(self) -> Pcm:
        """The last samples, and all that was heard."""
        if self.new is not None:
            self.part()
        self.speak()
        self.give(*self.lock.finish(0.0))
        self.speak()
        assert self.lock.done
        return np.frombuffer(self.heard, "<i2")


cards = st.builds(
    Card,
    st.just(HZ),
    frame=st.sampled_from([1, 7, 240, 441, 700]),
    latency=st.sampled_from([0, 33, 960, 1500]),
    context_s=st.sampled_from([0.0, 0.01, 0.1]),
    slots=st.just(4),
    alignment=st.sampled_from([1, 64, 240]),
)
chunks = st.lists(st.integers(1, 2000), max_size=20)
lags = st.integers(0, 4)


def stage_of(x: Pcm, one: Card, two: Card, voice: Callable[[Pcm], Pcm] = same) -> Stage:
    return Stage(x, SampleLock(HZ, SoxrResampler, one, two), one, voice)


# --- Pieces ---


def test_a_run_fills_holes_with_silence_and_takes_nothing_twice() -> None:
    run = Run(10)
    run.put(10, pcm(1, 2, 3))
    run.put(11, pcm(9, 9, 4))
    run.put(15, pcm(6))
    run.put(11, pcm(9))
    assert (run.start, run.end, samples(run.pcm)) == (10, 16, [1, 2, 3, 4, 0, 6])
    assert samples(run.take(2)) == [1, 2]
    run.trim(11)
    run.trim(13)
    assert (run.start, samples(run.pcm)) == (13, [4, 0, 6])
    run.trim(20)
    assert (run.start, run.end, samples(run.pcm)) == (20, 20, [])


def test_a_run_without_a_start_begins_where_it_is_first_put() -> None:
    run = Run()
    run.put(7, pcm(1))
    assert (run.start, run.end) == (7, 8)


def test_a_fade_begins_once_the_newcomer_is_in_step_and_where_the_last_one_was_heard() -> None:
    crossing = Crossing(HZ)
    crossing.join(0, pcm(*range(100)), sent=200, unanswered=5000)
    assert not crossing.begun
    crossing.join(100, pcm(*range(50)), sent=200, unanswered=10)
    crossing.join(300, pcm(1), sent=200, unanswered=0)
    assert crossing.begun
    assert (crossing.old.start, crossing.new.start, crossing.new.end) == (200, 200, 301)


def test_a_newcomer_that_begins_later_is_waited_for() -> None:
    crossing = Crossing(HZ)
    crossing.join(500, pcm(1, 2, 3), sent=200, unanswered=0)
    assert not crossing.begun
    crossing.join(503, pcm(4), sent=501, unanswered=0)
    assert crossing.begun
    assert samples(crossing.new.pcm) == [2, 3, 4]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=30), st.integers(8, 48))
def test_a_fade_is_the_same_however_it_arrives(puts: list[tuple[bool, int]], khz: int) -> None:
    fade = round(FADE_S * khz * 1000)
    crossing = Crossing(khz * 1000)
    crossing.join(0, b"", sent=0, unanswered=0)
    out = b""
    for of_old, count in [*puts, (True, fade), (False, fade + 9)]:
        run, value = (crossing.old, 1000) if of_old else (crossing.new, -3000)
        run.put(run.end, pcm(*[value] * count))
        out += crossing.take()
    mixed = np.array(samples(out))
    assert crossing.over
    assert len(mixed) == crossing.new.start
    step = math.pi / (fade + 1)
    weights = 0.5 - 0.5 * np.cos(step * np.arange(1, fade + 1))
    assert np.abs(mixed[:fade] - (1000 - 4000 * weights)).max() <= 0.5
    assert (mixed[fade:] == -3000).all()


# --- Through the lock ---


@settings(max_examples=60, deadline=None)
@given(chunks, chunks, chunks, cards, cards, lags, lags)
def test_a_move_between_two_that_say_the_same_leaves_no_trace(
    before: list[int],
    between: list[int],
    after: list[int],
    one: Card,
    two: Card,
    old_lag: int,
    new_lag: int,
) -> None:
    """From the first to the second and back, each as late as it likes."""
    settled = [600] * 8  # 200 ms: enough to come into step, and to fade
    x = noise(sum(before + between + after) + 2 * sum(settled))
    stage = stage_of(x, one, two)
    for count in before:
        stage.feed(count)
        stage.speak()
    for card, moved in ((two, between), (one, after)):
        stage.meet(card)
        for count in moved:
            stage.feed(count)
            old, new = stage.old, stage.new
            stage.speak(
                max(0, len(old.said) - old_lag) if old else 0,
                max(0, len(new.said) - new_lag) if new else 0,
            )
        for count in settled:
            stage.feed(count)
            stage.speak()
            assert stage.lock.sent == max(0, stage.lock.received - stage.lock.latency)
        assert not stage.lock.crossing
        assert stage.old is not None
        assert stage.old.card is card
    assert np.array_equal(stage.finish(), x)
    assert stage.lock.silent_s == 0
    assert stage.lock.latency == max(card.latency + card.frame - 1 for card in (one, two))


@settings(max_examples=100, deadline=None)
@given(chunks, chunks, cards, cards, st.tuples(st.integers(-9999, 9999), st.integers(-9999, 9999)))
def test_one_voice_fades_into_another_once_and_in_ten_milliseconds(
    before: list[int], after: list[int], one: Card, two: Card, values: tuple[int, int]
) -> None:
    a, b = values
    x = noise(sum(before + after) + 4800)
    stage = stage_of(x, one, two, constant(a))
    for count in before:
        stage.feed(count)
        stage.speak()
    stage.meet(two, constant(b))
    began = stage.lock.sent
    for count in [*after, *[600] * 8]:
        stage.feed(count)
        stage.speak()
    y = samples(stage.finish().tobytes())
    assert len(y) == len(x)
    step = math.pi / (FADE + 1)
    weights = [0.5 - 0.5 * math.cos(step * (k + 1)) for k in range(FADE)]
    fade = [round(a + (b - a) * weight) for weight in weights]
    assert fade == sorted(fade, reverse=a > b)
    if a == b:
        assert set(y) == {a}
    else:
        start = next(k for k, sample in enumerate(y) if sample != a)
        start -= next(k for k, sample in enumerate([*fade, b]) if sample != a)
        assert start >= began
        assert y == [a] * start + fade + [b] * (len(y) - start - FADE)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000, 12_347]),
    st.floats(0.001, 0.1),
    st.floats(0.0, 0.4),
)
def test_a_move_leaves_no_trace_at_other_rates(rate: int, chunk_s: float, at_s: float) -> None:
    one, two = Card(HZ, 240, 500, 0.1, 4), Card(HZ, 441, 33, 0.1, 4)
    t = np.arange(rate) / rate
    x = (8000 * np.sin(2 * np.pi * 440 * t)).astype("<i2")
    heard = []
    for moves in (False, True):
        stage = Stage(x, SampleLock(rate, SoxrResampler, one, two), one, same)
        while stage.fed < len(x):
            if moves and stage.fed >= at_s * rate and not stage.lock.crossing:
                moves = False
                stage.meet(two)
            stage.feed(max(1, round(chunk_s * rate)))
            stage.speak()
        assert not stage.lock.crossing
        heard.append(stage.finish().astype(int))
    assert len(heard[0]) == len(heard[1]) == len(x)
    assert np.abs(heard[0] - heard[1]).max() <= 1  # the resampler's chunks differ


ONE, TWO = Card(HZ, 60, 960, 0.1, 4), Card(HZ, 240, 240, 0.1, 4)


def amid_a_fade(new_voice: Callable[[Pcm], Pcm] = same) -> Stage:
    """Both have been heard: the fade is half done, and the old one has not said more."""
    stage = stage_of(noise(HZ), ONE, TWO, same if new_voice is same else constant(1000))
    for _ in range(20):
        stage.feed(240)
        stage.speak()
    stage.meet(TWO, new_voice)
    stage.speak(old=0)
    stage.feed(240)
    stage.speak(old=2)
    assert stage.lock.crossing
    assert stage.old is not None
    assert stage.old.said
    return stage


def test_who_is_left_amid_a_fade_says_the_rest() -> None:
    stage = amid_a_fade()
    assert stage.lock.newcomer_is_ahead
    stage.leave()
    for _ in range(20):
        stage.feed(240)
        stage.speak()
    assert np.array_equal(stage.finish(), stage.x[: stage.fed])
    assert stage.lock.silent_s == 0


def test_who_is_left_amid_a_fade_is_heard_from_there_on() -> None:
    stage = amid_a_fade(constant(-1000))
    faded = len(stage.heard) // 2
    stage.leave()
    y = np.frombuffer(stage.heard, "<i2")
    assert set(y[faded:]) <= {-1000}
    assert set(stage.finish()[faded:]) == {-1000}


def test_a_newcomer_that_dies_amid_a_fade_leaves_the_old_one_to_go_on() -> None:
    stage = amid_a_fade()
    stage.part()
    for _ in range(20):
        stage.feed(240)
        stage.speak()
    assert np.array_equal(stage.finish(), stage.x[: stage.fed])
    stage = amid_a_fade(constant(-1000))
    faded = len(stage.heard) // 2
    stage.part()
    assert set(stage.finish()[faded:]) <= {1000}


def test_a_newcomer_that_never_speaks_changes_nothing() -> None:
    stage = stage_of(noise(9600), ONE, TWO)
    stage.meet(TWO)
    for _ in range(20):
        stage.feed(240)
        stage.speak(new=0)
        assert stage.lock.sent == max(0, stage.lock.received - stage.lock.latency)
    assert not stage.lock.newcomer_is_ahead
    stage.part()
    assert np.array_equal(stage.finish(), stage.x[: stage.fed])


def test_a_performer_that_falls_silent_amid_a_fade_is_left() -> None:
    stage = amid_a_fade()
    for k in range(60):  # 0.6 s in which only the newcomer speaks
        now = k * 0.01
        stage.feed(240, now)
        stage.speak(old=0, now=now)
        if stage.new is not None and stage.lock.is_overdue(now):
            assert stage.lock.newcomer_is_ahead
            stage.leave()
        assert stage.lock.give_up(now) is None
    assert stage.new is None
    assert np.array_equal(stage.finish(), stage.x[: stage.fed])


@settings(max_examples=200, deadline=None)
@given(
    cards,
    cards,
    st.lists(
        st.one_of(
            st.tuples(st.just("feed"), st.integers(1, 1500)),
            st.tuples(st.just("old"), st.integers(1, 40)),
            st.tuples(st.just("new"), st.integers(1, 40)),
            st.tuples(st.sampled_from(["all", "meet", "leave", "part", "late"]), st.just(0)),
        ),
        max_size=60,
    ),
)
def test_whatever_happens_each_sample_is_the_voices_or_silence_in_its_place(
    one: Card, two: Card, events: list[tuple[str, int]]
) -> None:
    x = noise(sum(count for what, count in events if what == "feed"))
    stage = stage_of(x, one, two)
    now, performs = 0.0, one
    for what, count in events:
        match what:
            case "feed":
                stage.feed(count, now)
            case "old":
                stage.speak(count, 0, now)
            case "new":
                stage.speak(0, count, now)
            case "all":
                stage.speak(now=now)
            case "meet" if stage.new is None:
                assert stage.old is not None
                performs = stage.old.card
                stage.meet(two if performs is one else one)
            case "leave" if stage.new is not None:
                stage.leave()
            case "part" if stage.new is not None:
                stage.part()
            case "late":  # as an edge's tick has it
                now += OVERDUE_S + 0.05
                if stage.new is not None and stage.lock.is_overdue(now):
                    stage.leave() if stage.lock.newcomer_is_ahead else stage.part()
                stage.lock.give_up(now)
                stage.take()
    y = stage.finish()
    assert len(y) == len(x)
    silent = y == 0
    assert np.array_equal(y[~silent], x[~silent])
    assert stage.lock.silent_s == pytest.approx(silent.sum() / HZ)
    assert stage.lock.heard == len(y) - silent.sum()
    if not any(what in ("leave", "late") for what, _ in events):
        assert not silent.any()
