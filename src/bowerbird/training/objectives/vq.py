"""The tokenizer of the discrete models: 64 px pictures <-> 16 x 16 symbols of a codebook, diffusers' `VQModel`.

Trained like the continuous autoencoder (`autoencoder.py`), with the codebook's two losses in place of the KL term.
Source: VQ-VAE, arXiv 1711.00937, equation 3.

Differs from the usual: it starts from the bundled autoencoder's weights, with the codebook at the k-means centers of
its latents, so that training only adapts both to each other and no symbol starts unused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.data import augment
from bowerbird.data.pictures import Pictures
from bowerbird.models.vq import fit_tokenizer
from bowerbird.systems.components import load_autoencoder, weights_hash
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Amount, Count, Share, network
from bowerbird.training.objectives.autoencoder import gradient_l1


class VQConfig(ObjectiveConfig):
    """Sizes and loss weights; stored in `recipe.json`. The sizes of `base`, an `AutoencoderKL`, are taken over."""

    kind: Literal["vq"] = "vq"
    base: str = network("tiny-autoencoder")
    symbols: Count = 512
    codebook_weight: Amount = 1.0
    gradient_weight: Amount = 0.5
    strong_fraction: Share = 0.4


class VQBatch(TypedDict):
    """Pictures `(n, 3, S, S)` in [-1, 1]."""

    pixels: Tensor


class VQObjective(Objective[VQBatch]):
    """The tokenizer with its loss over one set of pictures."""

    def __init__(self, config: VQConfig, pictures: Pictures, base: Any, seed: int, fitted_to: Pictures) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        self.model = fit_tokenizer(base, fitted_to.pixels, config.symbols, seed)

    def batch(self, step: int, size: int, rank: int = 0) -> VQBatch:
        """`size` pictures, a share of them strongly changed."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        x = tensors.to_float(self.pictures.pixels[rng.integers(len(self.pictures), size=size)])
        for i in range(int(size * self.config.strong_fraction)):
            x[i : i + 1] = augment.random_view(rng)(x[i : i + 1])
        return {"pixels": x}

    def forward(self, batch: VQBatch) -> Tensor:
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


def build(config: VQConfig, pictures: Pictures, run: RunContext) -> VQObjective:
    """The objective over `pictures`, from the autoencoder that `config` names."""
    fitted_to = pictures if run.database is None else run.database
    return VQObjective(config, pictures, load_autoencoder(config.base), run.seed, fitted_to)


def frozen(config: VQConfig) -> list[str]:
    """The fingerprint of the autoencoder it starts from."""
    return [weights_hash(load_autoencoder(config.base))]
