"""Re-Imagen's U-Net: neighbors enter as pictures, through the same down-stack as the noisy one.

Each neighbor, clean and at t = 0, walks down with its own caption, and its features are kept at every attention
stage. The noisy picture walks down, attends at each stage to its text and to the K F F places of its neighbors'
features there, and walks up. Neighbors are a set: their features say where in the picture they are, not which
neighbor they are of, so their order cannot matter.
Source: arXiv 2209.14491, section 3.

Differs from the paper: the null of each condition is a trained token that is always attended to, so that "nothing" is
the same set for any K; with `up_attention` the up-stack attends too, since identity is fine detail and detail is
generated on the way up.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.diffusion.conditions import FeatureMaps, Tokens

NEVER = -10_000.0
"""Attention bias of what is not there."""


def log_weights(weights: Tensor) -> Tensor:
    """Attention bias with which a token counts `weights` times: log(weight); `NEVER` for 0."""
    return torch.where(weights > 0, weights.clamp(min=1e-30).log(), torch.full_like(weights, NEVER))


def places(side: int, channels: int) -> Tensor:
    """Sines and cosines of the row and of the column of each place, from one wave a picture to one a place: `(side
    side, channels)`."""
    quarter = channels // 4
    at = (torch.arange(side) + 0.5) / side
    angle = at[:, None] * math.pi * torch.logspace(0, math.log10(max(2, side)), quarter)[None]
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    table = torch.cat([wave[:, None].expand(-1, side, -1), wave[None].expand(side, -1, -1)], 2).reshape(side * side, -1)
    return F.pad(table, (0, channels - table.shape[1]))


@lru_cache(maxsize=64)
def _places_on(side: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return places(side, channels).to(device, dtype)


class AttentionStage(nn.Module):
    """Attention to the picture itself, to the text and to the neighbors, then a feed-forward layer; each added to
    what came in."""

    def __init__(self, channels: int, head_channels: int, text_dim: int, *, itself: bool = True) -> None:
        super().__init__()
        heads: dict[str, Any] = {"heads": max(1, channels // head_channels), "dim_head": min(channels, head_channels)}
        self.norms = nn.ModuleList(nn.LayerNorm(channels) if itself or i else nn.Identity() for i in range(4))
        self.itself = Attention(channels, **heads) if itself else None
        self.text = Attention(channels, cross_attention_dim=text_dim, **heads)
        self.neighbors = Attention(channels, cross_attention_dim=channels, **heads)
        self.feed = FeedForward(channels, mult=2, activation_fn="gelu")
        self.no_text, self.no_neighbor = (
            nn.Parameter(torch.randn(text_dim) * 0.02),
            nn.Parameter(torch.randn(channels) * 0.02),
        )

    def forward(
        self, x: Tensor, text: Tokens | None, features: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`(B, C, F, F)`, square, with the neighbors' `features` `(B, K, F F, C)` -> the same shape, and its own
        features `(B, F F, C)`."""
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        where = _places_on(h, c, x.device, x.dtype)
        if self.itself is not None:
            tokens = tokens + self.itself(self.norms[0](tokens) + where)
        keys, bias = _with_null(
            self.no_text, None if text is None else text.keys, None if text is None else text.weights, tokens
        )
        tokens = tokens + self.text(self.norms[1](tokens), encoder_hidden_states=keys, attention_mask=bias)
        own = self.norms[2](tokens) + where
        if features is not None and weights is not None:
            features, weights = features.flatten(1, 2), weights.repeat_interleave(features.shape[2], 1)
        keys, bias = _with_null(self.no_neighbor, features, weights, tokens)
        tokens = tokens + self.neighbors(own, encoder_hidden_states=keys, attention_mask=bias)
        tokens = tokens + self.feed(self.norms[3](tokens))
        return tokens.transpose(1, 2).reshape(b, c, h, w), own


