"""How probable a picture or a caption is, given what stands before it: exact, one pass for all symbols."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bowerbird.models.document_transformer import DocumentTransformer
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3.layout import Layout, Passage

ROWS = 16
"""Sequences in a pass."""


def bits_per_code(decoder: DocumentTransformer, layout: Layout, sequences: Sequence[Passage]) -> Tensor:
    """-log2 p of a code, the mean over the codes of each of n sequences that are generated, among all codes, `(n,)`
    on the CPU."""
    return _bits(decoder, layout, sequences, range(layout.text_tokens, layout.text_tokens + layout.image_tokens))


def bits_per_word(decoder: DocumentTransformer, layout: Layout, sequences: Sequence[Passage]) -> Tensor:
    """-log2 p of a token of the caption, its end among them, as `bits_per_code`, among all tokens of captions."""
    return _bits(decoder, layout, sequences, range(layout.text_tokens))


@torch.no_grad()
def _bits(decoder: DocumentTransformer, layout: Layout, sequences: Sequence[Passage], symbols: range) -> Tensor:
    """The mean over those of the `symbols` that each sequence generates, among these symbols."""
    first, last = symbols.start, symbols.stop
    found = []
    for start in range(0, len(sequences), ROWS):
        batch = {
            name: part.to(decoder.device) for name, part in lay.stack(layout, sequences[start : start + ROWS]).items()
        }
        features = decoder(batch["tokens"], batch["places"], batch["following"], batch["documents"])
        said = decoder.logits(features)[..., first:last].float().log_softmax(-1)
        inside = (batch["target"] >= first) & (batch["target"] < last)
        chance = said.gather(2, (batch["target"] - first).clamp(0, last - first - 1)[..., None])[..., 0]
        counted = inside & (batch["documents"] == 0) & (batch["weights"] > 0)
        total = torch.where(counted, chance, 0.0).sum(1) / counted.sum(1).clamp(min=1)
        found.append((-total / math.log(2)).cpu())
    return torch.cat(found)
