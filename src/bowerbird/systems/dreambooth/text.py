"""The texts of a subject and its class through a base's own text encoders: one of Stable Diffusion 1 and 2, two of
SDXL, of which the second also gives one vector for all of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bowerbird.models import clip_text

ENCODERS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class TextCondition:
    """What a U-Net reads of texts: tokens `(n, L, D)`, and of SDXL a vector `(n, P)`."""

    tokens: Tensor
    pooled: Tensor | None = None


def encoder_names(base: Any) -> list[str]:
    """The components of `base` that read text."""
    return [name for name in ENCODERS if getattr(base, name, None) is not None]


def token_ids(base: Any, texts: Sequence[str]) -> list[Tensor]:
    """The tokens `(n, L)` of texts, for each text encoder."""
    tokenizers = [base.tokenizer, getattr(base, "tokenizer_2", None)]
    return [clip_text.token_ids(each, list(texts)) for each in tokenizers[: len(encoder_names(base))]]


def encode(encoders: Sequence[Any], tokens: Sequence[Tensor]) -> TextCondition:
    """The condition of texts, as the base's own pipeline makes it."""
    if len(encoders) == 1:
        return TextCondition(encoders[0](tokens[0]).last_hidden_state)
    outputs = [encoder(ids, output_hidden_states=True) for encoder, ids in zip(encoders, tokens, strict=True)]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], -1)
    return TextCondition(hidden, outputs[-1].text_embeds)


def added(pooled: Tensor | None, edge: int) -> dict[str, Tensor] | None:
    """What SDXL's U-Net reads beside the tokens: the texts' vectors, and that pictures of `edge` are whole."""
    if pooled is None:
        return None
    sizes = torch.tensor([[edge, edge, 0, 0, edge, edge]], device=pooled.device, dtype=pooled.dtype)
    return {"text_embeds": pooled, "time_ids": sizes.repeat(len(pooled), 1)}
