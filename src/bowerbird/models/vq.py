"""The tokenizer of the discrete models, diffusers' VQModel: made from an autoencoder, pictures to symbols and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError


def from_autoencoder(base: Any, symbols: int) -> Any:
    """A `VQModel` that encodes and decodes like the `AutoencoderKL` called `base`; its codebook is still random.

    The mean's half of the last convolution of `base`, scaled to unit variance, becomes the encoder's output. Raises:
    BowerbirdError for a base that is not an `AutoencoderKL`.
    """
    from diffusers import AutoencoderKL, VQModel

    if not isinstance(base, AutoencoderKL):
        raise BowerbirdError(
            "a tokenizer starts from an AutoencoderKL; set system.base to one, for example tiny-autoencoder"
        )
    old = base.config
    model = VQModel(
        down_block_types=old.down_block_types,
        up_block_types=old.up_block_types,
        block_out_channels=old.block_out_channels,
        layers_per_block=old.layers_per_block,
        latent_channels=old.latent_channels,
        sample_size=old.sample_size,
        num_vq_embeddings=symbols,
        norm_num_groups=old.norm_num_groups,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
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


def fit_tokenizer(base: Any, pixels: Tensor, symbols: int, seed: int) -> Any:
    """`from_autoencoder` with its codebook at the k-means centers of the latents of up to 512 of the pictures, uint8
    `(n, 3, S, S)`.

    Raises: BowerbirdError when there are fewer different latents than symbols.
    """
    import faiss

    with torch.random.fork_rng([]):
        torch.manual_seed(seeds.derive(seed, "init"))
        model = from_autoencoder(base, symbols)
    rows = torch.from_numpy(seeds.numpy_generator(seed, "codebook").permutation(len(pixels))[:512])
    with torch.no_grad():
        latents = torch.cat([model.encode(tensors.to_float(p)).latents for p in torch.split(pixels[rows], 64)])
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).numpy()
    vectors = np.unique(vectors.round(3), axis=0)  # white ground counts once
    if len(vectors) < symbols:
        raise BowerbirdError(
            f"{symbols} symbols for {len(vectors)} different latents; train on more pictures, or set system.symbols"
            " lower"
        )
    means = faiss.Kmeans(vectors.shape[1], symbols, niter=20, seed=seed, min_points_per_centroid=1)
    means.train(np.ascontiguousarray(vectors, np.float32))
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(torch.from_numpy(means.centroids))
    return model


@torch.no_grad()
def place_codes(model: Any, x: Tensor, generator: torch.Generator, *, rounds: int = 15) -> None:
    """Put the codebook of `model` at the k-means centers of the latents of float pictures `(n, 3, S, S)`, in place.

    In torch, as a machine that only trains has no index library. A center without latents goes to the latent that is
    furthest from its own. Raises: BowerbirdError where there are fewer different latents than symbols.
    """
    codes = model.quantize.embedding.weight
    latents = torch.cat([model.encode(part.to(codes.device)).latents for part in torch.split(x, 64)])
    found = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    points = torch.unique((found * 100).round() / 100, dim=0)  # flat ground counts once
    if len(points) < len(codes):
        raise BowerbirdError(
            f"{len(codes)} symbols for {len(points)} different latents; train on more pictures, or set system.symbols"
            " lower"
        )
    points = points[torch.randperm(len(points), generator=generator)[: 40 * len(codes)].to(points.device)]
    centers = points[: len(codes)].clone()
    for _ in range(rounds):
        each = [torch.cdist(part, centers).min(1) for part in torch.split(points, 8192)]
        distance, nearest = (torch.cat(parts) for parts in zip(*each, strict=True))
        count = torch.bincount(nearest, minlength=len(centers))
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        centers = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], centers)
        empty = (count == 0).nonzero()[:, 0]
        centers[empty] = points[distance.topk(len(empty)).indices]
    codes.copy_(centers)


@torch.no_grad()
def to_tokens(model: Any, x: Tensor) -> Tensor:
    """Float pictures `(n, 3, S, S)` in [-1, 1] -> the symbols of their places, row by row, int64 `(n, N)`.

    Convolutions of pictures with their channels last take two thirds of the time on the CPU, and the nearest codes half
    of what diffusers' `quantize` takes, which computes every distance at once.
    """
    pictures = x.to(model.device, model.dtype).contiguous(memory_format=torch.channels_last)
    latents = model.encode(pictures).latents
    found = nearest_codes(model.quantize.embedding.weight, latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]))
    return found.view(len(x), -1)


AT_ONCE = 256
"""Vectors whose distances to all codes are computed together: so few that they stay in a processor's cache."""


def nearest_codes(codebook: Tensor, vectors: Tensor) -> Tensor:
    """The row of the codebook `(S, d)` nearest to each of the vectors `(m, d)`, int64 `(m,)`, in float32."""
    codes, parts = codebook.float(), vectors.float()
    half, turned = (codes**2).sum(1) / 2, codes.t().contiguous()  # |z - e|² / 2 without |z|² / 2
    size = AT_ONCE if vectors.device.type == "cpu" else 64 * AT_ONCE
    return torch.cat([torch.addmm(half, part, turned, alpha=-1).argmin(1) for part in torch.split(parts, size)])


def to_cache_tokens(model: Any, x: Tensor, *, device: str) -> Tensor:
    """`to_tokens` in the form a latent cache keeps: int16 on the CPU."""
    return to_tokens(model.to(device), x).short().cpu()


@torch.no_grad()
def to_pictures(model: Any, tokens: Tensor) -> Tensor:
    """Symbols `(n, N)` -> pictures `(n, 3, S, S)` in [-1, 1]."""
    side, tokens = round(tokens.shape[1] ** 0.5), tokens.to(model.device)
    shape = (len(tokens), side, side, model.config.vq_embed_dim or model.config.latent_channels)
    generated: Tensor = model.decode(
        model.quantize.get_codebook_entry(tokens.reshape(-1), shape), force_not_quantize=True
    ).sample
    return generated.float().clamp(-1, 1)


SAMPLED = 16


def codebook_of(model: Any) -> Tensor:
    """The codes of a tokenizer `(S, d)`, float32 on the CPU."""
    codes: Tensor = model.quantize.embedding.weight.detach().float().cpu()
    return codes


def sample_codebook(codes: Tensor) -> list[float]:
    """A few numbers of a codebook, by which a model of its tokens knows the tokenizer it was trained with."""
    flat = codes.flatten()
    return [round(float(each), 6) for each in flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED]]


def has_codebook(model: Any, sample: list[float]) -> bool:
    """Whether the codebook is the one that `sample_codebook` was taken of, in whatever precision it is stored; nothing
    is known of an empty sample."""
    if not sample or model.quantize.embedding.weight.is_meta:
        return True
    return same_codes(torch.tensor(sample_codebook(codebook_of(model))), torch.tensor(sample, dtype=torch.float32))


def same_codes(own: Tensor, other: Tensor) -> bool:
    """Whether codes are the same, in whatever precision they were stored."""
    return own.shape == other.shape and bool(((own - other).abs() <= 0.02 * own.abs().max()).all())
