"""Texts through the text encoders of a Stable Diffusion: one of its versions 1 and 2, two of SDXL, of which the second
also gives one vector for all of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bowerbird.models import clip_text

ENCODERS, TOKENIZERS = ("text_encoder", "text_encoder_2"), ("tokenizer", "tokenizer_2")


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
    return [clip_text.token_ids(each, list(texts)) for each in tokenizers(base)]


def tokenizers(base: Any) -> list[Any]:
    """The tokenizer of each text encoder."""
    every = [base.tokenizer, getattr(base, "tokenizer_2", None)]
    return every[: len(encoder_names(base))]


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
