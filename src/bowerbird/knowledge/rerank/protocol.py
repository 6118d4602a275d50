"""The contract of a reranker: what it is given, and what it returns.

A search that is fast looks at one vector and the words of an item. A reranker looks closer, at few: it asks the search
for as many candidates as it wants, and returns the k best of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bowerbird.core.types import Encoder, Neighbors

if TYPE_CHECKING:
    from PIL import Image

Find = Callable[[Sequence[int], int], Neighbors]
"""The search behind a reranker, with every option it was asked with: `find(rows, n)` is the n nearest items of the
queries at `rows`, `(len(rows), n)`, best first; n from 1 to the number of items. It can be asked as often as needed."""


class Collection(Protocol):
    """What a reranker may know of the knowledge base; `KnowledgeBase` is one."""

    @property
    def path(self) -> Any: ...
    @property
    def encoder(self) -> Encoder: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """The `k` best of Q queries are wanted: `texts`, their words without quotation marks and fields, or else `pictures`
    (RGB), as many as queries. A candidate's embedding, caption, metadata, picture and first score are in the
    `Neighbors` that `find` returns; `base` is where they are from."""

    base: Collection
    texts: tuple[str, ...]
    pictures: tuple[Image.Image, ...]
    k: int
    find: Find

    def __len__(self) -> int:
        return len(self.texts or self.pictures)


class Reranker(Protocol):
    """Puts candidates of a search into a better order, or leaves some out.

    `name`: what results and records call it; of one with weights, with what tells them apart, as in `learned:1f0c9a`.
    `reads_pictures`: whether it does anything for queries that are pictures; if not, it is passed over for them. The
    same task gives the same answer, whatever else was asked before.
    """

    @property
    def name(self) -> str: ...

    @property
    def reads_pictures(self) -> bool: ...

    def rerank(self, task: Task) -> Neighbors:
        """The k best of each query as one `Neighbors` `(Q, K)`, K up to `task.k`, best first: rows and columns of what
        `task.find` returned, absent ones last in their row, with scores of its own where it has them (larger is
        better) and the reasons in `notes`. Raises: BowerbirdError for a knowledge base that it cannot work with."""
        ...


def reorder(found: Neighbors, scores: np.ndarray, k: int, *, measure: str) -> Neighbors:
    """The k of each row of `found` `(Q, n)` with the largest `scores` float32 `(Q, n)`, which become its scores and the
    measure of that name; equal ones stay in their order, absent ones last."""
    ranked = np.where(found.mask, scores, -np.inf).astype(np.float32)
    order = np.argsort(-ranked, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(ranked, order, 1)
    kept = Neighbors.stack([found.rows([row]).select(columns) for row, columns in enumerate(order.tolist())])
    known = np.where(kept.mask, best, np.nan).astype(np.float32)
    return replace(kept, scores=best, measures={**kept.measures, measure: known})
