"""From neighbors to what a network attends to.

RDM's condition is the set of the neighbors' embeddings as cross-attention tokens, without positions: a set, whatever
its order. The null is the zero vector in every slot; it passes through the network's trained projection like any
token, so what it means is learned (10% dropout in training). Source: RDM, arXiv 2204.11824, section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.diffusion.conditions import Conditioning, Tokens


def neighbor_tokens(
    embeddings: Tensor, weights: Tensor, *, normalize: bool, length: float | None = None
) -> Conditioning:
    """Embeddings `(B, K, d)` with weights `(B, K)` (0 = absent) -> tokens and their null.

    `normalize`: scale each embedding to `length`, for models trained so: sqrt(d) when None, which is unit variance, as
    ours; 1 as the released 768 px model. False leaves raw embeddings, as the released 256 px models want them. A row
    without any neighbor becomes the null.
    """
    reach = math.sqrt(embeddings.shape[-1]) if length is None else length
    keys = F.normalize(embeddings.float(), dim=-1) * reach if normalize else embeddings.float()
    weights = weights.float()
    keys = torch.where((weights > 0)[..., None], keys, torch.zeros_like(keys))
    none = (weights <= 0).all(dim=1, keepdim=True)
    null = Tokens(torch.zeros_like(keys), torch.ones_like(weights))
    return Conditioning(Tokens(keys, torch.where(none, torch.ones_like(weights), weights)), null)


def query_tokens(embeddings: Tensor, weights: Tensor, queries: Tensor, shared_dim: int) -> Conditioning:
    """KNN-Diffusion's condition: the embedding of what is asked for, and those of its neighbors, as one set of tokens.

    Embeddings `(B, K, d)` with weights `(B, K)`; the boolean `queries` `(B, K)` says which of them are queries. Of a
    query only the first `shared_dim` numbers count, those that texts and pictures share: then a text can stand where
    training had a picture. Keys have d + 1 numbers, the last marks a query. Source: arXiv 2204.02849, section 3.2.
    """
    marked = queries[..., None]
    beyond = torch.arange(embeddings.shape[-1], device=embeddings.device) >= shared_dim
    plain = neighbor_tokens(embeddings.masked_fill(marked & beyond, 0.0), weights, normalize=True)
    null = plain.neighbors_null
    assert isinstance(plain.neighbors, Tokens)
    assert isinstance(null, Tokens)
    mark = (marked & (weights > 0)[..., None]) * math.sqrt(embeddings.shape[-1])  # as long as an embedding
    keys = torch.cat([plain.neighbors.keys, mark.to(plain.neighbors.keys)], -1)
    return Conditioning(Tokens(keys, plain.neighbors.weights), Tokens(F.pad(null.keys, (0, 1)), null.weights))


def attention_mask(tokens: Tokens) -> Tensor:
    """The `encoder_attention_mask` `(B, L)` with which diffusers adds log(weight) to a token's attention logit.

    diffusers turns a mask m into the bias (1 - m) * -10000; solved for m, a weight of 2 acts as if the token stood
    there twice.
    """
    weights = tokens.weights.clamp(min=0)
    return torch.where(weights > 0, 1 + weights.clamp(min=1e-30).log() / 10_000, torch.zeros_like(weights))
