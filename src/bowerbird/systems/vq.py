"""The tokeniser of the discrete models: 64 px pictures <-> 16 x 16 symbols of a codebook, diffusers' `VQModel`.

Trained like the continuous autoencoder (`autoencoder.py`), with the codebook's two losses in place of the KL term.
Source: VQ-VAE, arXiv 1711.00937, equation 3.

Differs from the usual: it starts from the bundled autoencoder's weights, with the codebook at the k-means centres of its latents, so that
training only adapts both to each other and no symbol starts unused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird import augment, seeds, tensors
from bowerbird.data import Pictures
from bowerbird.errors import BowerbirdError
from bowerbird.systems.autoencoder import gradient_l1


class VQConfig(BaseModel):
    """Sizes and loss weights; stored in `recipe.json`. The sizes of `base`, an `AutoencoderKL`, are taken over."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["vq"] = "vq"
    base: str = "tiny-autoencoder"
    symbols: int = 512
    codebook_weight: float = 1.0
    gradient_weight: float = 0.5
    strong_fraction: float = 0.4


def from_autoencoder(base: Any, symbols: int) -> Any:
    """A `VQModel` that encodes and decodes like the `AutoencoderKL` called `base`; its codebook is still random.

    The mean's half of the last convolution of `base`, scaled to unit variance, becomes the encoder's output.
    """
    from diffusers import AutoencoderKL, VQModel

    if not isinstance(base, AutoencoderKL):
        raise BowerbirdError("a tokenizer starts from an AutoencoderKL; set system.base to one, for example tiny-autoencoder")
    old = base.config
    model = VQModel(
        down_block_types=old.down_block_types, up_block_types=old.up_block_types, block_out_channels=old.block_out_channels,
        layers_per_block=old.layers_per_block, latent_channels=old.latent_channels, sample_size=old.sample_size, num_vq_embeddings=symbols,
        norm_num_groups=old.norm_num_groups, mid_block_add_attention=False, scaling_factor=1.0,
    )  # fmt: skip
    channels = old.latent_channels
    state, mine = base.state_dict(), model.state_dict()
    own = ("quantize.", "encoder.conv_out.", "quant_conv.", "post_quant_conv.")
    mine |= {name: tensor for name, tensor in state.items() if not name.startswith(own)}
    mean = state["quant_conv.weight"][:channels, :, 0, 0]
    mine["encoder.conv_out.weight"] = torch.einsum("oi,i...->o...", mean, state["encoder.conv_out.weight"])
    mine["encoder.conv_out.bias"] = mean @ state["encoder.conv_out.bias"] + state["quant_conv.bias"][:channels]
    scale, shift = float(old.scaling_factor), float(old.shift_factor or 0.0)
    eye = torch.eye(channels)[:, :, None, None]
    mine["quant_conv.weight"], mine["quant_conv.bias"] = eye * scale, torch.full((channels,), -shift * scale)
    post = state["post_quant_conv.weight"]
    mine["post_quant_conv.weight"] = post / scale
    mine["post_quant_conv.bias"] = state["post_quant_conv.bias"] + (post[:, :, 0, 0] * shift).sum(1)
    model.load_state_dict(mine)
    return model


class VQObjective(nn.Module):
    """The tokeniser with its loss over one set of pictures."""

    def __init__(self, config: VQConfig, pictures: Pictures, base: Any, seed: int) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.model = from_autoencoder(base, config.symbols)
        self._fit_codebook()

    @torch.no_grad()
    def _fit_codebook(self) -> None:
        """The codebook at the centres of the latents of up to 512 pictures."""
        import faiss

        rows = torch.from_numpy(seeds.numpy_generator(self.seed, "codebook").permutation(len(self.pictures))[:512])
        latents = torch.cat([self.model.encode(tensors.to_float(p)).latents for p in torch.split(self.pictures.pixels[rows], 64)])
        vectors = np.unique(latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).numpy().round(3), axis=0)  # white ground counts once
        if len(vectors) < self.config.symbols:
            raise BowerbirdError(f"{self.config.symbols} symbols for {len(vectors)} different latents; train on more pictures, or set system.symbols lower")
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
        painted = self.model(x)
        sample, codebook = painted.sample.float(), painted.commit_loss.float().mean()
        return F.l1_loss(sample, x) + self.config.gradient_weight * gradient_l1(sample, x) + self.config.codebook_weight * codebook

    def export(self, out: Path) -> None:
        """Write the tokeniser in diffusers layout."""
        self.model.half().save_pretrained(out)
        self.model.float()

    def sheet(self, path: Path) -> None:
        """Pictures above, what their tokens say below."""
        from bowerbird.sheets import grid

        rows = list(range(0, len(self.pictures), max(1, len(self.pictures) // 16)))[:16]
        x = tensors.to_float(self.pictures.pixels[rows]).to(next(self.model.parameters()).device)
        grid([tensors.to_pil(x), tensors.to_pil(to_pictures(self.model, to_tokens(self.model, x)))]).save(path)


@torch.no_grad()
def to_tokens(model: Any, x: Tensor) -> Tensor:
    """Float pictures `(n, 3, S, S)` in [-1, 1] -> the symbols of their places, row by row, int64 `(n, N)`."""
    found: Tensor = model.quantize(model.encode(x.to(model.device, model.dtype)).latents)[2][2]
    return found.view(len(x), -1)


def to_bank_tokens(model: Any, x: Tensor, *, device: str) -> Tensor:
    """`to_tokens` in the form a latent bank keeps: int16 on the CPU."""
    return to_tokens(model.to(device), x).short().cpu()


@torch.no_grad()
def to_pictures(model: Any, tokens: Tensor) -> Tensor:
    """Symbols `(n, N)` -> pictures `(n, 3, S, S)` in [-1, 1]."""
    side, tokens = round(tokens.shape[1] ** 0.5), tokens.to(model.device)
    shape = (len(tokens), side, side, model.config.vq_embed_dim or model.config.latent_channels)
    painted: Tensor = model.decode(model.quantize.get_codebook_entry(tokens.reshape(-1), shape), force_not_quantize=True).sample
    return painted.float().clamp(-1, 1)
