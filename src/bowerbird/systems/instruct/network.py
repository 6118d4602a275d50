"""What a network that edits by instruction reads: noisy latents beside those of the picture, the instruction's tokens,
and behind them the tokens of a reference."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import TokenLayout
from bowerbird.diffusion import conditioning
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.systems.base_text import added

FILE = "references.safetensors"
"""The file beside the weights with the projection of references; diffusers passes it over."""
WIDEST, HEAVIEST = 2**16, 10_000
"""Dimensions of an embedding, and how many tokens of a text a reference counts as, in a file that anybody may have
written."""


class ReferenceProjection(nn.Module):
    """The embedding of a picture -> tokens as wide as those of a text. Absent, they are not attended to, and the
    network is the one without them. `log_weight`: the log of how many tokens of a text each counts as."""

    def __init__(self, dim: int, layout: TokenLayout | None, width: int, weight: float = 1.0) -> None:
        super().__init__()
        self.dim, self.layout = dim, layout
        self.linear = nn.Linear(dim if layout is None else conditioning.token_width(layout), width)
        self.log_weight = nn.Parameter(torch.tensor(math.log(weight)))

    def forward(self, embeddings: Tensor, weights: Tensor) -> Tokens:
        """Embeddings `(n, K, d)` with weights `(n, K)`, 0 where there is none."""
        if self.layout is None:
            made = conditioning.neighbor_tokens(embeddings, weights, normalize=True).neighbors
        else:
            made = conditioning.patch_tokens(embeddings, weights, self.layout).neighbors
        assert isinstance(made, Tokens)
        there = (weights > 0).any(1, keepdim=True)
        counts = made.weights * self.log_weight.exp()
        return Tokens(self.linear(made.keys), torch.where(there, counts, torch.zeros_like(counts)))


def joined(text: Tensor, references: Tokens | None) -> tuple[Tensor, Tensor | None]:
    """Text tokens `(n, L, D)` and behind them those of the references, with the mask that attention takes."""
    if references is None:
        return text, None
    weights = torch.cat([torch.ones(text.shape[:2], device=text.device), references.weights.to(text.device)], 1)
    keys = torch.cat([text, references.keys.to(text.dtype)], 1)
    return keys, conditioning.attention_mask(Tokens(keys, weights))


def repeated(references: Tokens) -> Tokens:
    """The same with tokens as often as they count: half precision rounds the mask of a weight of 100 to that of 1."""
    times = max(1, round(float(references.weights.max())))
    return Tokens(references.keys.repeat(1, times, 1), (references.weights / times).repeat(1, times))


def predict(unet: Any, sample: Tensor, timestep: Tensor, condition: Conditioning, edge: int) -> Tensor:
    """The prediction for noisy latents `(n, C, h, w)` of pictures of `edge` pixels; the condition's `image` are latents
    of the picture, unscaled."""
    assert condition.text is not None
    assert condition.image is not None
    assert isinstance(condition.neighbors, Tokens)
    references = condition.neighbors if condition.neighbors.keys.shape[1] else None
    if references is not None and unet.dtype != torch.float32:
        references = repeated(references)
    keys, mask = joined(condition.text.keys, references)
    if references is not None and not bool((references.weights > 0).any()):
        keys, mask = condition.text.keys, None
    predicted: Tensor = unet(
        torch.cat([sample, condition.image.to(sample)], 1).to(unet.dtype),
        timestep,
        encoder_hidden_states=keys.to(unet.dtype),
        encoder_attention_mask=mask,
        added_cond_kwargs=added(None if condition.pooled is None else condition.pooled.to(unet.dtype), edge),
    ).sample
    return predicted


def save_references(projection: ReferenceProjection, path: Path, encoder_name: str, fingerprint: str) -> None:
    """Write the projection, with whose embeddings it reads."""
    layout = projection.layout
    said = {
        "encoder_name": files.portable(encoder_name),
        "encoder_fingerprint": fingerprint,
        "dim": str(projection.dim),
        "layout": json.dumps(None if layout is None else asdict(layout)),
    }
    files.save_tensors(path, {name: tensor.float() for name, tensor in projection.state_dict().items()}, said)


def load_references(path: Path, width: int) -> tuple[ReferenceProjection, dict[str, str]]:
    """The projection in the file `path` to tokens of `width`, and whose embeddings it reads. Raises: BowerbirdError
    when it is damaged or does not fit."""
    said = files.read_tensor_metadata(path)
    try:
        layout, dim = json.loads(said["layout"]), int(said["dim"])
        described = None if layout is None else TokenLayout(**layout)
        if not 0 < dim <= WIDEST or (described is not None and described.dim != dim):
            raise ValueError(f"{dim} dimensions")
        made = ReferenceProjection(dim, described, width)
        made.load_state_dict({"log_weight": torch.zeros(()), **files.load_tensors(path)})  # files of before lack it
        if made.log_weight.abs() > math.log(HEAVIEST):
            raise ValueError("a reference counts as too many tokens")
        names = {"encoder_name": said["encoder_name"], "encoder_fingerprint": said["encoder_fingerprint"]}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise BowerbirdError(f"{path}: does not fit this model ({reason}); fetch the model again") from error
    if not all(parameter.isfinite().all() for parameter in made.parameters()):
        raise BowerbirdError(f"{path}: holds numbers that are not finite; fetch the model again")
    return made.eval().requires_grad_(False), names
