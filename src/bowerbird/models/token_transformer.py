"""A transformer over a picture's tokens: symbols and masks in, the logits of what each symbol was out.

Blocks of tokens (`patch_size` a side) are one position, so that 16 x 16 tokens cost as much as 64 words. Each position
attends to the others and to the condition's tokens. Source: VQ-Diffusion, arXiv 2111.14822, section 4.3, with
diffusers' transformer blocks.

Differs from the paper: the time enters as a vector added to every position, not through adaptive norms; how much is
masked says it already.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from bowerbird.diffusion.conditions import Tokens
from bowerbird.models.neighbor_unet import log_weights


class TokenTransformer(ModelMixin, ConfigMixin):
    """`symbols` + 1 symbols (the last is the mask) on a grid of edge `sample_size`, with a condition of `embed_dim`
    numbers a token."""

    @register_to_config
    def __init__(
        self,
        symbols: int = 512,
        sample_size: int = 16,
        patch_size: int = 2,
        channels: int = 192,
        layers: int = 6,
        head_channels: int = 64,
        embed_dim: int = 385,
        times: int = 100,
        replaced: float = 0.1,
    ) -> None:
        super().__init__()
        inner = channels // patch_size**2 * 2
        self.tokens = nn.Embedding(symbols + 1, inner)
        self.project_in = nn.Conv2d(inner, channels, patch_size, stride=patch_size)
        self.place = nn.Parameter(torch.randn((sample_size // patch_size) ** 2, channels) * 0.02)
        self.time = nn.ModuleList(
            [Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0), TimestepEmbedding(channels, channels)]
        )
        self.condition = nn.Linear(embed_dim, channels)
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(channels, channels // head_channels, head_channels, cross_attention_dim=channels)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.project_out = nn.ConvTranspose2d(channels, inner, patch_size, stride=patch_size)
        self.logits = nn.Linear(inner, symbols)

    def forward(self, sample: Tensor, timestep: Tensor, condition: Tokens) -> Tensor:
        """Symbols `(B, N)` at times `(B,)` or one for all -> logits `(B, N, symbols)`."""
        side, patch = self.config["sample_size"], self.config["patch_size"]
        h = self.tokens(sample).transpose(1, 2).unflatten(2, (side, side))
        h = self.project_in(h).flatten(2).transpose(1, 2)
        at = timestep.reshape(-1).float() * 1000 / self.config["times"]  # on the scale the waves are made for
        when = self.time[1](self.time[0](at).to(h.dtype))
        h = h + self.place + when[:, None]
        keys = self.condition(condition.keys)
        bias = log_weights(condition.weights)[:, None].to(h.dtype)
        for block in self.blocks:
            h = block(h, encoder_hidden_states=keys, encoder_attention_mask=bias)
        h = self.norm(h).transpose(1, 2).unflatten(2, (side // patch, side // patch))
        made: Tensor = self.logits(self.project_out(h).flatten(2).transpose(1, 2))
        return made
