"""The networks behind the bundled `small` encoder: a picture tower and a text tower that takes any word.

A picture's embedding has three parts, because RDM generates from it and a purely contrastive one forgets color, layout
and line: *meaning* (a convolutional trunk; what text is matched with), *look* (principal components of the picture at
24 px: linear, so it says as much of pictures unlike the training's) and *hand* (statistics of the trunk's features
over all positions: how it is drawn, wherever things are). Text has the meaning alone; its zeros elsewhere stand for
the mean look.

Text is a bag of hashed words and letter n-grams, so an unseen word still lands near words it shares pieces with; order
and grammar are not represented.
"""

from __future__ import annotations

import copy
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


def words_of(text: str) -> list[str]:
    """The lower-case words of `text`, at most `MAX_WORDS`."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())[:MAX_WORDS]


def pieces(text: str, buckets: int) -> list[int]:
    """Hash buckets of the words of `text` and of their letter 3- to 5-grams; `[0]` for no words."""
    found: list[int] = []
    for word in words_of(text):
        marked = f"<{word[:32]}>"
        grams = {marked, *(marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1))}
        found += sorted(1 + zlib.crc32(gram.encode()) % (buckets - 1) for gram in grams)
    return found or [0]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm and SiLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = (
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


@dataclass(frozen=True)
class SmallEncoderConfig:
    """Sizes of the `small` encoder; the defaults are the bundled one. The weights are the lengths of the parts beside
    a meaning of 1."""

    image_size: int = 64
    channels: tuple[int, ...] = (32, 64, 128, 128)
    layout_channels: int = 48
    meaning_dim: int = 144
    look_dim: int = 208
    look_size: int = 24
    look_weight: float = 0.5
    hand_dim: int = 32
    hand_weight: float = 0.2
    buckets: int = 4096
    text_dim: int = 128

    @property
    def embed_dim(self) -> int:
        return self.meaning_dim + self.look_dim + self.hand_dim


def halving_stages(channels: Sequence[int]) -> nn.ModuleList:
    """Stages that each halve the edge of a picture, `channels[i]` wide."""
    first = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, channels[0], 3, padding=1), ResidualBlock(channels[0]))
    rest = [
        nn.Sequential(nn.Conv2d(below, above, 3, stride=2, padding=1), ResidualBlock(above))
        for below, above in pairwise(channels)
    ]
    return nn.ModuleList([first, *rest])


def run_stages(stages: nn.ModuleList, x: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures `(n, 3, S, S)` -> the features of the last stage `(n, c, h, w)`, and the statistics of every stage,
    float32 `(n, 2 * sum(channels))`."""
    statistics = []
    for stage in stages:
        x = stage(x)
        statistics += center_and_spread(x.float())
    return x, torch.cat(statistics, 1)


def center_and_spread(h: Tensor) -> list[Tensor]:
    """Mean and standard deviation over the places of `(n, c, h, w)`, each `(n, c)`."""
    if torch.is_grad_enabled():
        spread, center = torch.std_mean(h, dim=(2, 3))
        return [center, spread]
    # the same in two passes: torch's own takes a sixth of the network's time on a CPU
    flat = h.flatten(2)
    center = flat.mean(2)
    return [center, ((flat - center[..., None]).square().sum(2) / (flat.shape[2] - 1)).sqrt()]


class WordTower(nn.Module):
    """The half of an encoder that reads text: a bag of hashed pieces, each with an importance, then two layers."""

    buckets: int

    def build_words(self, buckets: int, text_dim: int, out: int) -> None:
        """Make the layers; a subclass calls it in its `__init__`."""
        self.buckets = buckets
        self.pieces = nn.EmbeddingBag(buckets, text_dim, mode="sum")
        self.piece_weight = nn.Embedding(buckets, 1)
        self.text = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, 256), nn.SiLU(), nn.Linear(256, out))
        nn.init.zeros_(self.piece_weight.weight)

    def text_meaning(self, texts: Sequence[str]) -> Tensor:
        """n texts -> `(n, out)` of length 1; each piece is weighted by a learned importance, so common pieces can
        fade."""
        bags = [pieces(text, self.buckets) for text in texts]
        device = self.piece_weight.weight.device
        flat = torch.tensor([p for bag in bags for p in bag], device=device)
        offsets = torch.tensor([0, *(len(bag) for bag in bags)][:-1], device=device).cumsum(0)
        weights = self.piece_weight(flat)[:, 0].exp().to(self.pieces.weight.dtype)
        return F.normalize(self.text(self.pieces(flat, offsets, per_sample_weights=weights)).float(), dim=1)

    def text_tokens(self, text: str) -> Tensor:
        """One text -> what it means, and what each of its words means alone, of length 1 each, `(m, out)`."""
        own = list(dict.fromkeys(words_of(text)))
        return self.text_meaning([text, *own] if len(own) > 1 else [text])


def contributions(features: Tensor, layer: nn.Linear) -> Tensor:
    """What each place of `features` `(n, c, h, w)` adds to `layer(features.flatten(1))`, `(n, h * w, out)`: together
    they are it, as the layer is linear."""
    channels, places = features.shape[1], features.shape[2] * features.shape[3]
    weights = layer.weight.view(-1, channels, places)
    return torch.einsum("dcp,ncp->npd", weights, features.flatten(2)) + layer.bias / places


