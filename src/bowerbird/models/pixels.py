"""`PixelGrid`: pictures as they are, folded so that each place of a coarser grid holds a square of pixels.

Stands where an autoencoder stands, with nothing to train: 32 px pictures become 12 x 16 x 16 and back without loss.
What a model then reaches is its own doing, not an autoencoder's.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn
from torch.nn import functional as F


class PixelGrid(ModelMixin, ConfigMixin):
    """`encode` and `decode` as an `AutoencoderKL` has them; `factor` pixels a side go into one place.

    `scaling_factor` brings pixels in [-1, 1], whose deviation is near 1/2, to about 1.
    """

    @register_to_config
    def __init__(self, factor: int = 2, scaling_factor: float = 2.0, shift_factor: float = 0.0) -> None:
        super().__init__()
        # diffusers asks a parameter for the device and the number format, so there is one
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.register_to_config(
            block_out_channels=[1] * factor.bit_length()
        )  # one level more than halvings, as in AutoencoderKL

    def encode(self, x: Tensor) -> SimpleNamespace:
        """Float `(n, 3, H, W)` -> `.latent_dist.mean` `(n, 3 f^2, H / f, W / f)`."""
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=F.pixel_unshuffle(x, self.config.factor)))

    def decode(self, z: Tensor) -> DecoderOutput:
        """The inverse: `.sample`."""
        return DecoderOutput(sample=F.pixel_shuffle(z, self.config.factor))
