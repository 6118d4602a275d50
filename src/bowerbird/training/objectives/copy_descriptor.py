"""How the descriptor of near copies is trained: a window of a picture and a changed copy of it together, everything
else apart.

Source: Pizzi et al. (SSCD), arXiv 2202.10261: InfoNCE over strong augmentations, and a term that spreads the vectors
evenly, so that one threshold serves all pictures. Differs from the paper: windows that only partly overlap (as in
the check for copies), parts pasted into other pictures, several drawings of one entity in a batch as hard negatives,
and half of each batch are scenes of `make_scenes`, because drawings on white alone would teach nothing about
photographs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.data import augment
from bowerbird.data.pictures import Pictures
from bowerbird.encoders.copy_descriptor import SIZE, CopyModel, save
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Amount, Count, Share, column


class CopyConfig(ObjectiveConfig):
    """Sizes and loss weights; stored in `recipe.json`. `scenes`: their share of a batch; `spread`: weight of the
    even-spreading term."""

    kind: Literal["copy-descriptor"] = "copy-descriptor"
    channels: tuple[int, ...] = (32, 64, 128, 160)
    dim: Count = 128
    entity_key: str = column("hexcode")
    scenes: Share = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.06
    spread: Amount = 1.0


class CopyBatch(TypedDict):
    """Windows of n pictures, then changed copies of about the same windows: `(2 n, 3, 64, 64)` in [-1, 1]."""

    pixels: Tensor


class CopyObjective(Objective[CopyBatch]):
    """The model with its losses over one set of pictures."""

    def __init__(self, config: CopyConfig, pictures: Pictures, seed: int) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.model = CopyModel(config.channels, config.dim)
        self.groups = pictures.groups(config.entity_key)

    def batch(self, step: int, size: int, rank: int = 0) -> CopyBatch:
        """`size` pictures as `pixels` `(2 size, 3, 64, 64)`: windows of them, then changed copies of about the same
        windows."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "copies", step, rank)
        rows: list[int] = []
        for i in rng.permutation(len(self.groups)):
            rows += rng.permutation(self.groups[i])[:2].tolist()
            if len(rows) >= size:
                break
        rows = (rows * math.ceil(size / len(rows)))[:size]  # a small collection is met more than once
        x = tensors.to_float(self.pictures.pixels[rows])
        if x.shape[-1] != SIZE:
            x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
        count = int(size * self.config.scenes)
        if count:
            x = torch.cat([x[count:], make_scenes(x, count, generator)])
        first, second = two_windows(x, generator)
        return {"pixels": torch.cat([first, make_copies(second, x.roll(1, 0), generator)])}

    def forward(self, batch: CopyBatch) -> Tensor:
        """InfoNCE in both directions plus the spreading term."""
        z = self.model(batch["pixels"])
        n = len(z) // 2
        similarity = z @ z.T
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        logits = (similarity / self.config.temperature).masked_fill(itself, -1e4)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        others = similarity.masked_fill(itself | itself.roll(n, 1), -1.0).amax(1)
        apart = torch.sqrt((2 - 2 * others).clamp(min=1e-6))  # the distance to the nearest picture that is no copy
        return F.cross_entropy(logits, partner) - self.config.spread * torch.log(apart).mean()

    def export(self, out: Path) -> None:
        """Write the model as a directory that `CopyDescriptor` opens."""
        save(self.model, self.config.channels, out)


def build(config: CopyConfig, pictures: Pictures, run: RunContext) -> CopyObjective:
    """The objective over `pictures`."""
    return CopyObjective(config, pictures, run.seed)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator)