def _with_null(null: Tensor, keys: Tensor | None, weights: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """The null token before `keys`, and the bias of all of them; the null alone, which needs no bias, where there are
    no keys."""
    first = null.to(like.dtype).expand(len(like), 1, -1)
    if keys is None or weights is None:
        return first, None
    kind = like.device.type
    lowered = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(
        kind
    )  # queries are, a bias has to follow
    dtype = torch.get_autocast_dtype(kind) if lowered else like.dtype
    return torch.cat([first, keys.to(like.dtype)], 1), F.pad(log_weights(weights.float()), (1, 0))[:, None].to(dtype)


class Level(nn.Module):
    """One resolution of either stack: residual blocks, attention after the last of them, and the way to the next
    resolution."""

    def __init__(
        self, resnets: list[Any], stage: AttentionStage | None, *, shrink: Any = None, grow: Any = None
    ) -> None:
        super().__init__()
        self.resnets, self.stage, self.shrink, self.grow = nn.ModuleList(resnets), stage, shrink, grow


class NeighborUNet(ModelMixin, ConfigMixin):
    """Predicts from a noisy picture, text tokens and neighbors' features; `encode_neighbors` makes the features, once
    a picture.

    `patch_size`: the picture is folded so that a place holds so many pixels a side. `low_size`: edge of the picture
    that a super-resolution stage enlarges, which is put beside the noisy one (0: a first stage). `layers_per_block`,
    `attention` and `itself` (whether a level attends to the neighbors and the text, and to the picture itself) have
    one entry a level. `prediction_type`: what it was trained to give: `v_prediction`, `epsilon`, or `sample`, the
    clean picture.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        low_size: int = 0,
        patch_size: int = 2,
        block_out_channels: tuple[int, ...] = (64, 96, 128),
        layers_per_block: tuple[int, ...] = (1, 1, 1),
        attention: tuple[bool, ...] = (True, True, True),
        itself: tuple[bool, ...] = (True, True, True),
        head_channels: int = 32,
        text_dim: int = 96,
        time_dim: int = 256,
        up_attention: bool = True,
        prediction_type: str = "v_prediction",
    ) -> None:
        super().__init__()
        widths = tuple(block_out_channels)
        cells = patch_size**2
        self.time = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], time_dim)
        self.level_embedding = TimestepEmbedding(widths[0], time_dim) if low_size else None
        self.conv_in = nn.Conv2d((2 * in_channels if low_size else in_channels) * cells, widths[0], 3, padding=1)

        def resnets(level: int, first: int, skip: int) -> list[Any]:
            """Those of a level that is handed `first` channels, and `skip` more before each."""
            widths_in = [first, *[widths[level]] * (layers_per_block[level] - 1)]
            return [_resnet(width + skip, widths[level], time_dim) for width in widths_in]

        def stage(level: int, wanted: bool) -> AttentionStage | None:
            return AttentionStage(widths[level], head_channels, text_dim, itself=itself[level]) if wanted else None

        down, up = [], []
        last = len(widths) - 1
        for level, width in enumerate(widths):
            first = resnets(level, widths[max(0, level - 1)], 0)
            down.append(
                Level(
                    first,
                    stage(level, attention[level]),
                    shrink=Downsample2D(width, use_conv=True, name="op") if level < last else None,
                )
            )
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList(
            [_resnet(widths[-1], widths[-1], time_dim), _resnet(widths[-1], widths[-1], time_dim)]
        )
        for level in reversed(range(len(widths))):
            width = widths[level]
            first = resnets(level, widths[min(last, level + 1)], width)
            up.append(
                Level(
                    first,
                    stage(level, attention[level] and up_attention),
                    grow=Upsample2D(width, use_conv=True) if level else None,
                )
            )
        self.up = nn.ModuleList(up)
        self.norm_out = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.conv_out = nn.Conv2d(widths[0], in_channels * cells, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        self.conv_out.bias.data.zero_()  # type: ignore[union-attr]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: Tokens | None = None,
        neighbors: FeatureMaps | None = None,
        image: Tensor | None = None,
        level: Tensor | None = None,
    ) -> Tensor:
        """Noisy `(B, C, H, W)` at `timestep` (a number or `(B,)`) -> the prediction, of the same shape.

        `image` `(B, C, H, W)`, the enlarged picture of the stage below, and its noise `level` `(B,)` are for networks
        with `low_size`.
        """
        maps = list(neighbors.maps) if neighbors is not None and neighbors.weights.shape[1] else None
        weights = neighbors.weights if maps is not None and neighbors is not None else None
        x, embedding, _, skips = self._down(sample, timestep, text, image, level, maps, weights)
        for resnet in self.middle:
            x = resnet(x, embedding)
        above = list(maps or [])
        for block, attends in zip(_levels(self.up), reversed(self.config.attention), strict=True):
            for resnet in block.resnets:
                x = resnet(torch.cat([x, skips.pop()], 1), embedding)
            features = above.pop() if attends and above else None
            if block.stage is not None:
                x, _ = block.stage(x, text, features, weights)
            if block.grow is not None:
                x = block.grow(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.config.patch_size)

    @apply_forward_hook
    def encode_neighbors(
        self, pixels: Tensor, text: Tokens, weights: Tensor, image: Tensor | None = None
    ) -> FeatureMaps:
        """Neighbors `(B, K, C, H, W)` with the tokens of their captions `(B K, L, D)` -> what the noisy picture
        attends to.

        They are clean, at t = 0, and have no neighbors themselves. `image`: their low-resolution forms, for networks
        that take one.
        """
        b, k = pixels.shape[:2]
        flat = pixels.flatten(0, 1)
        zero = torch.zeros(b * k, device=flat.device)
        _, _, kept, _ = self._down(flat, zero, text, None if image is None else image.flatten(0, 1), zero, None, None)
        return FeatureMaps(tuple(features.view(b, k, *features.shape[1:]) for features in kept), weights)

    def _down(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: Tokens | None,
        image: Tensor | None,
        level: Tensor | None,
        maps: Any,
        weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """The lowest features, the embedding of the time, each stage's features, and what the up-stack is handed."""
        steps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time_embedding(self.time(steps).to(sample.dtype))
        if self.level_embedding is not None:
            assert image is not None
            assert level is not None
            sample = torch.cat([sample, image.to(sample.dtype)], 1)
            embedding = embedding + self.level_embedding(self.time(level.to(sample.device)).to(sample.dtype))
        x = self.conv_in(F.pixel_unshuffle(sample, self.config.patch_size))
        kept: list[Tensor] = []
        skips: list[Tensor] = []
        for block in _levels(self.down):
            for i, resnet in enumerate(block.resnets):
                x = resnet(x, embedding)
                if i == len(block.resnets) - 1 and block.stage is not None:
                    x, own = block.stage(x, text, None if maps is None else maps[len(kept)], weights)
                    kept.append(own)
                skips.append(x)
            if block.shrink is not None:
                x = block.shrink(x)
        return x, embedding, kept, skips


def _levels(stack: nn.ModuleList) -> list[Level]:
    return [level for level in stack if isinstance(level, Level)]


def _resnet(channels_in: int, channels_out: int, time_dim: int) -> Any:
    groups = {"groups": _groups(channels_in), "groups_out": _groups(channels_out)}
    return ResnetBlock2D(in_channels=channels_in, out_channels=channels_out, temb_channels=time_dim, **groups)


def _groups(channels: int) -> int:
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
