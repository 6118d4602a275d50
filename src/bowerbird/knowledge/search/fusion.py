"""One ranking out of several, and one ranking made more various.

Reciprocal rank fusion goes by ranks alone, so scores need no common scale (Cormack, Clarke, Buettcher, SIGIR 2009,
constant 60). Weighted fusion brings each ranking's scores to the scale of its own best and worst. Maximal marginal
relevance: Carbonell, Goldstein, SIGIR 1998.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bowerbird.core.types import ABSENT

COVERED, OPEN = 0.9, 0.5
"""Shares of a query's words that its best items have, from which on its embedding only orders what the words leave
equal, and up to which it counts as much as they do."""
LEAST = 0.02
"""What an embedding's ranks count then: too little to part two neighbors of the other ranking, enough to order equal
ones."""


def weight_beside_words(coverage: float) -> float:
    """What the ranks of a text's embedding count beside those of its words, of which the best items have the share
    `coverage`."""
    return LEAST + (1 - LEAST) * min(1.0, max(0.0, (COVERED - coverage) / (COVERED - OPEN)))


def shared_ranks(scores: np.ndarray) -> np.ndarray:
    """The ranks from 0 of scores `(n,)`, best first, equal ones the same."""
    first = np.concatenate([[True], scores[1:] != scores[:-1]])[: len(scores)]
    return np.maximum.accumulate(np.where(first, np.arange(len(scores)), 0))


def reciprocal_rank_fusion(
    rankings: Sequence[np.ndarray],
    k: int,
    constant: float = 60.0,
    *,
    weights: Sequence[float] | None = None,
    ranks: Sequence[np.ndarray | None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(ids, scores)` of several id lists (best first, -1 ignored), each with its weight (1) and the ranks
    of its ids (0, 1, …); ties go to the list named first. -1 pads."""
    totals: dict[int, float] = {}
    for number, ranking in enumerate(rankings):
        weight = 1.0 if weights is None else weights[number]
        own = None if ranks is None else ranks[number]
        for rank, item in zip(range(len(ranking)) if own is None else own.tolist(), ranking.tolist(), strict=True):
            if item != ABSENT:
                totals[item] = totals.get(item, 0.0) + weight / (constant + rank + 1)
    return _best(totals, k)


def weighted_fusion(
    rankings: Sequence[tuple[np.ndarray, np.ndarray]], weights: Sequence[float], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(ids, scores)` of several rankings `(ids, scores)`: the weighted sum of scores scaled to 0 (its
    worst) … 1 (its best) in each."""
    totals: dict[int, float] = {}
    for (ids, scores), weight in zip(rankings, weights, strict=True):
        there = ids != ABSENT
        if there.any():
            low, high = float(scores[there].min()), float(scores[there].max())
            for item, score in zip(ids[there].tolist(), scores[there].tolist(), strict=True):
                totals[item] = totals.get(item, 0.0) + weight * ((score - low) / (high - low) if high > low else 1.0)
    return _best(totals, k)


def _best(totals: dict[int, float], k: int) -> tuple[np.ndarray, np.ndarray]:
    best = sorted(totals.items(), key=lambda entry: -entry[1])[:k]
    ids, scores = np.full(k, ABSENT, np.int64), np.full(k, -np.inf, np.float32)
    ids[: len(best)] = [item for item, _ in best]
    scores[: len(best)] = [score for _, score in best]
    return ids, scores


def most_various(vectors: np.ndarray, scores: np.ndarray, k: int, diversity: float) -> list[int]:
    """The positions of k of n results, picked one by one: (1 - diversity) times its score, less diversity times its
    likeness to one picked before.

    `vectors`: unit vectors `(n, d)`; `scores` `(n,)`, best first, are scaled to 0 … 1. With diversity 0 it is the
    first k.
    """
    low, high = float(scores.min()), float(scores.max())
    relevant = (scores - low) / (high - low) if high > low else np.ones(len(scores))
    alike = np.zeros(len(scores))  # a first pick is like none
    picked: list[int] = []
    for _ in range(min(k, len(scores))):
        worth = (1 - diversity) * relevant - diversity * alike
        worth[picked] = -np.inf
        picked.append(int(worth.argmax()))
        alike = np.maximum(alike, vectors @ vectors[picked[-1]]) if len(picked) > 1 else vectors @ vectors[picked[-1]]
    return picked
