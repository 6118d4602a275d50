"""Which neighbors are too far from what was asked for, by the measure of the database itself.

A fixed threshold means nothing across encoders: a text and its picture lie at cosine 0.2 to 0.35 in CLIP, two drawings
of one thing at 0.8 in ours. So the threshold is a quantile of similarities that the database has: of items to their
own captions for a text, of items to the item nearest to them for a picture. A research mode of KNN-Diffusion, off by
default.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Neighbors

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

SAMPLE = 1000
"""Items that a threshold is taken from."""


class NothingToCompareError(BowerbirdError):
    """No item has what a threshold is taken from."""


def unit(x: np.ndarray, shared_dim: int) -> np.ndarray:
    """Embeddings `(…, d)` as unit vectors of the numbers that texts and pictures share, `(…, shared_dim)`."""
    shared = x[..., :shared_dim]
    found: np.ndarray = shared / np.linalg.norm(shared, axis=-1, keepdims=True).clip(min=1e-12)
    return found


def threshold(kb: KnowledgeBase, quantile: float, shared_dim: int, *, text: bool) -> float:
    """The cosine, in the numbers that texts and pictures share, below which the share `quantile` of the database's own
    pairs lies.

    Raises: BowerbirdError for a quantile outside 0..1, or where no item has a caption and `text` asks for them.
    """
    if not 0 <= quantile <= 1:
        raise BowerbirdError(f"relevance is a quantile, from 0 (keep all) to 1; got {quantile}")
    return float(np.quantile(own_cosines(kb, shared_dim, text=text), quantile))


def own_cosines(kb: KnowledgeBase, shared_dim: int, *, text: bool) -> np.ndarray:
    """The cosines of up to `SAMPLE` of the database's own pairs, ascending `(n,)`: of items and their captions with
    `text`, else of items and the item nearest to them. Raises: BowerbirdError where there is no such pair."""
    ids = kb.ids()
    chosen = seeds.numpy_generator(0, "relevance").permutation(ids)[:SAMPLE].tolist()
    items = kb.get(chosen)
    pictures = unit(items.embeddings[0], shared_dim)
    if not text:
        near = kb.search(ids=chosen, k=1)
        there = near.mask[:, 0]
        cosines = (pictures * unit(near.embeddings[:, 0], shared_dim)).sum(1)[there]
    else:
        named = [i for i, caption in enumerate(items.captions[0]) if caption.strip()]
        cosines = (
            pictures[named] * unit(kb.encoder.embed_text([items.captions[0][i] for i in named]), shared_dim)
        ).sum(1)
    if not len(cosines):
        raise NothingToCompareError(
            f"{kb.path}: no item has a {'caption' if text else 'neighbor'} to take a threshold of relevance from"
        )
    return np.sort(cosines)


def keep(kb: KnowledgeBase, hits: Neighbors, quantile: float, shared_dim: int) -> Neighbors:
    """`hits`, which hold queries (ids below -1) and their neighbors, without the neighbors below the threshold for
    every query; the others move up.

    Raises: BowerbirdError where there is no query to be like.
    """
    asked = hits.ids < ABSENT
    if not asked.any(1).all():
        raise BowerbirdError(
            "relevance compares neighbors with a text or picture, and there is none here; leave `min_relevance` out"
        )
    limit = threshold(kb, quantile, shared_dim, text=any(hits.queries))
    vectors = unit(hits.embeddings, shared_dim)
    near = np.where(asked[:, None], vectors @ vectors.swapaxes(1, 2), -np.inf).max(2) >= limit
    kept = hits.mask & (near | asked)
    order = np.argsort(~kept, axis=1, kind="stable")
    there = np.take_along_axis(kept, order, 1)

    def moved(array: np.ndarray, absent: float) -> np.ndarray:
        return np.where(there, np.take_along_axis(array, order, 1), absent).astype(array.dtype)

    embeddings = np.take_along_axis(hits.embeddings, order[..., None], 1) * there[..., None]
    return replace(
        hits,
        ids=moved(hits.ids, ABSENT),
        scores=moved(hits.scores, -np.inf),
        embeddings=embeddings.astype(hits.embeddings.dtype),
        captions=tuple(
            tuple(row[c] if ok else "" for c, ok in zip(o, t, strict=True))
            for row, o, t in zip(hits.captions, order, there, strict=True)
        ),
        metadata=tuple(
            tuple(row[c] if ok else {} for c, ok in zip(o, t, strict=True))
            for row, o, t in zip(hits.metadata, order, there, strict=True)
        ),
        weights=None if hits.weights is None else moved(hits.weights, 0.0),
    )
