from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.lab import metrics


def test_roc_auc_counts_pairs() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    assert metrics.roc_auc(scores, np.array([False, False, True, True])) == pytest.approx(0.75)
    assert np.isnan(metrics.roc_auc(scores, np.ones(4, bool)))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_roc_auc_is_the_chance_of_a_right_order(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], float)
    positive = np.array([kind for _, kind in pairs])
    if positive.all() or not positive.any():
        return
    high, low = scores[positive][:, None], scores[~positive][None]
    told = float(((high > low) + 0.5 * (high == low)).mean())
    assert metrics.roc_auc(scores, positive) == pytest.approx(told)


def test_equal_error_of_what_is_apart_and_of_chance() -> None:
    chance = np.random.default_rng(0)
    same = np.arange(4000) % 2 == 0
    apart, _ = metrics.equal_error(np.where(same, 1.0, -1.0), same)
    assert apart == 0.0
    rate, _ = metrics.equal_error(chance.standard_normal(4000), same)
    assert rate == pytest.approx(0.5, abs=0.03)


def test_equal_error_of_two_gaussians() -> None:
    """Two unit normals 2 apart cross at one deviation: 15.87 %."""
    chance = np.random.default_rng(0)
    same = np.arange(40000) % 2 == 0
    rate, threshold = metrics.equal_error(chance.standard_normal(40000) + 2 * same, same)
    assert rate == pytest.approx(0.1587, abs=0.006)
    assert threshold == pytest.approx(1.0, abs=0.06)


def test_ties_do_not_fool_the_equal_error() -> None:
    same = np.array([True, False] * 50)
    assert metrics.equal_error(np.zeros(100), same)[0] == pytest.approx(0.5)


def test_voiceprints_are_closer_than_single_clips() -> None:
    chance = np.random.default_rng(0)
    middles = chance.standard_normal((6, 16))
    speakers = [name for name in "abcdef" for _ in range(12)]
    rows = middles.repeat(12, axis=0) + 1.5 * chance.standard_normal((72, 16))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    single, _ = metrics.equal_error(*metrics.pairs(vectors, speakers))
    enrolled, _ = metrics.equal_error(*metrics.enrolled_pairs(vectors, speakers, 5))
    assert enrolled < single


def test_confusion_counts_what_was_said_by_row() -> None:
    counts = metrics.confusion(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 0]), 2)
    assert counts.tolist() == [[1, 1], [0, 1]]
