"""Logits of the next token, from what is kept of those before."""

from __future__ import annotations

import torch
from torch import Tensor

from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.models.rarm_transformer import DecodingState, RARMTransformer


class Decoder:
    """A `guidance.Predict` for the next token: `(B, T)` tokens so far -> its logits `(B, symbols)`, float32.

    What a call computes of the prefix is kept for the next one that goes on from it under the same condition.
    """

    def __init__(self, transformer: RARMTransformer) -> None:
        self.transformer = transformer
        self._kept: tuple[Conditioning, DecodingState] | None = None

    def __call__(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        assert isinstance(condition.neighbors, Tokens)
        if self._kept is None or self._kept[0] is not condition or self._kept[1].length > sample.shape[1]:
            self._kept = (condition, self.transformer.begin(condition.neighbors))
        state = self._kept[1]
        # one place longer than the tokens: what is read at a position is the token before it
        read = self.transformer.shifted(torch.cat([sample, sample.new_zeros(len(sample), 1)], 1))
        return self.transformer.extend(read[:, state.length :], state).float()
