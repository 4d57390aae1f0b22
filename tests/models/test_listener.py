"""The listener: what it says, where, and the same whoever is beside it and after a move."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.speech import speech
from understudy.core.errors import ConfigError
from understudy.core.wire import Heard
from understudy.lab.frontend import Floats
from understudy.models.deciding import Changes, Decided, Moments
from understudy.models.listener import SHIPPED, Listener, find
from understudy.worker.slots import Slots, card_of

HZ = 16_000
NUMBERS = {"threshold": 0.5, "hold": 200.0}
KEYWORDS = {"threshold": 0.7, "pause": 700.0}


def loaded(slots: int = 1) -> Listener:
    model = Listener(slots=slots)
    model.load("cpu")
    return model


def listen(
    model: Listener, lines: dict[int, NDArray[np.int16]], chunk: int = 320, start: int = 0
) -> dict[int, list[Heard]]:
    slots = Slots(model)
    heard: dict[int, list[Heard]] = {slot: [] for slot in lines}
    for slot in lines:
        slots.open(slot, start, {})
    for at in range(0, max(map(len, lines.values())), chunk):
        for slot, line in lines.items():
            slots.feed(slot, start + at, line[at : at + chunk].tobytes())
        while slots.due:
            for output in slots.step():
                at_in_line = output.position - start
                said = lines[output.slot][at_in_line : at_in_line + len(output.pcm) // 2]
                assert output.pcm == said.tobytes()  # its audio is its input
            for one in slots.heard:
                heard[one.slot].append(one)
    return heard


@pytest.fixture(scope="module")
def line() -> NDArray[np.int16]:
    """A second of faint noise, four of speech, two of noise, four of speech."""
    said = speech(HZ, 8.0)
    chance = np.random.default_rng(3)
    noise = [chance.normal(0, 20, n * HZ).astype(np.int16) for n in (1, 2)]
    return np.concatenate([noise[0], said[: 4 * HZ], noise[1], said[4 * HZ :]])


def test_the_shipped_listener_hears_where_somebody_speaks(line: NDArray[np.int16]) -> None:
    model = loaded()
    card = card_of(model)
    assert (card.kind, card.labels) == ("listen", ("silence", "speech"))
    (heard,) = listen(model, {0: line}).values()
    assert {one.label for one in heard} == {"silence", "speech"}
    assert all(one.lasts and 0.0 <= one.score <= 1.0 for one in heard)
    assert all(a.at < b.at and a.label != b.label for a, b in itertools.pairwise(heard))
    now, speaks = "silence", np.zeros(len(line), np.bool_)
    for one, after in itertools.zip_longest(heard, heard[1:]):
        now = one.label
        speaks[one.start : after.start if after else None] = now == "speech"
    power = np.convolve(line.astype(np.float64) ** 2, np.ones(HZ // 10) / (HZ // 10), "same")
    assert speaks[power > 1e-2 * power.max()].mean() > 0.8
    assert speaks[power < 1e-4 * power.max()].mean() < 0.05
    assert not speaks[HZ // 4 : HZ * 3 // 4].any()  # the first pause
    assert not speaks[5 * HZ + HZ // 2 : 6 * HZ + HZ // 2].any()  # the second


@pytest.mark.parametrize("chunk", [160, 481, 4000, 16_000])
def test_how_it_is_cut_and_who_is_beside_it_makes_no_difference(
    line: NDArray[np.int16], chunk: int
) -> None:
    alone = listen(loaded(), {0: line})[0]
    lines = {0: np.roll(line, HZ), 2: line, 3: line[: 5 * HZ]}
    beside = listen(loaded(4), lines, chunk)
    assert [(one.label, one.start, one.at) for one in beside[2]] == [
        (one.label, one.start, one.at) for one in alone if one.at <= len(line) // 160 * 160
    ]


@pytest.mark.parametrize("cut_s", [1.0, 1.5, 2.3, 4.0])
def test_a_primed_slot_says_what_one_that_stayed_says(
    line: NDArray[np.int16], cut_s: float
) -> None:
    model = loaded(2)
    stayed = listen(model, {0: line})[0]
    cut = round(cut_s * HZ) // 160 * 160
    moved = listen(model, {1: line[cut:]}, start=cut)[1]
    takes_over = cut + round(model.context_s * HZ)
    assert [(one.label, one.at) for one in moved if one.at > takes_over] == [
        (one.label, one.at) for one in stayed if one.at > takes_over
    ]


def test_its_numbers_are_controls(line: NDArray[np.int16]) -> None:
    model = loaded()
    model.open(0, {"threshold": 0.95, "hold": 1000.0})
    with pytest.raises(ValueError, match="threshold, hold"):
        model.set_params(0, {"pitch": 1.0})
    slots, few = Slots(model), []
    slots.open(0, 0, {"hold": 1000.0})
    slots.feed(0, 0, line.tobytes())
    while slots.due:
        slots.step()
        few += slots.heard
    assert len(few) < len(listen(model, {0: line})[0])


def test_the_file_that_ships_is_small_and_says_who_made_its_data() -> None:
    assert SHIPPED.stat().st_size < 200_000


def test_a_file_that_is_no_listener_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigError, match="no ONNX file"):
        Listener(path=str(tmp_path / "odd.onnx"))
    with pytest.raises(ConfigError, match=r"beside voice\.toml"):
        find("nowhere.onnx")
    with pytest.raises(ConfigError, match="background"):
        Listener(background=[])


# the decisions, on scores made by hand


def curve(*parts: tuple[int, float]) -> Floats:
    """(frames, score of the foreground) -> [frames, 2]."""
    high = np.concatenate([np.full(frames, score, np.float32) for frames, score in parts])
    return np.stack([1 - high, high], axis=1)


def changes() -> Changes:
    return Changes([1], 0, 10.0)


def test_a_change_is_told_where_it_began() -> None:
    scores = curve((100, 0.05), (60, 0.9), (10, 0.1), (40, 0.9), (80, 0.1))
    silence, begins, ends = changes().hear(scores, NUMBERS)
    assert (silence.label, silence.start) == (0, 0)
    assert (begins.label, ends.label) == (1, 0)
    assert 97 <= begins.start <= 100 < begins.at <= 103
    # The gap of 0.1 s is shorter than `hold`; the end is told 0.2 s after it.
    assert 210 <= ends.start <= 213
    assert ends.at - ends.start == 20


def test_scores_near_the_threshold_do_not_flicker() -> None:
    rows = curve(*[(2, 0.45 + 0.1 * (n % 2)) for n in range(200)])
    assert len(changes().hear(rows, NUMBERS)) <= 1


def primed(scores: Floats, cut: int) -> Iterator[tuple[list[Decided], list[Decided]]]:
    for make, numbers in ((changes, NUMBERS), (moments, KEYWORDS)):
        stayed, moved = make().hear(scores, numbers), make().hear(scores[cut:], numbers)
        yield (
            [one for one in stayed if one.at > cut + 250],
            [one._replace(start=one.start + cut, at=one.at + cut) for one in moved],
        )


def moments() -> Moments:
    return Moments([1], 50, 10.0)


@pytest.mark.parametrize("cut", range(0, 300, 23))
def test_what_went_before_does_not_count(cut: int) -> None:
    chance = np.random.default_rng(cut)
    parts = [(int(chance.integers(5, 60)), float(chance.choice([0.05, 0.95]))) for _ in range(40)]
    for stayed, moved in primed(curve(*parts), cut):
        late = [one for one in moved if one.at > cut + 250]
        assert [(one.label, one.at) for one in late] == [(one.label, one.at) for one in stayed]


def test_a_word_is_told_once() -> None:
    scores = curve((100, 0.02), (80, 0.95), (100, 0.02), (15, 0.9), (2, 0.6), (90, 0.95), (50, 0.0))
    heard = moments().hear(scores, KEYWORDS)
    assert [one.label for one in heard] == [1, 1]
    first, second = heard
    assert 101 <= first.at <= 105
    assert first.start == first.at - 50
    assert 281 <= second.at <= 285


def test_two_words_need_a_pause_between() -> None:
    scores = np.full((300, 3), 0.02, np.float32)
    scores[100:140, 1] = scores[150:190, 2] = scores[260:290, 2] = 0.94
    decided = Moments([1, 2], 50, 10.0).hear(scores, KEYWORDS)
    assert [one.label for one in decided] == [1, 2, 2]
    assert decided[1].at - decided[0].at >= 70