def make_scenes(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n pictures `(n, 3, h, h)` without white: colored noise with the 1/f spectrum of photographs, and three of `x`
    laid on it in any hue."""
    size = x.shape[-1]
    frequency = torch.sqrt(torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.rfftfreq(size)[None] ** 2).clamp(
        min=1 / size
    )
    steepness = _uniform(n, 0.8, 1.8, generator)[:, None, None, None]
    spectrum = torch.fft.rfft2(torch.randn(n, 3, size, size, generator=generator)) / frequency[None, None] ** steepness
    noise = torch.fft.irfft2(spectrum, s=(size, size))
    noise = noise / noise.std((1, 2, 3), keepdim=True)
    gray = _uniform(n, 0, 1, generator)[:, None, None, None]
    noise = gray * noise.mean(1, keepdim=True) + (1 - gray) * noise
    made = torch.sigmoid(
        noise * _uniform(n, 0.3, 1.5, generator)[:, None, None, None] + torch.randn(n, 3, 1, 1, generator=generator)
    )
    for _ in range(3):
        piece = x[torch.randint(len(x), (n,), generator=generator)]
        shift = torch.stack([_uniform(n, -0.9, 0.9, generator), _uniform(n, -0.9, 0.9, generator)], 1)
        piece = augment.affine(piece, _uniform(n, -3.1, 3.1, generator), _uniform(n, 0.4, 1.4, generator), shift)
        light = (augment.hue(piece, _uniform(n, -math.pi, math.pi, generator)) + 1) / 2
        cover = (light.amin(1, keepdim=True) < 0.97).float()  # white paper lets the ground through
        made = made * (1 - cover) + cover * light
    return made * 2 - 1


def _window(x: Tensor, side: Tensor, center: Tensor, mirror: Tensor | None = None) -> Tensor:
    """The window of edge `side` (share of the picture) about `center` (half-widths), at full size; mirrored where
    `mirror`."""
    size = x.shape[-1]
    across = side if mirror is None else torch.where(mirror, -side, side)
    zero = torch.zeros_like(side)
    theta = torch.stack([torch.stack([across, zero, center[:, 0]], 1), torch.stack([zero, side, center[:, 1]], 1)], 1)
    return (
        F.grid_sample(x - 1, F.affine_grid(theta, [len(x), 3, size, size], align_corners=False), align_corners=False)
        + 1
    )


def two_windows(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two windows, each `(n, 3, S, S)`, of each picture of `x` that overlap by more than half, the second one mirrored
    half the time. Where a window shows next to nothing the whole picture stands in for both."""
    n = len(x)
    side = torch.where(torch.rand(n, generator=generator) < 0.3, 1.0, _uniform(n, 0.45, 1.0, generator))
    center = (torch.rand(n, 2, generator=generator) * 2 - 1) * (1 - side)[:, None]
    first = _window(x, side, center)
    plain = (first.std((2, 3)).amax(1) < 0.15) | (
        (first[:, :, ::2, ::2].diff(dim=3).abs().amax(1) > 0.1).float().mean((1, 2)) < 0.06
    )
    side, center = torch.where(plain, 1.0, side), torch.where(plain[:, None], 0.0, center)
    other = (side * torch.exp(_uniform(n, -0.25, 0.25, generator))).clamp(max=1.0)
    moved = center + (torch.rand(n, 2, generator=generator) * 2 - 1) * (0.25 * side)[:, None]
    room = (1 - other)[:, None]
    moved = torch.minimum(torch.maximum(moved, -room), room)
    mirror = torch.rand(n, generator=generator) < 0.5
    return torch.where(plain[:, None, None, None], x, first), _window(x, other, moved, mirror)


def make_copies(x: Tensor, hosts: Tensor, generator: torch.Generator) -> Tensor:
    """Copies as people make them: other colors, light and contrast, gray, blurred, noisy, slightly turned, or lying
    in one of `hosts`."""
    n = len(x)

    def some(share: float) -> Tensor:
        return (torch.rand(n, generator=generator) < share)[:, None, None, None]

    x = torch.where(some(0.5), augment.hue(x, _uniform(n, -math.pi, math.pi, generator)), x)
    x = torch.where(some(0.15), x.mean(1, keepdim=True), x)
    contrast, light = (
        _uniform(n, 0.5, 1.4, generator)[:, None, None, None],
        _uniform(n, -0.3, 0.3, generator)[:, None, None, None],
    )
    x = torch.where(
        some(0.5),
        ((x - x.mean((2, 3), keepdim=True)) * contrast + x.mean((2, 3), keepdim=True) + light).clamp(-1, 1),
        x,
    )
    x = torch.where(
        some(0.25), augment.affine(x, _uniform(n, -0.2, 0.2, generator), torch.ones(n), torch.zeros(n, 2)), x
    )
    # laid into a host, most of it in sight
    part = _uniform(n, 0.72, 0.95, generator)
    place = (torch.rand(n, 2, generator=generator) * 2 - 1) * (1 - part)[:, None]
    straight, offset = torch.zeros(n), -place / part[:, None]
    inside = augment.affine(torch.full_like(x[:, :1], -1.0), straight, part, offset) < 0
    x = torch.where(some(0.35), torch.where(inside, augment.affine(x, straight, part, offset), hosts), x)
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.where(some(0.2), soft, x)
    return torch.where(some(0.2), x + 0.1 * torch.randn(x.shape, generator=generator), x)
