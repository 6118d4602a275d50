"""The 4x autoencoder in whose latent space the models generate: 64 px pictures <-> 4 x 16 x 16 latents.

A diffusers `AutoencoderKL` trained with L1 on pixels and on their gradients (crisp edges are what drawings are made
of) and a small KL term that keeps the latents smooth. There is no adversarial loss: at this size it costs more than it
gives.
Source: latent diffusion, arXiv 2112.10752, section 3.1 (KL regularization).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.data import augment
from bowerbird.data.pictures import Pictures
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Amount, Count, Share


class AutoencoderConfig(ObjectiveConfig):
    """Sizes and loss weights; stored in `recipe.json`."""

    kind: Literal["autoencoder"] = "autoencoder"
    block_out_channels: tuple[int, ...] = (16, 48, 80)
    latent_channels: Count = 4
    sample_size: Count = 64
    kl_weight: Amount = 2e-4
    gradient_weight: Amount = 0.5
    strong_fraction: Share = 0.4


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of horizontal and vertical differences."""
    dx = F.l1_loss(a[..., 1:] - a[..., :-1], b[..., 1:] - b[..., :-1])
    return dx + F.l1_loss(a[..., 1:, :] - a[..., :-1, :], b[..., 1:, :] - b[..., :-1, :])


class AutoencoderBatch(TypedDict):
    """Pictures `(n, 3, S, S)` in [-1, 1], and the seed of the latent noise."""

    pixels: Tensor
    noise: int


class AutoencoderObjective(Objective[AutoencoderBatch]):
    """The autoencoder with its loss over one set of pictures."""

    def __init__(self, config: AutoencoderConfig, pictures: Pictures, seed: int) -> None:
        from diffusers import AutoencoderKL

        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        levels = len(config.block_out_channels)
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.autoencoder = AutoencoderKL(
                block_out_channels=config.block_out_channels,
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                layers_per_block=1,
                latent_channels=config.latent_channels,
                norm_num_groups=8,
                sample_size=config.sample_size,
                mid_block_add_attention=False,
                scaling_factor=1.0,
            )

    def batch(self, step: int, size: int, rank: int = 0) -> AutoencoderBatch:
        """`size` pictures, a share of them strongly changed, and the seed of the latent noise."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        x = tensors.to_float(self.pictures.pixels[rng.integers(len(self.pictures), size=size)])
        for i in range(int(size * self.config.strong_fraction)):
            x[i : i + 1] = augment.random_view(rng)(x[i : i + 1])
        return {"pixels": x, "noise": seeds.derive(self.seed, "latent", step, rank)}

    def forward(self, batch: AutoencoderBatch) -> Tensor:
        """L1 + gradient L1 + KL of one batch."""
        x, noise = batch["pixels"], batch["noise"]
        posterior = self.autoencoder.encode(x).latent_dist
        eps = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(noise)).to(x.device)
        generated = self.autoencoder.decode(posterior.mean + posterior.std * eps).sample.float()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return (
            F.l1_loss(generated, x)
            + self.config.gradient_weight * gradient_l1(generated, x)
            + self.config.kl_weight * kl
        )

    @torch.no_grad()
    def export(self, out: Path) -> None:
        """Write the autoencoder in diffusers layout; `scaling_factor` is set so that training latents have unit
        variance."""
        device = next(self.autoencoder.parameters()).device
        rows = torch.from_numpy(seeds.numpy_generator(self.seed, "scale").integers(len(self.pictures), size=512))
        latents = torch.cat(
            [
                self.autoencoder.encode(tensors.to_float(p).to(device)).latent_dist.mean
                for p in torch.split(self.pictures.pixels[rows], 64)
            ]
        )
        self.autoencoder.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))
        self.autoencoder.half().save_pretrained(out)
        self.autoencoder.float()


def build(config: AutoencoderConfig, pictures: Pictures, run: RunContext) -> AutoencoderObjective:
    """The objective over `pictures`."""
    return AutoencoderObjective(config, pictures, run.seed)
