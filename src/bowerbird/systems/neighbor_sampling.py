"""Whose neighbors a training sees: RDM's settings of it, for every system that learns from neighbors' embeddings
alone."""

from __future__ import annotations

from typing import Annotated, Protocol

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bowerbird.systems.latent_cache import BatchSample, CacheSettings, LatentCache, NeighborStrategy, sample_neighbors
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
