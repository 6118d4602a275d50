"""The neighbors a picture would be generated from, before it is: what a search finds, and what a person changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.systems.jobs import Job, phrase_settings, plan_of, request_of

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System


@dataclass(frozen=True)
class Suggestion:
    """`ids` of items, best first but for those `pinned`, which come before; their `scores`, NaN where a pinned one was
    not found; the `phrases` of the prompt that they serve, where it is read by phrases."""

    ids: list[int]
    scores: list[float]
    pinned: int
    phrases: list[str] | None = None


def suggest(
    pipe: System, kb: KnowledgeBase, job: Job, *, pinned: Sequence[int] = (), removed: Sequence[int] = ()
) -> Suggestion:
    """The items that `job` would be given as neighbors: `pinned` ones, then what is found without the `removed`, as
    many as the model reads or `job.k` says. A job whose prompt is read by phrases has none of either.

    Raises: BowerbirdError for a request that the model cannot serve.
    """
    if phrase_settings(job).by_phrase:
        found_by = plan_of(pipe, kb, job)[0].choice.references
        scores = [each.score for each in found_by]
        return Suggestion([each.item for each in found_by], scores, 0, [each.phrase.text for each in found_by])
    request = pipe.resolve(request_of(job), kb)
    k, away = request.k or 0, set(removed)
    pinned = [item for item in dict.fromkeys(pinned) if item not in away]
    found: dict[int, float] = {}
    if k:
        most = min(len(kb), k + len(pinned) + len(away))
        found = _items(pipe.find(replace(request, k=most), kb, seed=job.seed))
    others = [item for item in found if item not in away and item not in pinned]
    ids = [*pinned, *others[: max(0, k - len(pinned))]]
    return Suggestion(ids, [found.get(item, float("nan")) for item in ids], len(pinned))


def _items(hits: Neighbors) -> dict[int, float]:
    """The items of the first row with their scores, without what belongs to the query."""
    there = np.flatnonzero(hits.ids[0] > ABSENT)
    return {int(hits.ids[0, c]): float(hits.scores[0, c]) for c in there}
