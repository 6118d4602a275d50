"""Classifier-free guidance as pure functions on predictions; they serve noise, velocity and logits alike.

Everywhere in bowerbird: weight 1 = the conditional prediction, 0 = the unconditional one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bowerbird.types_torch import Conditioning

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""A network seen from here: (sample, timestep, conditioning) -> prediction of the sample's shape."""


def combine(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """`uncond + w (cond - uncond)`. Source: arXiv 2207.12598, equation 6, with w counted from the unconditional prediction."""
    return unconditional + guidance_scale * (conditional - unconditional)


def classifier_free(predict: Predict, conditioning: Conditioning, guidance_scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """`predict(x, t)` under guidance: one pass at weight 1 or 0, both predictions in one doubled batch otherwise."""
    null = conditioning.without("neighbors")
    if guidance_scale == 1.0:
        return lambda x, t: predict(x, t, conditioning)
    if guidance_scale == 0.0:
        return lambda x, t: predict(x, t, null)
    both = Conditioning.cat([null, conditioning])

    def guided(x: Tensor, t: Tensor) -> Tensor:
        unconditional, conditional = predict(torch.cat([x, x]), t, both).chunk(2)
        return combine(unconditional, conditional, guidance_scale)

    return guided
