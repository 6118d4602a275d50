"""The networks behind the bundled `small` encoder: a convolutional picture tower and a text tower that takes any word.

Text is a bag of hashed words and letter n-grams, so an unseen word still lands near words it shares pieces with; order and
grammar are not represented. The picture tower keeps the 4x4 layout until its last linear map, because the embedding has to
say what a picture looks like (RDM paints from it), not only what it shows.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_WORDS = 64


def pieces(text: str, buckets: int) -> list[int]:
    """Hash buckets of the words of `text` and of their letter 3- to 5-grams, at most `MAX_WORDS` words; `[0]` for no words."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())[:MAX_WORDS]
    found: list[int] = []
    for word in words:
        marked = f"<{word[:32]}>"
        grams = {marked, *(marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1))}
        found += sorted(1 + zlib.crc32(gram.encode()) % (buckets - 1) for gram in grams)
    return found or [0]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm and SiLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


@dataclass(frozen=True)
class SmallEncoderConfig:
    """Sizes of the `small` encoder; the defaults are the bundled one (1.9M parameters)."""

    image_size: int = 64
    channels: tuple[int, ...] = (40, 80, 144, 144)
    layout_channels: int = 48
    embed_dim: int = 384
    buckets: int = 4096
    text_dim: int = 128


class SmallEncoderModel(nn.Module):
    """Picture `(n, 3, S, S)` in [-1, 1] or text -> raw embedding `(n, embed_dim)`; `.encode_pixels` and `.encode_text`.

    Plain torch rather than a diffusers `ModelMixin`: a search from the command line must not pay that import.
    """

    def __init__(self, config: SmallEncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, channels[0], 3, padding=1), ResidualBlock(channels[0])]
        for below, above in pairwise(channels):
            layers += [nn.Conv2d(below, above, 3, stride=2, padding=1), ResidualBlock(above)]
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.Conv2d(channels[-1], config.layout_channels, 1))
        side = config.image_size // 2 ** len(channels)
        self.project = nn.Linear(config.layout_channels * side * side, config.embed_dim)
        self.pieces = nn.EmbeddingBag(config.buckets, config.text_dim, mode="sum")
        self.piece_weight = nn.Embedding(config.buckets, 1)
        self.text = nn.Sequential(nn.LayerNorm(config.text_dim), nn.Linear(config.text_dim, 256), nn.SiLU(), nn.Linear(256, config.embed_dim))
        nn.init.zeros_(self.piece_weight.weight)

    def encode_pixels(self, x: Tensor) -> Tensor:
        """`(n, 3, S, S)` in [-1, 1] -> `(n, embed_dim)`."""
        return self.project(self.trunk(x).flatten(1))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """n texts -> `(n, embed_dim)`; each piece is weighted by a learnt importance, so common pieces can fade."""
        bags = [pieces(text, self.config.buckets) for text in texts]
        device = self.piece_weight.weight.device
        flat = torch.tensor([p for bag in bags for p in bag], device=device)
        offsets = torch.tensor([0, *(len(bag) for bag in bags)][:-1], device=device).cumsum(0)
        weights = self.piece_weight(flat)[:, 0].exp().to(self.pieces.weight.dtype)
        return self.text(self.pieces(flat, offsets, per_sample_weights=weights))

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_pixels(x)
