"""Late interaction: candidates in the order of how well their tokens match those of the query (MaxSim)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast, runtime_checkable

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell
from bowerbird.core.types import Neighbors, TokenEncoder
from bowerbird.knowledge.rerank.protocol import Collection, Task, reorder
from bowerbird.knowledge.rerank.tokens import max_sim, pool

CANDIDATES = 100
"""So many of the first are looked at."""
EVERY = 256
"""Of a knowledge base of up to so many items, all are: nothing that a first search misses is lost."""
AT_ONCE = 16
"""Queries whose candidates are in memory together."""
MEASURE = "late"


@runtime_checkable
class HasTokens(Protocol):
    """A knowledge base that holds token matrices."""

    @property
    def token_count(self) -> int:
        """Tokens that an item is pooled to; 0 where it holds none."""
        ...

    def tokens(self, ids: Sequence[int]) -> dict[int, np.ndarray]:
        """The unit vectors of these items float32 `(m, d)`, by id; items without are left out."""
        ...


class LateReranker:
    """Exact over all of a small knowledge base, over the first `CANDIDATES` of a large one. What has no tokens (an item
    that came as an embedding alone) stands behind what has, in the order of the search."""

    name = "late"
    reads_pictures = True

    def rerank(self, task: Task) -> Neighbors:
        """As `Reranker.rerank`; scores are the mean over the query's tokens of the best cosine, -1 to 1."""
        base, encoder = _with_tokens(task.base)
        most = len(task.base)
        depth = most if most <= EVERY else max(task.k, min(most, CANDIDATES))
        asked = encoder.embed_text_tokens(task.texts) if task.texts else _pictures(base, encoder, task)
        ranked = Neighbors.stack(
            [
                _ordered(task, base, range(start, min(start + AT_ONCE, len(task))), depth, asked)
                for start in range(0, len(task), AT_ONCE)
            ]
        )
        widest = max(1, int(ranked.mask.sum(1).max())) if ranked.k else 0
        return replace(ranked.select(range(widest)), queries=ranked.queries) if widest < ranked.k else ranked


def _ordered(task: Task, base: HasTokens, rows: Sequence[int], depth: int, asked: Sequence[np.ndarray]) -> Neighbors:
    """The best of some of a task's queries."""
    found = task.find(rows, depth)
    scores = np.full(found.ids.shape, -1, np.float32)
    for row, items in enumerate(found.ids.tolist()):
        held = base.tokens([item for item in items if item >= 0])
        at = [column for column, item in enumerate(items) if item in held]
        scores[row, at] = max_sim(asked[rows[row]], [held[items[column]] for column in at])
    return reorder(found, scores, task.k, measure=MEASURE)


def _with_tokens(collection: Collection) -> tuple[HasTokens, TokenEncoder]:
    """Raises: BowerbirdError for a knowledge base without tokens."""
    if not isinstance(collection, HasTokens) or not collection.token_count:
        raise BowerbirdError(
            f"{collection.path}: holds no tokens to re-rank by (`rerank=late`); build it with them: bowerbird kb build"
            f" NEW SOURCE --tokens 64, or search {in_shell(collection.path)} without `rerank`"
        )
    return collection, cast("TokenEncoder", collection.encoder)


def _pictures(base: HasTokens, encoder: TokenEncoder, task: Task) -> list[np.ndarray]:
    """The tokens of a task's pictures, as few as those of items."""
    return [pool(each, base.token_count) for each in encoder.embed_images_with_tokens(task.pictures)[1]]
