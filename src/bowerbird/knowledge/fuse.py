"""Reciprocal rank fusion: one ranking out of several, by ranks alone, so scores need no common scale.

Source: Cormack, Clarke, Buettcher, SIGIR 2009 (constant 60).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bowerbird.types import ABSENT


def reciprocal_rank_fusion(rankings: Sequence[np.ndarray], k: int, constant: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(ids, scores)` of several id lists (best first, -1 ignored); ties go to the list named first. -1 pads."""
    totals: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking.tolist()):
            if item != ABSENT:
                totals[item] = totals.get(item, 0.0) + 1.0 / (constant + rank + 1)
    best = sorted(totals.items(), key=lambda entry: -entry[1])[:k]
    ids, scores = np.full(k, ABSENT, np.int64), np.full(k, -np.inf, np.float32)
    ids[: len(best)] = [item for item, _ in best]
    scores[: len(best)] = [score for _, score in best]
    return ids, scores
