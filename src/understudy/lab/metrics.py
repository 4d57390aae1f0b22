"""The figures of a trained model, out of its scores: accuracy, EER, ROC-AUC, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Scores = NDArray[np.float32]
Numbers = NDArray[np.float64]


def softmax(scores: Scores) -> Numbers:
    """Over the last axis."""
    shifted = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def accuracy(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else 0.0


def by_group(right: NDArray[np.bool_], groups: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """The accuracy of each group (None is left out), with how many clips it is of."""
    names = sorted({group for group in groups if group is not None})
    which = np.array([group or "" for group in groups])
    return {
        name: {"accuracy": accuracy(right[which == name]), "clips": int((which == name).sum())}
        for name in names
    }


def confusion(truth: NDArray[np.int64], said: NDArray[np.int64], labels: int) -> NDArray[np.int64]:
    """[truth, said] counts; a truth of -1 (a label the model does not know) is left out."""
    out = np.zeros((labels, labels), np.int64)
    known = truth >= 0
    np.add.at(out, (truth[known], said[known]), 1)
    return out


def roc_auc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative (ties count half); nan without both.

    The Mann-Whitney statistic (T. Fawcett, "An introduction to ROC analysis", 2006).
    """
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return float("nan")
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - many * (many + 1) / 2) / (many * few))


def equal_error(scores: NDArray[Any], same: NDArray[np.bool_]) -> tuple[float, float]:
    """(equal error rate, threshold): where as many impostors pass as owners are refused.

    Between two thresholds the rates are taken as linear. nan, nan without both kinds of pair.
    """
    owners, others = int(same.sum()), int((~same).sum())
    if not owners or not others:
        return float("nan"), float("nan")
    order = np.argsort(scores, kind="stable")
    hits = same[order]
    steps = np.append(np.flatnonzero(np.diff(scores[order])) + 1, len(order))
    refused = np.append(0, np.cumsum(hits)[steps - 1]) / owners  # below each threshold
    passed = 1 - np.append(0, np.cumsum(~hits)[steps - 1]) / others
    at = int(np.argmax(refused >= passed))
    if at == 0:
        return float((refused[0] + passed[0]) / 2), float(scores[order[0]])
    before, after = passed[at - 1] - refused[at - 1], refused[at] - passed[at]
    share = before / (before + after) if before + after else 0.0
    rate = refused[at - 1] + share * (refused[at] - refused[at - 1])
    return float(rate), float(scores[order[min(steps[at - 1], len(order) - 1)]])


def pairs(vectors: Scores, speakers: Sequence[str]) -> tuple[Numbers, NDArray[np.bool_]]:
    """(cosine, same speaker) of every pair of clips, for vectors of length 1."""
    who = np.array(speakers)
    one, other = np.triu_indices(len(vectors), 1)
    cosine = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    return np.asarray(cosine[one, other]), np.asarray(who[one] == who[other])


def voiceprint(vectors: Scores) -> Scores:
    """One vector of length 1 for several clips of a speaker: [clips, n] -> [n]."""
    mean = vectors.mean(axis=0)
    return np.asarray(mean / max(1e-9, float(np.linalg.norm(mean))), np.float32)


def enrolled_pairs(
    vectors: Scores, speakers: Sequence[str], clips: int
) -> tuple[Numbers, NDArray[np.bool_]]:
    """(cosine, same speaker) of each further clip with each speaker's voiceprint of `clips`."""
    who = np.array(speakers)
    names = [name for name in sorted(set(speakers)) if (who == name).sum() > clips]
    if not names:
        return np.zeros(0), np.zeros(0, bool)
    rows = {name: np.flatnonzero(who == name) for name in names}
    prints = np.stack([voiceprint(vectors[rows[name][:clips]]) for name in names])
    rest = np.concatenate([rows[name][clips:] for name in names])
    cosine = vectors[rest].astype(np.float64) @ prints.T.astype(np.float64)
    return cosine.ravel(), (who[rest][:, None] == np.array(names)[None]).ravel()
