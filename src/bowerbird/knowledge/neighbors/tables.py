"""Every item's neighbors at once, as trainings want them: by words, by embeddings or by both, with the leak guard.

Words find the same thing drawn by someone else, embeddings find what looks alike. Source: Re-Imagen, arXiv 2209.14491,
section 4 (BM25 and CLIP).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT
from bowerbird.knowledge.neighbors import graph
from bowerbird.knowledge.search import bm25, fusion

MODES = ("bm25", "dense", "hybrid")


def caption_graph(
    captions: Sequence[str],
    tags: Sequence[str],
    k: int,
    *,
    ids: np.ndarray,
    exclude: Sequence[str] | None = None,
    forbidden: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Positions int64 `(n, k)` of the items whose captions and tags BM25 ranks highest for each caption; -1 pads, last.

    Never the item itself (an equal id); never one with its value of `exclude`; never one of its `forbidden` positions.
    """
    index = bm25.build(captions, tags)
    positions = np.arange(len(captions))
    groups = np.asarray(exclude) if exclude is not None else None
    table = np.full((len(captions), k), ABSENT, np.int64)
    answers: dict[tuple[str, str], np.ndarray] = {}
    for i, caption in enumerate(captions):
        query = (caption, str(groups[i]) if groups is not None else "")
        if query not in answers:  # many items share a caption, and then they share an answer
            allowed = None if groups is None else groups != groups[i]
            answers[query] = bm25.search(index, positions, caption, min(len(captions), k + 32), allowed)[0]
        barred = set(forbidden[i].tolist()) if forbidden is not None else set()
        found = [p for p in answers[query].tolist() if p != ABSENT and ids[p] != ids[i] and p not in barred][:k]
        table[i, : len(found)] = found
    return table


def neighbor_table(
    mode: str,
    captions: Sequence[str],
    tags: Sequence[str],
    k: int,
    *,
    ids: np.ndarray,
    embeddings: np.ndarray | None = None,
    exclude: Sequence[str] | None = None,
    max_similarity: float | None = None,
) -> np.ndarray:
    """The guarded neighbors of every item among all: positions int64 `(n, k)`, best first, -1 pads.

    `embeddings` `(n, d)`, unit length, for `dense`, `hybrid` and `max_similarity`, which bars the same picture in
    other form.
    Raises: BowerbirdError for an unknown mode, or when embeddings are needed and not given.
    """
    if mode not in MODES:
        raise BowerbirdError(f"search mode {mode!r} is not known; choose one of {', '.join(MODES)}")
    if embeddings is None and (mode != "bm25" or max_similarity is not None):
        raise BowerbirdError(
            f"neighbors by {mode} with max_similarity {max_similarity} need embeddings; give an encoder, or bm25"
            " without a limit"
        )
    forbidden = None
    if embeddings is not None and max_similarity is not None:
        forbidden = [np.flatnonzero(row @ embeddings.T > max_similarity) for row in embeddings]
    words = caption_graph(captions, tags, k, ids=ids, exclude=exclude, forbidden=forbidden) if mode != "dense" else None
    if mode == "bm25" or embeddings is None:
        assert words is not None
        return words
    pair = (exclude, exclude) if exclude is not None else None
    looks, _ = graph.knn_graph(
        embeddings, embeddings, k, query_ids=ids, database_ids=ids, max_similarity=max_similarity, exclude=pair
    )
    if words is None:
        return looks
    return np.stack([fusion.reciprocal_rank_fusion([a, b], k)[0] for a, b in zip(words, looks, strict=True)])
