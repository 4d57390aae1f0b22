"""One data set and one training for all of the lab's tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import recordings

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, so that equal runs give equal weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings.make(tmp_path_factory.mktemp("words"))


@dataclass(frozen=True, slots=True)
class Trained:
    data: Path
    out: Path
    figures: dict[str, Any]
    warnings: list[str]


@pytest.fixture(scope="session")
def trained(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A small `stream` net that knows the three words, validated with a speaker of its own."""
    from understudy.lab import training
    from understudy.lab.listen import Recipe
    from understudy.lab.loop import Plan

    out = tmp_path_factory.mktemp("trained") / "model"
    noise = tmp_path_factory.mktemp("noise")
    for number in range(4):
        import numpy as np

        chance = np.random.default_rng(number)
        made = 0.1 * chance.standard_normal(2 * recordings.RATE_HZ)
        recordings.write(noise / f"{number}.wav", np.asarray(made, np.float32))
    warnings: list[str] = []
    course = training.Course(
        words,
        out,
        validate=("dan",),
        noise=noise,
        recipe=Recipe(width=16, batch=12, negatives=0.25),
        plan=Plan(epochs=25, seed=1),
    )
    torch.set_num_threads(1)
    figures = training.train(course, training.Said(warn=warnings.append))
    return Trained(words, out, figures, warnings)
