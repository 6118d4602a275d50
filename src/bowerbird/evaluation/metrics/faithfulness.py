"""Is the thing asked for in the picture? A judge's verdicts, counted over groups of pictures of one prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bowerbird.evaluation.metrics.intervals import Estimate, over_groups


@dataclass(frozen=True)
class Faithfulness:
    """`top1`, `top5`: shares of all pictures; `best`: share of groups in which at least one of its pictures is
    right."""

    top1: Estimate
    top5: Estimate
    best: Estimate


def hits(logits: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Whether the true candidate is among the k likeliest: logits `(..., C)`, truth `(...)` -> boolean `(...)`. Ties
    count as misses."""
    own = np.take_along_axis(logits, truth[..., None], -1)
    return np.asarray((logits >= own).sum(-1) <= k)


def faithfulness(logits: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> Faithfulness:
    """Logits `(G, R, C)` of R pictures for each of G prompts, among C candidates; `truth` and `groups` `(G,)`.

    Prompts of one group (one entity under several templates) stay together when the bootstrap draws; groups are of
    equal size. Raises: ValueError for groups of different sizes.
    """
    order = np.argsort(groups, kind="stable")
    per_group = np.unique(groups, return_counts=True)[1]
    if len(set(per_group.tolist())) != 1:
        raise ValueError("every group needs as many prompts as the others")
    whole = np.broadcast_to(truth[:, None], logits.shape[:2])
    first, five = (hits(logits, whole, k)[order].reshape(len(per_group), -1) for k in (1, 5))
    best = np.any(hits(logits, whole, 1), axis=1, keepdims=True)[order].reshape(len(per_group), -1)
    return Faithfulness(over_groups(first), over_groups(five), over_groups(best))
