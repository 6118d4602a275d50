"""A small convolutional classifier of entity and style."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.models.small_encoder import ResidualBlock

if TYPE_CHECKING:
    pass


class ClassifierModel(nn.Module):
    """Picture `(n, 3, 64, 64)` in [-1, 1] -> features `(n, F)`, entity logits `(n, E)`, style logits `(n, S)`."""

    def __init__(self, channels: Sequence[int], entities: int, styles: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, channels[0], 5, padding=2),
            ResidualBlock(channels[0]),
        ]
        for below, above in pairwise(channels):
            layers += [nn.Conv2d(below, above, 3, stride=2, padding=1), ResidualBlock(above)]
        self.trunk = nn.Sequential(
            *layers, nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.features = nn.Linear(4 * channels[-1], 256)
        self.entity, self.style = nn.Linear(256, entities), nn.Linear(256, styles)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(self.trunk(x))
        hidden = F.silu(features)
        return features, self.entity(hidden), self.style(hidden)
