"""The scale of an autoencoder's latents, taken up by its weights, so that any program that opens it has it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


def unit_channels(autoencoder: Any, mean: Tensor, deviation: Tensor) -> Any:
    """A copy whose latents are (z - mean) / deviation in each channel `(C,)`, and which decodes them as before.

    The two 1 x 1 convolutions beside the latents take it up, so that any program that opens the autoencoder has it.
    """
    ours = copy.deepcopy(autoencoder)
    channels = len(mean)
    for name, wide in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        if getattr(ours, name) is None:
            setattr(ours, name, _same(wide).to(ours.device, ours.dtype))
            ours.register_to_config(**{f"use_{name}": True})
    after, before = ours.quant_conv, ours.post_quant_conv
    after.weight[:channels] /= deviation[:, None, None, None]
    after.bias[:channels] = (after.bias[:channels] - mean) / deviation
    after.bias[channels:] -= 2 * deviation.log()  # the logarithm of the variance
    before.bias += before.weight[:, :, 0, 0] @ mean
    before.weight *= deviation[None, :, None, None]
    return ours


def _same(channels: int) -> torch.nn.Conv2d:
    """A 1 x 1 convolution that changes nothing, where a network has none."""
    made = torch.nn.Conv2d(channels, channels, 1).requires_grad_(False)
    made.load_state_dict({"weight": torch.eye(channels)[:, :, None, None], "bias": torch.zeros(channels)})
    return made


@torch.no_grad()
def without_shift(autoencoder: Any) -> Any:
    """An autoencoder with the same latents, scaled, that needs no shift, which Stable Diffusion's pipelines pass over:
    itself where it has none."""
    shift = float(autoencoder.config.shift_factor or 0.0)
    if not shift:
        return autoencoder
    mean = torch.full((autoencoder.config.latent_channels,), shift)
    deviation = torch.full_like(mean, 1 / float(autoencoder.config.scaling_factor))
    ours = unit_channels(autoencoder, mean, deviation)
    ours.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    return ours
