"""The tokenizer of the discrete models: 64 px pictures <-> 16 x 16 symbols of a codebook, diffusers' `VQModel`.

Trained like the continuous autoencoder (`autoencoder.py`), with the codebook's two losses in place of the KL term.
Source: VQ-VAE, arXiv 1711.00937, equation 3.

Differs from the usual: it starts from the bundled autoencoder's weights, with the codebook at the k-means centers of
its latents, so that training only adapts both to each other and no symbol starts unused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.data import augment
from bowerbird.data.pictures import Pictures
from bowerbird.models.vq import from_autoencoder, to_pictures, to_tokens
from bowerbird.training.objectives.autoencoder import gradient_l1


class VQConfig(BaseModel):
    """Sizes and loss weights; stored in `recipe.json`. The sizes of `base`, an `AutoencoderKL`, are taken over."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["vq"] = "vq"
    base: str = "tiny-autoencoder"
    symbols: int = 512
    codebook_weight: float = 1.0
    gradient_weight: float = 0.5
    strong_fraction: float = 0.4


class VQObjective(nn.Module):
    """The tokenizer with its loss over one set of pictures."""

    def __init__(self, config: VQConfig, pictures: Pictures, base: Any, seed: int) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.model = from_autoencoder(base, config.symbols)
        self._fit_codebook()

    @torch.no_grad()
    def _fit_codebook(self) -> None:
        """The codebook at the centers of the latents of up to 512 pictures."""
        import faiss

        rows = torch.from_numpy(seeds.numpy_generator(self.seed, "codebook").permutation(len(self.pictures))[:512])
        latents = torch.cat(
            [self.model.encode(tensors.to_float(p)).latents for p in torch.split(self.pictures.pixels[rows], 64)]
        )
        vectors = np.unique(
            latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).numpy().round(3), axis=0
        )  # white ground counts once
        if len(vectors) < self.config.symbols:
            raise BowerbirdError(
                f"{self.config.symbols} symbols for {len(vectors)} different latents; train on more pictures, or set"
                " system.symbols lower"
            )
        means = faiss.Kmeans(vectors.shape[1], self.config.symbols, niter=20, seed=self.seed, min_points_per_centroid=1)
        means.train(np.ascontiguousarray(vectors, np.float32))
        self.model.quantize.embedding.weight.copy_(torch.from_numpy(means.centroids))

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """`size` pictures, a share of them strongly changed."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        x = tensors.to_float(self.pictures.pixels[rng.integers(len(self.pictures), size=size)])
        for i in range(int(size * self.config.strong_fraction)):
            x[i : i + 1] = augment.random_view(rng)(x[i : i + 1])
        return {"pixels": x}

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """L1 + gradient L1 + the codebook's losses of one batch."""
        x = batch["pixels"]
        generated = self.model(x)
        sample, codebook = generated.sample.float(), generated.commit_loss.float().mean()
        return (
            F.l1_loss(sample, x)
            + self.config.gradient_weight * gradient_l1(sample, x)
            + self.config.codebook_weight * codebook
        )

    def export(self, out: Path) -> None:
        """Write the tokenizer in diffusers layout."""
        self.model.half().save_pretrained(out)
        self.model.float()

    def sheet(self, path: Path) -> None:
        """Pictures above, what their tokens say below."""
        from bowerbird.core.contact_sheet import grid

        rows = list(range(0, len(self.pictures), max(1, len(self.pictures) // 16)))[:16]
        x = tensors.to_float(self.pictures.pixels[rows]).to(next(self.model.parameters()).device)
        grid([tensors.to_pil(x), tensors.to_pil(to_pictures(self.model, to_tokens(self.model, x)))]).save(path)
