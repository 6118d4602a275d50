"""The neighbors a picture would be generated from, before it is: what a search finds, and what a person changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.systems.jobs import Job, request_of

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System


@dataclass(frozen=True)
class Suggestion:
    """`ids` of items, best first but for those `pinned`, which come before; their `scores`, NaN where a pinned one was
    not found."""

    ids: list[int]
    scores: list[float]
    pinned: int


def suggest(
    pipe: System, kb: KnowledgeBase, job: Job, *, pinned: Sequence[int] = (), removed: Sequence[int] = ()
) -> Suggestion:
    """The items that `job` would be given as neighbors: `pinned` ones, then what is found without the `removed`, as
    many as the model reads or `job.k` says.

    Raises: BowerbirdError for a request that the model cannot serve.
    """
    request = pipe.resolve(request_of(job), kb)
    k, away = request.k or 0, set(removed)
    pinned = [item for item in dict.fromkeys(pinned) if item not in away]
    found: dict[int, float] = {}
    if k:
        most = min(len(kb), k + len(pinned) + len(away))
        found = _items(pipe.retrieve(replace(request, k=most), kb, seed=job.seed))
    others = [item for item in found if item not in away and item not in pinned]
    ids = [*pinned, *others[: max(0, k - len(pinned))]]
    return Suggestion(ids, [found.get(item, float("nan")) for item in ids], len(pinned))


def _items(hits: Neighbors) -> dict[int, float]:
    """The items of the first row with their scores, without what belongs to the query."""
    there = np.flatnonzero(hits.ids[0] > ABSENT)
    return {int(hits.ids[0, c]): float(hits.scores[0, c]) for c in there}
