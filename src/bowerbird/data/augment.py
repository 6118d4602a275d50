"""Ways to change a picture tensor: shifts, turns, mirrors and colors, each a pure function of explicit parameters.

All take float `(B, 3, H, W)` in [-1, 1] with a white background (1.0), which also fills what a shift or turn uncovers.
`View` is one such change with its numbers fixed, so that a target and its neighbors can be changed *together*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def affine(x: Tensor, angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Turn by `angle` (B,) radians, scale by `scale` (B,), move by `shift` (B, 2) in half-widths; white fills in."""
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta.float(), list(x.shape), align_corners=False)
    return F.grid_sample(x.float() - 1, grid, align_corners=False) + 1


def hue(x: Tensor, angle: Tensor) -> Tensor:
    """Turn the colors of `x` by `angle` (B,) radians about the gray axis (YIQ rotation); lightness stays."""
    to_yiq = x.new_tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    turn = torch.stack(
        [torch.stack([zero + 1, zero, zero], 1), torch.stack([zero, cos, -sin], 1), torch.stack([zero, sin, cos], 1)], 1
    )
    matrix = torch.linalg.inv(to_yiq) @ turn.to(x.dtype) @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, x).clamp(-1, 1)


def dihedral(x: Tensor, code: int) -> Tensor:
    """One of the eight symmetries of the square: `code % 4` quarter turns, mirrored when `code >= 4`."""
    return torch.rot90(x.flip(3) if code >= 4 else x, code % 4, (2, 3))


@dataclass(frozen=True)
class View:
    """A fixed change of a picture: symmetry, turn (radians), scale, shift (half-widths), hue (radians)."""

    symmetry: int = 0
    angle: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    hue: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the change to every picture of `x` `(B, 3, H, W)`."""
        full = x.new_full((len(x),), 1.0)
        if self.hue:
            x = hue(x, full * self.hue)
        if self.symmetry:
            x = dihedral(x, self.symmetry)
        if self.angle or self.scale != 1.0 or any(self.shift):
            x = affine(x, full * self.angle, full * self.scale, full[:, None] * x.new_tensor(self.shift))
        return x


IDENTITY = View()


def random_view(rng: np.random.Generator) -> View:
    """A strong change: any symmetry, a turn up to 20 degrees, scale .8 to 1.1, a shift up to 10%, and any hue two
    times of three."""
    return View(
        symmetry=int(rng.integers(8)),
        angle=float(rng.uniform(-1, 1) * math.radians(20)),
        scale=float(rng.uniform(0.8, 1.1)),
        shift=(float(rng.uniform(-0.1, 0.1)), float(rng.uniform(-0.1, 0.1))),
        hue=float(rng.uniform(-math.pi, math.pi)) if rng.random() < 2 / 3 else 0.0,
    )


def with_random_views(x: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Pictures `x` `(n, 3, h, w)`, changed in place: the first `count` of them each under a `random_view`."""
    for i in range(count):
        x[i : i + 1] = random_view(rng)(x[i : i + 1])
    return x


def exact_view(rng: np.random.Generator, size: int) -> View:
    """A change that resamples nothing: any symmetry, a shift by up to a tenth of `size` in whole pixels, any hue two
    times of three."""
    shift = rng.integers(-(size // 10), size // 10 + 1, size=2) * 2 / size
    turn = float(rng.uniform(-math.pi, math.pi)) if rng.random() < 2 / 3 else 0.0
    return View(symmetry=int(rng.integers(8)), shift=(float(shift[0]), float(shift[1])), hue=turn)


def jitter(x: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Small changes of pictures `(n, 3, h, w)` in [-1, 1], drawn one a picture: turn up to 10 degrees, scale within
    15%, shift up to 10%, light, contrast and tint up to 20%."""
    n = len(x)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(n, *shape, generator=generator) * 2 - 1) * strength

    x = affine(x, uniform() * 0.17, 1 - 0.05 + uniform() * 0.12, uniform(2) * 0.1)
    tint = 1 + 0.15 * uniform(3)[:, :, None, None]
    return (1 - (1 - x) * tint * (1 + 0.2 * uniform()[:, None, None, None])).clamp(-1, 1)
