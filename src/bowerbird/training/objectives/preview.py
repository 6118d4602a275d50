"""Sample sheets of what trains beside the systems."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from bowerbird.core import tensors
from bowerbird.core.contact_sheet import grid
from bowerbird.models.vq import to_pictures, to_tokens
from bowerbird.training.objectives.autoencoder import AutoencoderObjective
from bowerbird.training.objectives.copy_descriptor import CopyObjective
from bowerbird.training.objectives.judge import JudgeObjective
from bowerbird.training.objectives.small_encoder import ContrastiveObjective
from bowerbird.training.objectives.vq import VQObjective


def autoencoder_sheet(objective: AutoencoderObjective, path: Path) -> None:
    """Pictures above, their reconstructions below."""
    model, pixels = objective.autoencoder, objective.pictures.pixels
    x = tensors.to_float(pixels[_spread(len(pixels))]).to(next(model.parameters()).device)
    if len(x) and x.shape[-1] != objective.sample_size:
        x = F.interpolate(x, size=objective.sample_size, mode="area")
    with torch.no_grad():
        generated = model.decode(model.encode(x).latent_dist.mean).sample
    grid([tensors.to_pil(x), tensors.to_pil(generated)]).save(path)


def vq_sheet(objective: VQObjective, path: Path) -> None:
    """Pictures above, their tokens decoded below."""
    model, pixels = objective.model, objective.pictures.pixels
    x = tensors.to_float(pixels[_spread(len(pixels))]).to(next(model.parameters()).device)
    if objective.config.varied and x.shape[-1] != objective.size:
        x = F.interpolate(x, size=objective.size, mode="area")
    grid([tensors.to_pil(x), tensors.to_pil(to_pictures(model, to_tokens(model, x)))]).save(path)


def small_encoder_sheet(objective: ContrastiveObjective, path: Path) -> None:
    """Pictures, what the look part of their embeddings gives back, and the nearest other picture by the whole
    embedding."""
    encoder, pictures = objective.encoder, objective.pictures
    pixels = tensors.to_float(pictures.pixels).to(objective.log_scale.device)
    rows = _spread(len(pixels))
    with torch.no_grad():
        vectors = F.normalize(torch.cat([encoder.encode_pixels(part) for part in torch.split(pixels, 256)]), dim=1)
        _, look, _ = encoder.picture_parts(pixels[rows])
        size = encoder.config.look_size
        low = look @ torch.linalg.pinv(encoder.look_basis) + encoder.look_mean
    similarity = vectors[rows] @ vectors.T
    similarity[range(len(rows)), rows] = -1
    back = F.interpolate(low.view(-1, 3, size, size), size=pictures.size)
    nearest = pixels[similarity.argmax(1)]
    grid([tensors.to_pil(pixels[rows]), tensors.to_pil(back), tensors.to_pil(nearest)]).save(path)


def judge_sheet(objective: JudgeObjective, path: Path) -> None:
    """The augmented pictures of one batch: what the judge learns from."""
    pictures = tensors.to_pil(objective.batch(0, 64)["pixels"])
    grid([pictures[i : i + 16] for i in range(0, 64, 16)]).save(path)


def copies_sheet(objective: CopyObjective, path: Path) -> None:
    """Windows, and the changed copies that have to be known again, row under row."""
    first, second = (tensors.to_pil(part) for part in objective.batch(0, 48)["pixels"].chunk(2))
    grid([row[i : i + 16] for i in range(0, len(first), 16) for row in (first, second)]).save(path)


def _spread(count: int) -> list[int]:
    """Up to 16 rows of `count`, evenly apart."""
    return list(range(0, count, max(1, count // 16)))[:16]
