"""What both backbones of KNN-Diffusion are conditioned on in training: a picture's own embedding as the query, and its
neighbors'.

Trained on {embedding of the picture itself, embeddings of its k nearest pictures}; generated from {embedding of a text,
embeddings of the k pictures it finds}. The neighbors are pictures in both, so they carry what a text's embedding
cannot.
Source: arXiv 2204.02849, section 3.2.

Differs from the paper, and why:
- Of a query only the dimensions that texts have too are read (`Encoder.shared_dim`; all of them in CLIP). Our small
  encoder's pictures also say color and layout, which a network would rely on and no text could give it.
- The query has noise, of up to `query_noise` times its length. In our encoder a text lies at cosine 0.6 from its
  picture where training knew the name, and at 0.2 where it did not; the network has to tell from its neighbors how
  far a query can be believed. With 0 it is the paper's.
- Query and neighbors are dropped on their own too, so that either alone generates, and "without neighbors" is a trained
  state.
"""

from __future__ import annotations

from typing import Annotated, TypedDict

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.diffusion.conditioning import query_tokens
from bowerbird.diffusion.conditions import Conditioning
from bowerbird.systems.latent_cache import LatentCache, NeighborStrategy
from bowerbird.systems.neighbor_sampling import BatchSample, sample_neighbors
from bowerbird.systems.settings import Amount, Count, Share, column, shares


class ConditionSampling(BaseModel):
    """How queries and neighbors are sampled, and of what data (the settings of a latent cache, see `latent_cache` and
    `rdm.objective`).

    X and D are the same pictures: a query is an item's own embedding. One k for a batch, from 1 to `most_k`.
    `null_probability`: both dropped; `query_dropout`, `neighbor_dropout`: one of them, by itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    most_k: Count = 8
    query_noise: Amount = 6.0
    null_probability: Share = 0.1
    query_dropout: Share = 0.2
    neighbor_dropout: Share = 0.15
    k_stored: Count = 20
    pool: Count = 8
    mix: Annotated[tuple[NeighborStrategy, ...], AfterValidator(shares)] = (NeighborStrategy(share=1.0),)
    max_similarity: float | None = 0.98
    exclude_key: str | None = column(None)
    views: Count = 16
    view_probability: Share = 0.55
    database_share: float = Field(default=0.0, ge=0.0, le=0.0)

    @property
    def itself(self) -> float:
        """The query is the item itself, so no neighbor is."""
        return 0.0

    @property
    def varied(self) -> float:
        """No samples are under a variation of their own."""
        return 0.0

    @property
    def varied_views(self) -> int:
        """As above."""
        return 0

    @property
    def picture_size(self) -> None:
        """Pictures are learned as large as they come."""
        return None


class ConditionBatch(TypedDict):
    """The condition of n items: `embeddings` `(n, 1 + k, d)` of the query and the neighbors, with `weights` `(n, 1 +
    k)`, 0 where dropped or absent."""

    embeddings: Tensor
    weights: Tensor


def add_noise(queries: Tensor, amount: Tensor, shared_dim: int, generator: torch.Generator) -> Tensor:
    """Queries `(n, d)` with a normal vector added to their shared dimensions, `amount` `(n,)` times as long as those on
    average; the rest as it was."""
    shared = F.normalize(queries[:, :shared_dim], dim=1)
    disturbed = shared + amount[:, None] * torch.randn(shared.shape, generator=generator) / shared_dim**0.5
    return torch.cat([disturbed, queries[:, shared_dim:]], 1)


def sample_items(
    settings: ConditionSampling, cache: LatentCache, rng: np.random.Generator, size: int
) -> tuple[BatchSample, np.ndarray]:
    """`size` items with their neighbors, and which of them are to have no condition `(size,)`; those are seen
    unchanged, as samples without one are."""
    rows = rng.integers(cache.latents.shape[1], size=size)
    k = int(rng.integers(1, settings.most_k + 1))
    null = rng.random(size) < settings.null_probability
    return sample_neighbors(settings, cache, rng, rows, k, null), null


def own_embeddings(cache: LatentCache, sample: BatchSample) -> Tensor:
    """The items' own embeddings under their views, float `(n, d)`: what a picture's query is."""
    return cache.embeddings[sample.view, sample.rows].float()


def sample_condition(
    settings: ConditionSampling,
    cache: LatentCache,
    sample: BatchSample,
    query: Tensor,
    null: np.ndarray,
    shared_dim: int,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The embeddings `(n, 1 + k, d)` of `query` `(n, d)`, with noise, and of the neighbors, and their weights `(n, 1 +
    k)`: 0 where dropped or absent."""
    size = len(null)
    no_query, alone = rng.random(size) < settings.query_dropout, rng.random(size) < settings.neighbor_dropout
    amount = torch.from_numpy(rng.random(size).astype(np.float32)) * settings.query_noise
    embeddings = torch.cat([add_noise(query, amount, shared_dim, generator)[:, None], sample.embeddings(cache)], 1)
    there = (sample.neighbors != ABSENT).numpy() & ~alone[:, None]
    weights = np.concatenate([~no_query[:, None], there], 1) & ~null[:, None]
    return embeddings, torch.from_numpy(weights).float()


def condition_of(batch: ConditionBatch, shared_dim: int) -> Conditioning:
    """The tokens of a batch that `sample_condition` made: the first of each row is the query."""
    embeddings, weights = batch["embeddings"], batch["weights"]
    first = torch.arange(embeddings.shape[1], device=embeddings.device) == 0
    return query_tokens(embeddings, weights, first.expand_as(weights), shared_dim)


def own_query(cache: LatentCache, item: int) -> Neighbors:
    """An item's own embedding as a query without neighbors."""
    return Neighbors.from_embeddings(cache.embeddings[0, item].float().numpy()[None, None], [[""]])
