"""The tokens that an adapter reads of an embedding which describes a picture part by part."""

from __future__ import annotations

import torch
from torch import Tensor

from bowerbird.core.types import TokenLayout
from bowerbird.diffusion import conditioning
from bowerbird.diffusion.conditions import Tokens


def picture_tokens(embeddings: Tensor, layout: TokenLayout) -> Tensor:
    """Embeddings `(…, d)` -> `(…, 1 + tokens, width)`: those of `conditioning.patch_tokens`, in which every patch also
    says what the whole shows and how it is drawn; zeros for an embedding of zeros, which is no picture."""
    flat = embeddings.reshape(-1, 1, embeddings.shape[-1]).float()
    found = conditioning.patch_tokens(flat, (flat != 0).any(-1).float(), layout).neighbors
    assert isinstance(found, Tokens)
    tokens, whole = found.keys.to(embeddings.dtype), layout.semantic + layout.style
    first = tokens[:, :1, :whole].expand(-1, tokens.shape[1], -1)
    return torch.cat([first, tokens[..., whole:]], -1).reshape(*embeddings.shape[:-1], *tokens.shape[1:])


def tokens_shape(layout: TokenLayout) -> tuple[int, int]:
    """How many tokens `picture_tokens` makes of an embedding, and their width."""
    return layout.tokens + 1, conditioning.token_width(layout)
