"""The one place where pictures become tensors and back: PIL or uint8 <-> float in [-1, 1].

Knows nothing of models; every network in the package reads and writes the range fixed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from PIL import Image


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 in 0..255 of any shape -> float32 in [-1, 1] of the same shape."""
    return pixels.float().div(127.5).sub(1.0)


def to_uint8(sample: torch.Tensor) -> torch.Tensor:
    """Float in [-1, 1] (clipped) of any shape -> uint8 of the same shape, rounded to nearest."""
    return sample.float().clamp(-1, 1).add(1).mul(127.5).round().byte()


def stack(images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size -> uint8 `(n, 3, H, W)`."""
    import torch

    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def to_pil(sample: torch.Tensor) -> list[Image.Image]:
    """Float `(n, 3, H, W)` in [-1, 1] or uint8 of the same shape -> n RGB pictures."""
    import torch
    from PIL import Image

    pixels = sample if sample.dtype == torch.uint8 else to_uint8(sample)
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]
