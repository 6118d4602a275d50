"""Bulk nearest neighbors with a leak guard: the graph RDM trains on, and the proposal p_D that comes out of it.

Exact, by blocks of matrix products; knows vectors and keys, no pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT


def knn_graph(
    queries: np.ndarray,
    database: np.ndarray,
    k: int,
    *,
    query_ids: np.ndarray,
    database_ids: np.ndarray,
    max_similarity: float | None = None,
    within: tuple[Sequence[str], Sequence[str]] | None = None,
    exclude: tuple[Sequence[str], Sequence[str]] | None = None,
    block: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `database` nearest to each query: positions int64 `(n, k)` (-1 pads, last) and inner products float32
    `(n, k)`.

    Vectors are taken as they are (normalize first for cosine). The guard: an item is never its own neighbor (same
    id), nor is one whose similarity exceeds `max_similarity` (near-duplicates; None for no limit). `within` and
    `exclude` hold a metadata value for each query and each database row: only equal values may be neighbors, or no
    equal ones.
    Source: RDM, arXiv 2204.11824, section 3.1 (D disjoint from X).
    """
    if queries.shape[1] != database.shape[1]:
        raise BowerbirdError(
            f"the embedding dimension of the queries is {queries.shape[1]}, the database's {database.shape[1]}: they"
            " come from different encoders"
        )
    width = min(k, len(database))
    positions = np.full((len(queries), k), ABSENT, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    pairs = [_numbered(*pair) if pair else None for pair in (within, exclude)]
    for start in range(0, len(queries), block):
        rows = slice(start, min(start + block, len(queries)))
        similarity = queries[rows] @ database.T
        forbidden = query_ids[rows, None] == database_ids[None]
        if max_similarity is not None:
            forbidden |= similarity > max_similarity
        if pairs[0]:
            forbidden |= pairs[0][0][rows, None] != pairs[0][1][None]
        if pairs[1]:
            forbidden |= pairs[1][0][rows, None] == pairs[1][1][None]
        similarity[forbidden] = -np.inf
        nearest = np.argpartition(-similarity, width - 1, axis=1)[:, :width]
        found = np.take_along_axis(similarity, nearest, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        nearest, found = np.take_along_axis(nearest, order, 1), np.take_along_axis(found, order, 1)
        positions[rows, :width] = np.where(np.isneginf(found), ABSENT, nearest)
        scores[rows, :width] = found
    return positions, scores


def _numbered(*sides: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The values of both sides as whole numbers, which compare ten times as fast as texts."""
    numbers = np.unique(np.concatenate([np.asarray(side) for side in sides]), return_inverse=True)[1]
    return tuple(np.split(numbers.reshape(-1), np.cumsum([len(side) for side in sides])[:-1]))


def neighbor_counts(positions: np.ndarray, size: int, k: int) -> np.ndarray:
    """How often each of `size` database rows is among the first k neighbors: int64 `(size,)`, the numerator of p_D."""
    first = positions[:, :k]
    return np.bincount(first[first != ABSENT], minlength=size)


def proposal(counts: np.ndarray, top_m: float = 1.0) -> np.ndarray:
    """p_D over the database rows, float64 `(n,)` summing to 1, kept to the most frequent fraction `top_m` in (0, 1].

    Source: RDM, section 3.3: p_D(x) = |{x' in X : x in the k neighbors of x'}| / (k |X|).
    Raises: BowerbirdError when no row was ever a neighbor, or `top_m` is out of range.
    """
    if not 0 < top_m <= 1:
        raise BowerbirdError(f"top_m is the fraction of the database kept, above 0 and up to 1; got {top_m}")
    if counts.sum() == 0:
        raise BowerbirdError(
            "p_D needs neighbor counts and there are none for this database; count them with kb.proposal(k=...)"
        )
    keep = np.argsort(-counts, kind="stable")[: max(1, int(np.ceil(top_m * len(counts))))]
    weights = np.zeros(len(counts))
    weights[keep] = counts[keep]
    return weights / weights.sum()
