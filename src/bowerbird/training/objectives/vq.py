"""The tokenizer of the discrete models: 64 px pictures <-> 16 x 16 symbols of a codebook, diffusers' `VQModel`.

Trained like the continuous autoencoder (`autoencoder.py`), with the codebook's two losses in place of the KL term.
Source: VQ-VAE, arXiv 1711.00937, equation 3.

Differs from the usual: it starts from a trained autoencoder's weights, with the codebook at the k-means centers of
its latents, so that training only adapts both to each other and no symbol starts unused. With `reach`, every code is
also drawn to the latent of the batch that is nearest to it, so that none is left behind: a restart of dead codes that
needs no counts beside the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.data import augment
from bowerbird.data.pictures import Pictures
from bowerbird.data.variation import VariedPictures
from bowerbird.models.vq import fit_tokenizer, from_autoencoder, place_codes
from bowerbird.systems.components import load_autoencoder, weights_hash
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Amount, Count, Share, network
from bowerbird.training.objectives.autoencoder import coarse_l1, gradient_l1, vary

FITTED = 512
"""Pictures whose latents the codebook starts from."""


class VQConfig(ObjectiveConfig):
    """Sizes and loss weights; stored in `recipe.json`. The sizes of `base`, an `AutoencoderKL`, are taken over.

    `varied`: the share of pictures under each kind of `data.variation`; 0 is without them, and then `strong_fraction`
    counts. `coarse_weight`: of L1 at a half, a quarter and an eighth. `reach`: the weight of the distance of each code
    to the latent nearest to it.
    """

    kind: Literal["vq"] = "vq"
    base: str = network("tiny-autoencoder")
    symbols: Count = 512
    codebook_weight: Amount = 1.0
    gradient_weight: Amount = 0.5
    strong_fraction: Share = 0.4
    varied: Share = 0.0
    coarse_weight: Amount = 0.0
    reach: Amount = 0.0


class VQBatch(TypedDict):
    """Pictures `(n, 3, S, S)` in [-1, 1], or what they are rendered from."""

    pixels: Tensor | VariedPictures


class VQObjective(Objective[VQBatch]):
    """The tokenizer with its loss over one set of pictures."""

    def __init__(
        self, config: VQConfig, pictures: Pictures, base: Any, seed: int, fitted_to: Pictures, *, device: str = "cpu"
    ) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        if not config.varied:
            self.model = fit_tokenizer(base, fitted_to.pixels, config.symbols, seed)
            return
        self.opacity = pictures.opacity()
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.model = from_autoencoder(base, config.symbols).to(device)
        rows = seeds.numpy_generator(seed, "codebook").permutation(len(fitted_to))[:FITTED]
        generator = seeds.torch_generator(seed, "codebook")
        shown = vary(fitted_to, fitted_to.opacity(), rows, config.varied, generator)
        place_codes(self.model, shown.render(self.size), generator)

    @property
    def size(self) -> int:
        """The edge of the pictures."""
        return int(self.model.config.sample_size)

    def batch(self, step: int, size: int, rank: int = 0) -> VQBatch:
        """`size` pictures, a share of them strongly changed."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        rows = rng.integers(len(self.pictures), size=size)
        if self.config.varied:
            generator = seeds.torch_generator(self.seed, "vary", step, rank)
            return {"pixels": vary(self.pictures, self.opacity, rows, self.config.varied, generator)}
        x = tensors.to_float(self.pictures.pixels[rows])
        return {"pixels": augment.with_random_views(x, int(size * self.config.strong_fraction), rng)}

    def forward(self, batch: VQBatch) -> Tensor:
        """L1 + gradient L1 + the codebook's losses of one batch."""
        config, x = self.config, batch["pixels"]
        if isinstance(x, VariedPictures):
            x = x.render(self.size)
        latents = self.model.encode(x).latents
        generated = self.model.decode(latents)
        sample, codebook = generated.sample.float(), generated.commit_loss.float().mean()
        loss = (
            F.l1_loss(sample, x) + config.gradient_weight * gradient_l1(sample, x) + config.codebook_weight * codebook
        )
        if config.coarse_weight:
            loss = loss + config.coarse_weight * coarse_l1(sample, x)
        return loss + config.reach * self._reach(latents) if config.reach else loss

    def _reach(self, latents: Tensor) -> Tensor:
        """The mean squared distance of every code to the latent nearest to it, of those in the batch."""
        codes = self.model.quantize.embedding.weight
        points = latents.detach().float().permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        points = points[:: max(1, len(points) // 16384)]
        with torch.no_grad():
            nearest = torch.cdist(codes.float(), points).argmin(1)
        return F.mse_loss(codes.float(), points[nearest])

    def export(self, out: Path) -> None:
        """Write the tokenizer in diffusers layout."""
        self.model.half().save_pretrained(out)
        self.model.float()


def build(config: VQConfig, pictures: Pictures, run: RunContext) -> VQObjective:
    """The objective over `pictures`, from the autoencoder that `config` names."""
    fitted_to = pictures if run.database is None else run.database
    return VQObjective(config, pictures, load_autoencoder(config.base), run.seed, fitted_to, device=run.device)


def frozen(config: VQConfig) -> dict[str, str]:
    """The fingerprint of the autoencoder it starts from."""
    return {"autoencoder": weights_hash(load_autoencoder(config.base))}
