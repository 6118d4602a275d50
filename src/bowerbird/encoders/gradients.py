"""`gradients`: a copy descriptor without weights, histograms of edge directions over a grid.

It sees shape and drawing, hardly color or light, which is what a copy keeps when it is tinted. It stands in for SSCD
where no weights are at hand, and is weaker: mirrors, crops and pasted parts are found because `views.py` compares
several views, not because the descriptor ignores them. Source: Dalal and Triggs, "Histograms of oriented gradients",
CVPR 2005.
Differs from the paper: 64 px pictures, no block overlap, the mean direction of each cell taken away, square roots
(Hellinger).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import tensors
from bowerbird.core.images import square

if TYPE_CHECKING:
    import torch
    from PIL import Image

SIZE, CELL, BINS = 64, 8, 9


class GradientEncoder:
    """A `FeatureExtractor`: n pictures -> unit float32 `(n, 576)`; a picture without edges becomes the zero vector."""

    name = "gradients"
    dim = (SIZE // CELL) ** 2 * BINS
    fingerprint = "gradients-1"
    preprocessing = f"middle square, bicubic to {SIZE} px, on white"

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> float32 `(n, 576)`."""
        import torch

        if not pictures:
            return np.zeros((0, self.dim), np.float32)
        with torch.inference_mode():
            parts = [
                directions(
                    tensors.to_float(tensors.stack([square(p.convert("RGB"), SIZE) for p in pictures[i : i + 512]]))
                )
                for i in range(0, len(pictures), 512)
            ]
        return torch.cat(parts).numpy()


def directions(x: torch.Tensor) -> torch.Tensor:
    """Float `(n, 3, 64, 64)` in [-1, 1] -> unit histograms of edge directions `(n, 576)`."""
    import torch
    from torch.nn import functional as F

    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    dx, dy = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2], padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    strongest = (dx**2 + dy**2).argmax(1, keepdim=True)  # the channel with the strongest edge speaks for the pixel
    dx, dy = dx.gather(1, strongest)[:, 0], dy.gather(1, strongest)[:, 0]
    magnitude = torch.sqrt(dx**2 + dy**2)
    bins = (
        (torch.atan2(dy, dx) % math.pi) / math.pi * BINS
    )  # a direction and its opposite are one: dark on light = light on dark
    centers = torch.arange(BINS).view(1, BINS, 1, 1)
    apart = (bins[:, None] - centers).abs()
    share = (1 - torch.minimum(apart, BINS - apart)).clamp(min=0) * magnitude[:, None]
    # each pixel also counts in the neighboring cells, the more the nearer (a triangle two cells wide), so a small
    # move changes little
    ramp = 1 - (torch.arange(2 * CELL) - CELL + 0.5).abs() / CELL
    kernel = (ramp[:, None] * ramp[None, :]).expand(BINS, 1, -1, -1)
    cells = F.conv2d(F.pad(share, (CELL // 2,) * 4), kernel, stride=CELL, groups=BINS)
    energy = cells.sum(1, keepdim=True)
    local = F.avg_pool2d(F.pad(energy, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    cells = torch.sqrt(cells / (local + 4.0))  # + 4: cells with next to no edge stay next to zero
    cells = cells - cells.mean(1, keepdim=True)
    return F.normalize(cells.flatten(1), dim=1)
