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

from bowerbird.core.types import Encoder, TokenLayout
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


def patch_tokens(embeddings: Tensor, weights: Tensor, layout: TokenLayout) -> Conditioning:
    """Embeddings `(B, K, d)` that describe a picture part by part -> 1 + `layout.tokens` tokens a neighbor, and their
    null.

    The first token has the semantic and the style dimensions, each part scaled to unit variance so that none is quiet;
    the others have one patch each. Every token also says in a dimension of its own which place it is of, so that one
    linear map of the network projects each kind for itself. A neighbor without patches, as a text is, has the first
    token alone.
    """
    places, keys = layout.tokens + 1, embeddings.float()
    semantic, patches, style = torch.split(keys, [layout.semantic, layout.tokens * layout.token_dim, layout.style], -1)
    first = torch.cat([_unit_variance(semantic), _unit_variance(style)], -1)
    patches = patches * ((layout.tokens * layout.token_dim) ** 0.5 / layout.token_length)
    patches = patches.unflatten(-1, (layout.tokens, layout.token_dim))
    where = torch.eye(places, device=keys.device) * math.sqrt(places)
    tokens = torch.cat([F.pad(first[..., None, :], (0, layout.token_dim)), F.pad(patches, (first.shape[-1], 0))], -2)
    tokens = torch.cat([tokens, where.expand(*tokens.shape[:-1], places)], -1)
    there = torch.cat([torch.ones_like(patches[..., :1, 0]), (patches != 0).any(-1).float()], -1)
    counts = (weights.float()[..., None] * there).flatten(1)
    tokens = torch.where((counts > 0)[..., None], tokens.flatten(1, 2), torch.zeros(()).to(tokens))
    none = (counts <= 0).all(dim=1, keepdim=True)
    null = Tokens(torch.zeros_like(tokens), torch.ones_like(counts))
    return Conditioning(Tokens(tokens, torch.where(none, torch.ones_like(counts), counts)), null)


def _unit_variance(part: Tensor) -> Tensor:
    return F.normalize(part, dim=-1) * math.sqrt(part.shape[-1])


def token_width(layout: TokenLayout) -> int:
    """Dimensions of the tokens that `patch_tokens` makes."""
    return layout.semantic + layout.style + layout.token_dim + layout.tokens + 1


def condition_width(encoder: Encoder) -> int:
    """Dimensions of the tokens that `condition_tokens` makes of the embeddings of `encoder`."""
    layout = getattr(encoder, "layout", None)
    return encoder.dim if layout is None else token_width(layout)


def condition_tokens(
    embeddings: Tensor,
    weights: Tensor,
    layout: TokenLayout | None,
    *,
    normalize: bool = True,
    length: float | None = None,
) -> Conditioning:
    """`patch_tokens` of embeddings that have a layout, `neighbor_tokens` of those that have none."""
    if layout is not None:
        return patch_tokens(embeddings, weights, layout)
    return neighbor_tokens(embeddings, weights, normalize=normalize, length=length)


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
