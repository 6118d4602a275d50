"""Whose neighbors a training sees: RDM's settings of it, for every system that learns from neighbors' embeddings
alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from bowerbird.core.types import ABSENT
from bowerbird.systems.latent_cache import CacheSettings, LatentCache, NeighborStrategy
from bowerbird.systems.settings import Count, Share, column, shares


class SampledSettings(CacheSettings, Protocol):
    """What `sample_items` reads of a system's settings."""

    @property
    def k(self) -> int: ...
    @property
    def vary_k(self) -> bool: ...
    @property
    def null_probability(self) -> float: ...


class NeighborSampling(BaseModel):
    """RDM's settings (`rdm.objective.RDMConfig`, whose own fields these are: its stored recipes have them flat).

    One k a batch, from 1 to `k`, or `k` without `vary_k`; the share `null_probability` is without neighbors (1: the
    network without retrieval).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    k: Count = 4
    vary_k: bool = True
    k_stored: Count = 20
    pool: Count = 8
    null_probability: Share = 0.1
    mix: Annotated[tuple[NeighborStrategy, ...], AfterValidator(shares)] = (NeighborStrategy(share=1.0),)
    max_similarity: float | None = 0.98
    exclude_key: str | None = column(None)
    views: Count = 16
    view_probability: Share = 0.55
    database_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    itself: Share = 0.0
    varied: Share = 0.6
    varied_views: Annotated[int, Field(ge=0)] = 0
    picture_size: Annotated[int, Field(ge=8, le=4096)] | None = None


def sample_items(
    settings: SampledSettings, cache: LatentCache, rng: np.random.Generator, size: int, null_probability: float
) -> tuple[BatchSample, np.ndarray]:
    """`size` items with views and neighbors, one k for all, and which of them have no condition `(size,)`: the share
    `null_probability`, and those are seen unchanged."""
    rows = rng.integers(cache.latents.shape[1], size=size)
    k = int(rng.integers(1, settings.k + 1)) if settings.vary_k else settings.k
    null = rng.random(size) < null_probability
    return sample_neighbors(settings, cache, rng, rows, k, null), null


@dataclass(frozen=True)
class BatchSample:
    """A batch of n items of X: `rows` `(n,)`, the `view` of each `(n,)`, and `neighbors` `(n, k)`, rows of D or -1."""

    rows: Tensor
    view: Tensor
    neighbors: Tensor

    def clean(self, cache: LatentCache) -> Tensor:
        """The items' latents, float `(n, C, h, w)`."""
        return cache.latents[self.view, self.rows].float()

    def embeddings(self, cache: LatentCache) -> Tensor:
        """The neighbors' embeddings, float `(n, k, d)`, under the items' views; any item's where there is no
        neighbor."""
        return cache.embeddings[self.view[:, None], self.neighbors.clamp(min=0)].float()


def sample_neighbors(
    settings: CacheSettings,
    cache: LatentCache,
    rng: np.random.Generator,
    rows: np.ndarray,
    k: int,
    unchanged: np.ndarray,
) -> BatchSample:
    """Views and k neighbors for the items `rows` `(n,)`; the boolean rows `unchanged` `(n,)` get view 0.

    Half of the sets are the k nearest, half are sampled from the `pool` nearest; each from one table of the mix. In the
    share `itself` the item comes first; where it is under a variation of its own, nothing else does.
    """
    size = len(rows)
    exact = len(cache.latents) if cache.varied_from is None else cache.varied_from
    view = np.where(rng.random(size) < settings.view_probability, rng.integers(exact, size=size), 0)
    own = rng.random(size) < settings.itself if settings.itself else np.zeros(size, bool)
    varied = np.zeros(size, bool)
    if cache.varied_from is not None:
        varied = own & (rng.random(size) < settings.varied)
        view = np.where(varied, rng.integers(exact, len(cache.latents), size=size), view)
    view[unchanged] = 0
    shares = np.array([part.share for part in settings.mix])
    table = rng.choice(len(shares), size=size, p=shares / shares.sum())
    chosen = np.full((size, k), ABSENT, np.int64)
    for i in range(size):
        row = cache.tables[table[i]][rows[i]].numpy()
        row = row[row != ABSENT][: max(k, settings.pool)]
        if rng.random() < 0.5:
            row = rng.permutation(row)
        if own[i]:
            row = np.concatenate([rows[i : i + 1], row[: 0 if varied[i] else k]])
        chosen[i, : min(k, len(row))] = row[:k]
    return BatchSample(torch.from_numpy(rows), torch.from_numpy(view), torch.from_numpy(chosen))
