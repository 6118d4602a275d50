"""The networks behind an encoder that describes a picture as a whole and place by place.

An embedding has three parts: *semantic*, what the picture shows, which texts share; *patches*, a grid of tokens from
which the picture can be given back; *style*, how it is drawn, whatever it shows. Search takes all of it as one vector,
in which the patches count as an appearance; a generator takes it apart (`core.types.TokenLayout`) and attends to the
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core.types import TokenLayout
from bowerbird.models.small_encoder import (
    ResidualBlock,
    WordTower,
    contributions,
    halving_stages,
    run_stages,
    whole_and_places,
)


@dataclass(frozen=True)
class PatchEncoderConfig:
    """Sizes of the encoder. The weights are the lengths of the parts in search, beside a semantic part of 1."""

    image_size: int = 64
    channels: tuple[int, ...] = (32, 64, 128, 160)
    meaning_dim: int = 144
    grid: int = 4
    token_dim: int = 64
    token_weight: float = 0.5
    style_dim: int = 48
    style_weight: float = 0.25
    buckets: int = 6144
    text_dim: int = 128

    @property
    def layout(self) -> TokenLayout:
        return TokenLayout(self.meaning_dim, self.grid**2, self.token_dim, self.style_dim, self.token_weight)

    @property
    def embed_dim(self) -> int:
        return self.layout.dim


class PatchEncoderModel(WordTower):
    """Picture `(n, 3, S, S)` in [-1, 1] or text -> raw embedding `(n, embed_dim)`; `.encode_pixels` and
    `.encode_text`."""

    def __init__(self, config: PatchEncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        if config.image_size != config.grid * 2 ** len(channels):
            raise ValueError(
                f"{len(channels)} halvings of {config.image_size} px do not end in a grid of {config.grid}"
            )
        self.stages = halving_stages(channels)
        last = channels[-1]
        self.semantic = nn.Sequential(
            nn.GroupNorm(8, last), nn.SiLU(), nn.Conv2d(last, 48, 1), nn.Flatten(),
            nn.Linear(48 * config.grid**2, config.meaning_dim),
        )  # fmt: skip
        self.style = nn.Sequential(nn.LayerNorm(2 * sum(channels)), nn.Linear(2 * sum(channels), config.style_dim))
        # what a patch looks like: the features there, and the pixels themselves by a linear map
        self.patches = nn.Sequential(nn.GroupNorm(8, last), nn.SiLU(), nn.Conv2d(last, config.token_dim, 1))
        self.pixels = nn.Conv2d(3, config.token_dim, config.image_size // config.grid, config.image_size // config.grid)
        self.patch_mean = nn.Parameter(torch.zeros(config.token_dim), requires_grad=False)
        self.patch_scale = nn.Parameter(torch.ones(config.token_dim), requires_grad=False)
        self.build_words(config.buckets, config.text_dim, config.meaning_dim)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(n, 3, S, S)` -> semantic and style, of length 1, and the patches `(n, tokens, token_dim)` as the layers
        give them; `normal_patches` brings those to unit variance."""
        return self._parts(x, *run_stages(self.stages, x))

    def _parts(self, x: Tensor, h: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        style = self.style(statistics)
        patches = (self.patches(h) + self.pixels(x)).flatten(2).transpose(1, 2)
        return F.normalize(self.semantic(h).float(), dim=1), F.normalize(style.float(), dim=1), patches.float()

    def normal_patches(self, patches: Tensor) -> Tensor:
        """Patches `(n, tokens, token_dim)` -> the same with mean 0 and deviation 1 in each dimension over the
        training's pictures."""
        return (patches - self.patch_mean) * self.patch_scale

    @torch.no_grad()
    def fit_patches(self, patches: Tensor) -> None:
        """Set what `normal_patches` uses from the patches `(n, tokens, token_dim)` of many pictures."""
        flat = patches.flatten(0, 1)
        self.patch_mean.copy_(flat.mean(0))
        self.patch_scale.copy_(1 / flat.std(0).clamp(min=1e-6))

    def encode_pixels(self, x: Tensor) -> Tensor:
        """`(n, 3, S, S)` in [-1, 1] -> `(n, embed_dim)`."""
        return self._weighed(*self.parts(x))

    def _weighed(self, semantic: Tensor, style: Tensor, patches: Tensor) -> Tensor:
        tokens = self.normal_patches(patches).flatten(1)
        tokens = tokens * (self.config.token_weight / tokens.shape[1] ** 0.5)
        return torch.cat([semantic, tokens, self.config.style_weight * style], 1)

    def encode_with_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode_pixels` gives, and the semantic part with what each place adds to it, of length 1 each, `(n, 1 +
        places, meaning_dim)`: the patches themselves are trained to give the picture back, in a space that no text
        shares."""
        h, statistics = run_stages(self.stages, x)
        *features, _, last = self.semantic
        places = h
        for layer in features:
            places = layer(places)
        assert isinstance(last, nn.Linear)
        return self._weighed(*self._parts(x, h, statistics)), whole_and_places(contributions(places, last))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """n texts -> `(n, embed_dim)`, zero but for the semantic part."""
        return F.pad(self.text_meaning(texts), (0, self.config.embed_dim - self.config.meaning_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_pixels(x)


class PatchDecoder(nn.Module):
    """Tokens `(n, tokens, token_dim)` -> the picture `(n, 3, S, S)`: what makes training put the picture into them."""

    def __init__(self, config: PatchEncoderConfig) -> None:
        super().__init__()
        self.side = config.grid
        widths = list(reversed(config.channels))
        layers: list[nn.Module] = [nn.Conv2d(config.token_dim, widths[0], 3, padding=1), ResidualBlock(widths[0])]
        for above, below in pairwise(widths):
            layers += [nn.Conv2d(above, 4 * below, 1), nn.PixelShuffle(2), ResidualBlock(below)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 12, 3, 1, 1))
        self.direct = nn.ConvTranspose2d(
            config.token_dim, 3, config.image_size // config.grid, config.image_size // config.grid
        )

    def forward(self, tokens: Tensor) -> Tensor:
        grid = tokens.transpose(1, 2).reshape(len(tokens), -1, self.side, self.side)
        return F.pixel_shuffle(self.layers(grid), 2) + self.direct(grid)