def whole_and_places(tokens: Tensor) -> Tensor:
    """Contributions `(n, places, d)` with their sum before them, of length 1 each."""
    return F.normalize(torch.cat([tokens.sum(1, keepdim=True), tokens], 1).float(), dim=2)


class AreaByProducts(nn.Module):
    """What `F.interpolate(x, to, mode="area")` gives of pictures of side `size`, but for rounding: two products of
    matrices, which every format of networks has."""

    def __init__(self, size: int, to: int) -> None:
        super().__init__()
        self.shares: Tensor
        self.register_buffer("shares", F.interpolate(torch.eye(size)[None], to, mode="area")[0].T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return self.shares @ x @ self.shares.T


class PictureTower(nn.Module):
    """The network for pictures of a small encoder, in a form that can be exported."""

    def __init__(self, model: SmallEncoderModel) -> None:
        super().__init__()
        self.model = copy.copy(model)  # the weights are shared
        area = AreaByProducts(model.config.image_size, model.config.look_size).to(model.look_mean.device)
        self.area = area
        object.__setattr__(self.model, "_low", lambda x: area(x.float()).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode_pixels(x)


class SmallEncoderModel(WordTower):
    """Picture `(n, 3, S, S)` in [-1, 1] or text -> raw embedding `(n, embed_dim)`; `.encode_pixels` and `.encode_text`.

    Plain torch rather than a diffusers `ModelMixin`: a search from the command line must not pay that import.
    """

    def __init__(self, config: SmallEncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.stages = halving_stages(channels)
        self.layout = nn.Sequential(
            nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.Conv2d(channels[-1], config.layout_channels, 1)
        )
        side = config.image_size // 2 ** len(channels)
        self.meaning = nn.Linear(config.layout_channels * side * side, config.meaning_dim)
        self.hand = nn.Sequential(nn.LayerNorm(2 * sum(channels)), nn.Linear(2 * sum(channels), config.hand_dim))
        values = 3 * config.look_size**2
        self.look_mean = nn.Parameter(torch.zeros(values), requires_grad=False)
        self.look_basis = nn.Parameter(torch.zeros(values, config.look_dim), requires_grad=False)
        self.build_words(config.buckets, config.text_dim, config.meaning_dim)

    def _low(self, x: Tensor) -> Tensor:
        return F.interpolate(x.float(), size=self.config.look_size, mode="area").flatten(1)

    @torch.no_grad()
    def fit_look(self, x: Tensor) -> None:
        """Set the look's principal components from pictures `x` `(n, 3, S, S)`.

        Each is divided by the root of its deviation, half way to whitening, so that the faint ones (edges) count
        beside the strong ones (color); then all by one number, so that the mean length is 1.
        """
        low = self._low(x).double()
        mean = low.mean(0)
        values, vectors = torch.linalg.eigh((low - mean).T @ (low - mean) / len(low))
        values, vectors = values.flip(0)[: self.config.look_dim], vectors.flip(1)[:, : self.config.look_dim]
        vectors = (
            vectors * vectors.sum(0).sign()
        )  # an eigenvector's sign is free; fix it, so that a rerun gives the same encoder
        # fewer pictures than components: what never varied stays out, or noise of later pictures would be blown up
        basis = vectors * torch.where(values > 1e-6 * values[0], values.clamp(min=1e-12) ** -0.25, 0.0)
        basis /= ((low - mean) @ basis).norm(dim=1).mean().clamp(min=1e-12)
        self.look_mean.copy_(mean)
        self.look_basis.copy_(basis)

    def picture_parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(n, 3, S, S)` in [-1, 1] -> meaning and hand, of length 1, and look, of mean length 1 over the training's
        pictures."""
        return self._parts(x, *self._trunk(x))

    def _trunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's places, and the statistics of every layer."""
        h, statistics = run_stages(self.stages, x)
        return self.layout(h), statistics

    def _parts(self, x: Tensor, places: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        meaning = self.meaning(places.flatten(1))
        hand = self.hand(statistics)
        look = (self._low(x) - self.look_mean) @ self.look_basis
        return F.normalize(meaning.float(), dim=1), look.float(), F.normalize(hand.float(), dim=1)

    def encode_with_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode_pixels` gives, and the meaning with what each place adds to it, of length 1 each,
        `(n, 1 + places, meaning_dim)`."""
        places, statistics = self._trunk(x)
        tokens = whole_and_places(contributions(places, self.meaning))
        return self._weighed(*self._parts(x, places, statistics)), tokens

    def encode_pixels(self, x: Tensor) -> Tensor:
        """`(n, 3, S, S)` in [-1, 1] -> `(n, embed_dim)`."""
        return self._weighed(*self.picture_parts(x))

    def _weighed(self, meaning: Tensor, look: Tensor, hand: Tensor) -> Tensor:
        return torch.cat([meaning, self.config.look_weight * look, self.config.hand_weight * hand], 1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """n texts -> `(n, embed_dim)`, zero but for the meaning."""
        return F.pad(self.text_meaning(texts), (0, self.config.look_dim + self.config.hand_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_pixels(x)
