"""The 4x autoencoder in whose latent space the models generate: 64 px pictures <-> 4 x 16 x 16 latents.

A diffusers `AutoencoderKL` trained with L1 on pixels, on their gradients (crisp edges are what drawings are made of)
and on coarser forms of the picture, and a small KL term that keeps the latents smooth. There is no adversarial loss:
at this size it costs more than it gives. In a share of the steps the latents are turned, mirrored or halved, and must
decode to the picture turned, mirrored or halved: latents that behave like pictures are easier to generate. Source:
latent diffusion, arXiv 2112.10752, section 3.1 (KL regularization); EQ-VAE, arXiv 2502.09509 (equivariance).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.data import augment, variation
from bowerbird.data.pictures import Pictures
from bowerbird.data.variation import VariedPictures
from bowerbird.models.latent_scale import unit_channels
from bowerbird.systems.components import load_autoencoder, weights_hash
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Amount, Count, Share, network


class AutoencoderConfig(ObjectiveConfig):
    """Sizes and loss weights; stored in `recipe.json`.

    `varied`: the share of pictures under a random `data.variation`; 0 is without it, and then `strong_fraction`
    counts. `coarse_weight`: of L1 at a half, a quarter and an eighth. `equivariance`: the share of steps with changed
    latents. `unit_channels`: whether each latent channel is brought to mean 0 and deviation 1 by the exported weights
    themselves.

    `base`: an autoencoder of which the decoder alone is trained further. Its sizes are taken over and its latents stay
    as they are, so models that were trained on them need no training; as for Stable Diffusion's `sd-vae-ft-mse`.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    base: str | None = network(None)
    block_out_channels: tuple[int, ...] = (16, 48, 80)
    latent_channels: Count = 4
    sample_size: Count = 64
    kl_weight: Amount = 2e-4
    gradient_weight: Amount = 0.5
    strong_fraction: Share = 0.4
    varied: Share = 0.0
    coarse_weight: Amount = 0.0
    equivariance: Share = 0.0
    unit_channels: bool = False


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of pictures `(n, c, h, w)` by their horizontal and vertical differences."""
    dx = F.l1_loss(a[..., 1:] - a[..., :-1], b[..., 1:] - b[..., :-1])
    return dx + F.l1_loss(a[..., 1:, :] - a[..., :-1, :], b[..., 1:, :] - b[..., :-1, :])


def coarse_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of pictures `(n, c, h, w)` at a half, a quarter and an eighth of the size, summed."""
    difference, total = a - b, a.new_zeros(())
    for _ in range(3):
        difference = F.avg_pool2d(difference, 2)
        total = total + difference.abs().mean()
    return total


def vary(
    pictures: Pictures, opacity: Tensor, rows: np.ndarray, share: float, generator: torch.Generator
) -> VariedPictures:
    """The pictures at `rows`, each kind of change in the `share` of them, lines, blocks and several things in fewer."""
    changes = variation.draw(
        len(rows), generator, colored=share, moved=share, grounded=share, drawn=share / 3, several=share / 4
    )
    chosen = torch.from_numpy(rows)
    return VariedPictures(pictures.pixels[chosen], opacity[chosen], changes)


class AutoencoderBatch(TypedDict):
    """Pictures `(n, 3, S, S)` in [-1, 1], or what they are rendered from, and the seed of the latent noise."""

    pixels: Tensor | VariedPictures
    noise: int


