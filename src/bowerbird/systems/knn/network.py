"""One pass of KNN-Diffusion's network, with a picture to edit beside the noise where it reads one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bowerbird.diffusion import conditioning
from bowerbird.diffusion.conditions import Conditioning, Tokens


def apply(unet: Any, noise_scheduler: Any, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
    """The velocity at noisy latents: one pass over the tokens, with the latents of a picture to edit beside the noise
    where the network reads one.

    v = sqrt(a) eps - sqrt(1 - a) x_0. Where a picture is shown the network says the velocity of what changes in it:
    its output stands for sqrt(a) eps - sqrt(1 - a) (x_0 - picture), so that leaving a place alone is saying nothing
    there. Without one (zeros) that is v itself.
    """
    tokens = condition.neighbors
    assert isinstance(tokens, Tokens)
    mask = conditioning.attention_mask(tokens)
    if int(unet.config.in_channels) == sample.shape[1]:
        predicted: Tensor = unet(
            sample, timestep, encoder_hidden_states=tokens.keys, encoder_attention_mask=mask
        ).sample
        return predicted
    image = torch.zeros_like(sample) if condition.image is None else condition.image.to(sample)
    predicted = unet(
        torch.cat([sample, image], 1), timestep, encoder_hidden_states=tokens.keys, encoder_attention_mask=mask
    ).sample
    a = noise_scheduler.alphas_cumprod.to(sample.device)[timestep.to(sample.device)].to(sample.dtype)
    return predicted - (1 - a).sqrt().reshape(-1, 1, 1, 1) * image
