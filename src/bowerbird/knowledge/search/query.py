"""Searching a snapshot: by vectors, by words, or by both fused. Knows rows and an encoder, no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data.columns import clean
from bowerbird.knowledge.search import dense, fusion
from bowerbird.knowledge.search.protocol import Searchable

if TYPE_CHECKING:
    from PIL import Image

Found = tuple[np.ndarray, np.ndarray]


def by_words(snapshot: Searchable, texts: Sequence[str], k: int, allowed: Any) -> Found:
    """`(rows, scores)`, each `(Q, k)`, by BM25."""
    pairs = [snapshot.words(text, k, allowed) for text in texts]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


def by_text(
    snapshot: Searchable,
    encoder: Encoder | None,
    texts: Sequence[str],
    k: int,
    *,
    mode: str,
    normalize: bool,
    allowed: Any,
    exact: bool,
    alpha: float | None = None,
) -> Found:
    """`(rows, scores)`, each `(Q, k)`, of texts: `dense`, `bm25`, or `hybrid`, which fuses both rankings, the dense
    one led by the words.

    `alpha`: None fuses by ranks; a share from 0 to 1 weighs scores, that much the dense ones.
    """
    if mode == "bm25" or encoder is None:
        return by_words(snapshot, texts, k, allowed)
    vectors = encoder.embed_text(texts)
    if mode == "dense":
        return snapshot.dense(dense.prepare(vectors, normalize), k, allowed, exact=exact)
    depth = min(len(snapshot), max(50, 2 * k))
    words = by_words(snapshot, texts, depth, allowed)
    looks = snapshot.dense(dense.prepare(_feedback(snapshot, vectors, *words), normalize), depth, allowed, exact=exact)
    if alpha is None:
        fused = [fusion.reciprocal_rank_fusion([words[0][q], looks[0][q]], k) for q in range(len(texts))]
    else:
        pairs = [[(found[0][q], found[1][q]) for found in (words, looks)] for q in range(len(texts))]
        fused = [fusion.weighted_fusion(pair, (1 - alpha, alpha), k) for pair in pairs]
    return np.stack([f[0] for f in fused]), np.stack([f[1] for f in fused])


def _feedback(snapshot: Searchable, vectors: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Text embeddings moved to the pictures whose words matched best (pseudo-relevance feedback).

    A small encoder does not know a new name, but the pictures that carry it show what to look for. Without any match
    in words the text embedding stays as it is.
    """
    moved = dense.prepare(vectors, True)
    for q in range(len(moved)):
        best = [
            int(r) for r, s in zip(rows[q, :4], scores[q, :4], strict=True) if r != ABSENT and s >= 0.7 * scores[q, 0]
        ]
        if best:
            moved[q] = 0.5 * moved[q] + dense.prepare(snapshot.embeddings(np.asarray(best)), True).mean(0)
    return moved


def mix_queries(encoder: Encoder, parts: Sequence[tuple[str | Image.Image | np.ndarray, float]]) -> np.ndarray:
    """One query out of several with weights, negative ones to keep away from: the sum of their unit vectors, `(1, d)`.

    Raises: BowerbirdError when they cancel, or there are none.
    """
    total = np.zeros((1, encoder.dim), np.float32)
    for what, weight in parts:
        if isinstance(what, str):
            if not what.strip():
                raise BowerbirdError("search: a text of the query_mix is empty; say what to look for")
            vector = encoder.embed_text([clean(what)])
        else:
            vector = (
                np.asarray(what, np.float32).reshape(1, -1)
                if isinstance(what, np.ndarray)
                else encoder.embed_images([what])
            )
        if vector.shape[1] != encoder.dim:
            raise MismatchError(
                f"a vector of dimension {vector.shape[1]} in a query_mix; encoder {encoder.name!r} has {encoder.dim}"
            )
        total += weight * dense.prepare(vector, True)
    if np.linalg.norm(total) < 1e-6:
        raise BowerbirdError("the queries of this query_mix cancel each other; give other weights")
    return total


def various(snapshot: Searchable, found: Found, k: int, diversity: float) -> Found:
    """The k of each query's results that are good and unlike each other."""
    rows, scores = np.full((len(found[0]), k), ABSENT, np.int64), np.full((len(found[0]), k), -np.inf, np.float32)
    for q in range(len(rows)):
        there = np.flatnonzero(found[0][q] != ABSENT)
        if len(there):
            unit = dense.prepare(snapshot.embeddings(found[0][q, there]), True)
            picked = there[fusion.most_various(unit, found[1][q, there], k, diversity)]
            rows[q, : len(picked)], scores[q, : len(picked)] = found[0][q, picked], found[1][q, picked]
    return rows, scores


def without(found: Found, own: np.ndarray, k: int) -> Found:
    """Each query's results without its own row, cut or padded to k."""
    rows, scores = np.full((len(own), k), ABSENT, np.int64), np.full((len(own), k), -np.inf, np.float32)
    for q in range(len(own)):
        keep = np.flatnonzero(found[0][q] != own[q])[:k]
        rows[q, : len(keep)], scores[q, : len(keep)] = found[0][q, keep], found[1][q, keep]
    return rows, scores