class AutoencoderObjective(Objective[AutoencoderBatch]):
    """The autoencoder with its loss over one set of pictures."""

    def __init__(self, config: AutoencoderConfig, pictures: Pictures, seed: int) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        self.opacity = pictures.opacity()
        self.autoencoder = _new(config, seed) if config.base is None else _with_fixed_encoder(config.base)
        self.sample_size = int(self.autoencoder.config.sample_size)

    def batch(self, step: int, size: int, rank: int = 0) -> AutoencoderBatch:
        """`size` pictures, a share of them strongly changed, and the seed of the latent noise."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        rows = rng.integers(len(self.pictures), size=size)
        noise = seeds.derive(self.seed, "latent", step, rank)
        if self.config.varied:
            generator = seeds.torch_generator(self.seed, "vary", step, rank)
            varied = vary(self.pictures, self.opacity, rows, self.config.varied, generator)
            return {"pixels": varied, "noise": noise}
        x = tensors.to_float(self.pictures.pixels[rows])
        return {"pixels": augment.with_random_views(x, int(size * self.config.strong_fraction), rng), "noise": noise}

    def forward(self, batch: AutoencoderBatch) -> Tensor:
        """L1 + gradient L1 + KL of one batch."""
        config = self.config
        x, noise = batch["pixels"], torch.Generator().manual_seed(batch["noise"])
        if isinstance(x, VariedPictures):
            x = x.render(self.sample_size)
        posterior = self.autoencoder.encode(x).latent_dist
        eps = torch.randn(posterior.mean.shape, generator=noise).to(x.device)
        z = posterior.mean + posterior.std * eps
        if config.equivariance and float(torch.rand(1, generator=noise)) < config.equivariance:
            code, halved = torch.randint(16, (1,), generator=noise).item(), float(torch.rand(1, generator=noise)) < 0.5
            z, x = augment.dihedral(z, int(code) % 8), augment.dihedral(x, int(code) % 8)
            if halved:
                z, x = F.avg_pool2d(z, 2), F.avg_pool2d(x, 2)
        generated = self.autoencoder.decode(z).sample.float()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = F.l1_loss(generated, x) + config.gradient_weight * gradient_l1(generated, x) + config.kl_weight * kl
        return loss + config.coarse_weight * coarse_l1(generated, x) if config.coarse_weight else loss

    @torch.no_grad()
    def export(self, out: Path) -> None:
        """Write the autoencoder in diffusers layout, so that training latents have unit variance: by `scaling_factor`,
        or in each channel by the weights themselves (`unit_channels`). With a `base` both stay as they are."""
        if self.config.base is not None:
            self.autoencoder.half().save_pretrained(out)
            self.autoencoder.float()
            return
        rows = torch.from_numpy(seeds.numpy_generator(self.seed, "scale").integers(len(self.pictures), size=512))
        latents = torch.cat([self._latents(p) for p in torch.split(self.pictures.pixels[rows], 64)])
        if self.config.unit_channels:
            self.autoencoder.register_to_config(scaling_factor=1.0, shift_factor=0.0)
            written = unit_channels(self.autoencoder, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
            written.half().save_pretrained(out)
            return
        self.autoencoder.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))
        self.autoencoder.half().save_pretrained(out)
        self.autoencoder.float()

    def _latents(self, pixels: Tensor) -> Tensor:
        device = next(self.autoencoder.parameters()).device
        x = tensors.to_float(pixels).to(device)
        if self.pictures.size != self.sample_size:
            x = F.interpolate(x, size=self.sample_size, mode="bicubic", antialias=True).clamp(-1, 1)
        mean: Tensor = self.autoencoder.encode(x).latent_dist.mean
        return mean


def _new(config: AutoencoderConfig, seed: int) -> Any:
    from diffusers import AutoencoderKL

    levels = len(config.block_out_channels)
    with torch.random.fork_rng([]):
        torch.manual_seed(seeds.derive(seed, "init"))
        return AutoencoderKL(
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


def _with_fixed_encoder(name: str) -> Any:
    """Raises: BowerbirdError when there is no `AutoencoderKL` of that name."""
    from diffusers import AutoencoderKL

    autoencoder = load_autoencoder(name)
    if not isinstance(autoencoder, AutoencoderKL):
        raise BowerbirdError(f"system.base={name}: no AutoencoderKL, so it has no decoder; set it to one")
    autoencoder.requires_grad_(False)
    for part in (autoencoder.post_quant_conv, autoencoder.decoder):
        part.requires_grad_(True)
    return autoencoder


def build(config: AutoencoderConfig, pictures: Pictures, run: RunContext) -> AutoencoderObjective:
    """The objective over `pictures`."""
    return AutoencoderObjective(config, pictures, run.seed)


def frozen(config: AutoencoderConfig) -> dict[str, str]:
    """The fingerprint of the autoencoder whose encoder stays as it is."""
    return {} if config.base is None else {"autoencoder": weights_hash(load_autoencoder(config.base))}
