"""What a network that edits by instruction reads: noisy latents beside those of the picture and, where one is given,
those of a reference, which shows what is to come in; and the instruction's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.diffusion.conditions import Conditioning, FeatureMaps
from bowerbird.systems.base_text import added

FILE = "references.safetensors"
"""The file beside the weights with what reads references; diffusers passes it over."""


class ReferenceInput(nn.Module):
    """Further channels of a U-Net's first convolution, for the latents of a reference, as a convolution of their own:
    the U-Net stays one that diffusers opens, and without a reference it is that one."""

    def __init__(self, latent_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(latent_channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv.weight)  # as the channels of the picture begin in InstructPix2Pix
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, latents: Tensor, weights: Tensor) -> Tensor:
        """Unscaled latents `(n, C, h, w)` with weights `(n,)`, 0 where there is none -> what the first convolution's
        output is to have added, `(n, channels, h, w)`."""
        made: Tensor = self.conv(latents) * weights.view(-1, 1, 1, 1)
        return made


@contextmanager
def reading(unet: Any, more: Tensor) -> Iterator[None]:
    """Within this, the first convolution of `unet` gives `more` besides."""
    hook = unet.conv_in.register_forward_hook(lambda module, given, made: made + more.to(made.dtype))
    try:
        yield
    finally:
        hook.remove()


def predict(
    unet: Any, references: ReferenceInput | None, sample: Tensor, timestep: Tensor, condition: Conditioning, edge: int
) -> Tensor:
    """The prediction for noisy latents `(n, C, h, w)` of pictures of `edge` pixels; the condition's `image` are latents
    of the picture and its `neighbors` those of a reference, `(n, 1, C, h, w)`, both unscaled."""
    text, image, pooled = condition.text, condition.image, condition.pooled
    assert text is not None
    assert image is not None
    assert isinstance(condition.neighbors, FeatureMaps)

    near, more = condition.neighbors, None
    if references is not None and bool((near.weights > 0).any()):
        more = references.to(sample.device)(near.maps[0][:, 0], near.weights[:, 0])
    with nullcontext() if more is None else reading(unet, more):
        predicted: Tensor = unet(
            torch.cat([sample, image.to(sample)], 1).to(unet.dtype),
            timestep,
            encoder_hidden_states=text.keys.to(unet.dtype),
            added_cond_kwargs=added(None if pooled is None else pooled.to(unet.dtype), edge),
        ).sample
    return predicted


def save_references(references: ReferenceInput, path: Path) -> None:
    """Write what reads references."""
    files.save_tensors(path, {name: tensor.float() for name, tensor in references.state_dict().items()})


def load_references(path: Path, unet: Any, latent_channels: int) -> ReferenceInput:
    """What reads references for `unet`, from the file `path`. Raises: BowerbirdError when it is damaged or does not
    fit."""
    made = ReferenceInput(latent_channels, int(unet.conv_in.out_channels))
    try:
        made.load_state_dict(files.load_tensors(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:120]
        raise BowerbirdError(f"{path}: does not fit this model ({reason}); fetch the model again") from error
    if not all(parameter.isfinite().all() for parameter in made.parameters()):
        raise BowerbirdError(f"{path}: holds numbers that are not finite; fetch the model again")
    return made.eval().requires_grad_(False)
