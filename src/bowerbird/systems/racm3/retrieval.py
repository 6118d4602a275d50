"""The documents for a request: ranked by mixed vectors of picture and caption, without what says the same twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.systems import queries
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

DEEPER = 4
"""Times as many documents are looked at as are taken."""


def retrieve(
    kb: KnowledgeBase | None,
    request: Request,
    count: int,
    *,
    seed: int,
    counts: dict[int, int],
    max_similarity: float | None,
) -> Neighbors:
    """The documents for a resolved `request`, pictures with captions; none for prompts with k = 0.

    Of a prompt's ranking, skipped is a document whose picture is more similar than `max_similarity` to one already
    taken. Raises: BowerbirdError where there is nothing to retrieve from, or the model does not read what is asked for.
    """
    if request.k == 0 and request.prompts is not None:
        return Neighbors.empty(request.prompts).repeat(count)
    if kb is None or not len(kb):
        why = "the model retrieves from a knowledge base" if kb is None else f"{kb.path} holds no items"
        raise BowerbirdError(f"{why}; give `kb` with pictures in it, `reference`, or `k=0` for the text alone")
    if request.text_mode not in (None, "neighbors") or request.image_mode not in (None, "neighbors"):
        raise BowerbirdError(
            "this model reads the documents' pictures and captions: text_mode and image_mode are neighbors; give"
            " pictures of your own with `reference`"
        )
    request = replace(request, text_mode="neighbors", image_mode="neighbors")
    k = request.k or 1
    if request.prompts is None or max_similarity is None:
        return queries.retrieve(kb, request, count, seed=seed, counts=counts)
    deep = replace(request, k=min(len(kb), max(k, DEEPER * k)))
    return unlike(queries.retrieve(kb, deep, 1, seed=seed, counts=counts), k, max_similarity).repeat(count)


def by_picture(kb: KnowledgeBase, image: Image.Image, k: int, max_similarity: float | None) -> Neighbors:
    """The documents for a picture that is described or filled in. One whose picture is the same would say all of it:
    skipped, as is one more similar than `max_similarity` to one already taken. Raises: BowerbirdError for an empty
    knowledge base."""
    if not len(kb):
        raise BowerbirdError(f"{kb.path} holds no items; give another knowledge base, or `k=0` for none")
    own = kb.encoder.embed_images([image])
    found = kb.search(embeddings=own, k=min(len(kb), DEEPER * k), mode="mixed")
    return unlike(found, k, 2.0 if max_similarity is None else max_similarity, own)


def unlike(found: Neighbors, k: int, limit: float, query: np.ndarray | None = None) -> Neighbors:
    """The first k of each row of `found`, without one whose embedding has a cosine above `limit` with one before it,
    or with the raw embeddings `query` `(Q, d)`."""
    rows = []
    for row in range(len(found)):
        there = np.flatnonzero(found.mask[row])
        before = [] if query is None else [_unit(query[row])]
        taken: list[int] = []
        for at, vector in zip(there.tolist(), _unit(found.embeddings[row, there]), strict=True):
            if len(taken) < k and all(float(vector @ other) <= limit for other in before):
                taken.append(at)
                before.append(vector)
        rows.append(found.rows([row]).select(taken).padded(k, found.embeddings.shape[-1]))
    return Neighbors.stack(rows)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit
