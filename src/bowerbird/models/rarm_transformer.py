"""The transformer of RARM: a picture's tokens in raster order, each predicted from those before it and from the
neighbors' embeddings.

Its blocks are diffusers' `BasicTransformerBlock`: causal self-attention, cross-attention to a set without positions, a
gated feed-forward. Names and shapes are those of the released weights (364 tensors at their size).
Source: arXiv 2204.11824, section 3 and appendix; CompVis/retrieval-augmented-diffusion-models,
`rdm/modules/attention.py: RetrievalPatchTransformer`.

Differs from the release: generating keeps keys and values (`DecodingState`) where it ran the whole prefix again at
every token; what is computed is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.diffusion.conditions import Tokens
from bowerbird.models.causal_attention import attend_causally
from bowerbird.models.neighbor_unet import log_weights
from bowerbird.models.packed_weights import multiply, pack
from bowerbird.models.short_attention import MOST_KEYS


@dataclass
class DecodingState:
    """What generation need not compute again, a pair a block: `neighbors`, keys and values of the condition; `past`,
    those of the `length` positions so far, in room for all `(B, heads, positions, head_channels)`. `bias`: the
    logarithms of the condition's weights `(B, 1, 1, L)`."""

    neighbors: list[tuple[Tensor, Tensor]]
    bias: Tensor
    past: list[tuple[Tensor, Tensor]]
    length: int = 0


class RARMTransformer(ModelMixin, ConfigMixin):
    """`symbols` on `positions` places, from a condition of `embed_dim` numbers a token; the defaults are the released
    network.

    Read are two symbols more, as released: `symbols` is a mask, which the release never uses, `symbols` + 1 the start.
    """

    @register_to_config
    def __init__(
        self,
        symbols: int = 16384,
        positions: int = 256,
        channels: int = 768,
        layers: int = 18,
        head_channels: int = 64,
        embed_dim: int = 512,
    ) -> None:
        super().__init__()
        self.proj_in = nn.Embedding(symbols + 2, channels)
        self.positional_encoding = nn.Parameter(torch.randn(channels, positions) / channels**0.5)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(channels, channels // head_channels, head_channels, cross_attention_dim=embed_dim)
            for _ in range(layers)
        )
        self.proj_out = nn.Conv1d(channels, symbols, 1)

    def pack(self) -> None:
        """From now on tokens one by one are predicted by weights of 8 bits (`packed_weights`)."""
        pack([*(layer for layer in self.modules() if isinstance(layer, nn.Linear)), self.proj_out])

    def shifted(self, tokens: Tensor) -> Tensor:
        """Symbols `(B, N)` -> what is read to predict each of them: the start, then all but the last."""
        start = torch.full_like(tokens[:, :1], self.config["symbols"] + 1)
        return torch.cat([start, tokens[:, :-1]], 1)

    @apply_forward_hook  # where weights are moved to the device for a pass
    def begin(self, condition: Tokens) -> DecodingState:
        """The state before the first position, with the condition's keys and values."""
        neighbors = [_keys_values(block.attn2, condition.keys) for block in self.transformer_blocks]
        bias = log_weights(condition.weights)[:, None, None].to(condition.keys.dtype)
        k = neighbors[0][0]
        room = (k.shape[0], k.shape[1], self.config["positions"], k.shape[3])
        return DecodingState(neighbors, bias, [(k.new_empty(room), k.new_empty(room)) for _ in neighbors])

    def forward(self, sample: Tensor, condition: Tokens) -> Tensor:
        """What is read at each position (see `shifted`) `(B, T)` -> the logits of its token `(B, T, symbols)`."""
        return self.logits(self.features(sample, condition))

    def features(self, sample: Tensor, condition: Tokens) -> Tensor:
        """What is read at each position `(B, T)` -> what the logits are made of `(B, T, channels)`."""
        h = self._embed(sample, 0)
        bias = log_weights(condition.weights)[:, None, None].to(condition.keys.dtype)
        for block in self.transformer_blocks:
            h = _run_block(block, h, _keys_values(block.attn2, condition.keys), bias, None)
        return h

    @apply_forward_hook
    def extend(self, sample: Tensor, state: DecodingState) -> Tensor:
        """What is read at the next T positions `(B, T)` -> the logits of the token after the last of them `(B,
        symbols)`; `state` goes on by T."""
        h, count = self._embed(sample, state.length), sample.shape[1]
        blocks = zip(self.transformer_blocks, state.neighbors, state.past, strict=True)
        if count == 1:
            h = h[:, 0]
            for block, neighbors, past in blocks:
                h = _run_position(block, h, neighbors, state.bias, past, state.length)
        else:
            for block, neighbors, past in blocks:
                h = _run_block(block, h, neighbors, state.bias, (past, state.length))
            h = h[:, -1]
        state.length += count
        return self.logits(h)

    def _embed(self, sample: Tensor, first: int) -> Tensor:
        embedded: Tensor = self.proj_in(sample)
        return embedded + self.positional_encoding[:, first : first + sample.shape[1]].T

    def logits(self, h: Tensor) -> Tensor:
        """Features of any shape `(…, channels)` -> the logits `(…, symbols)`."""
        return multiply(self.proj_out, h)


def for_embeddings(network: RARMTransformer, embed_dim: int) -> RARMTransformer:
    """A network with the weights of `network` but for what reads a condition, new and untrained, for one of `embed_dim`
    numbers a token."""
    made: RARMTransformer = RARMTransformer.from_config({**network.config, "embed_dim": embed_dim})
    reading = (".attn2.to_k.", ".attn2.to_v.")
    known = {name: x for name, x in network.state_dict().items() if not any(part in name for part in reading)}
    made.load_state_dict({**made.state_dict(), **known})
    return made


def _heads(attention: Any, x: Tensor) -> Tensor:
    """`(B, T, heads c)` -> `(B, heads, T, c)`."""
    return x.view(*x.shape[:2], attention.heads, -1).transpose(1, 2)


def _keys_values(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return _heads(attention, attention.to_k(x)), _heads(attention, attention.to_v(x))


def _run_block(
    block: Any,
    h: Tensor,
    neighbors: tuple[Tensor, Tensor],
    bias: Tensor,
    past: tuple[tuple[Tensor, Tensor], int] | None,
) -> Tensor:
    """A block over the positions `h` `(B, T, channels)`; `past`: keys and values of the positions before these, which
    are written behind them, and how many those are."""
    learning = h.device.type == "cpu" and torch.is_grad_enabled()
    x = block.norm1(h)
    if learning:
        q, k, v = _projected_at_once(block.attn1, x)
    else:
        q = _heads(block.attn1, block.attn1.to_q(x))
        k, v = _keys_values(block.attn1, x)
    mask = None
    if past is not None:
        (keys, values), length = past
        end = length + x.shape[1]
        keys[:, :, length:end], values[:, :, length:end] = k, v
        k, v = keys[:, :, :end], values[:, :, :end]
        if length and x.shape[1] > 1:
            mask = torch.ones(x.shape[1], end, dtype=torch.bool, device=x.device).tril(length)
    if mask is None and x.shape[1] > 1:
        read = attend_causally(q, k, v)
    else:
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    h = h + _out(block.attn1, read)
    x = block.norm2(h)
    q = _heads(block.attn2, block.attn2.to_q(x))
    if learning and neighbors[0].shape[2] <= MOST_KEYS:
        # see short_attention.py; written out, as torch's own computes bfloat16 in float32 there
        with torch.autocast("cpu", enabled=False):  # which has the softmax in float32
            scores = q * q.shape[3] ** -0.5 @ neighbors[0].transpose(2, 3) + bias.to(q.dtype)
            seen = scores.softmax(-1) @ neighbors[1]
    else:
        seen = F.scaled_dot_product_attention(q, *neighbors, attn_mask=bias.to(q.dtype))
    h = h + _out(block.attn2, seen)
    x = block.norm3(h)
    made: Tensor = h + (_feed_forward_in_halves(block.ff, x) if learning else block.ff(x))
    return made


def _projected_at_once(attention: Any, x: Tensor) -> list[Tensor]:
    """Queries, keys and values by one product, whose gradient is one too: less is cast and added up."""
    weight = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
    return [_heads(attention, part) for part in F.linear(x, weight).chunk(3, -1)]


def _feed_forward_in_halves(feed_forward: Any, x: Tensor) -> Tensor:
    """What diffusers' gated layer computes, each half as a product of its own: the GELU of half the columns of a
    matrix, and its gradient above all, takes twice the time of that of a whole one."""
    own, out = feed_forward.net[0].proj, feed_forward.net[2]
    (wide, gate), (wide_bias, gate_bias) = own.weight.chunk(2), own.bias.chunk(2)
    made: Tensor = out(F.linear(x, wide, wide_bias) * F.gelu(F.linear(x, gate, gate_bias)))
    return made


def _run_position(
    block: Any,
    h: Tensor,
    neighbors: tuple[Tensor, Tensor],
    bias: Tensor,
    past: tuple[Tensor, Tensor],
    length: int,
) -> Tensor:
    """`_run_block` over one position `(B, channels)`, the same to the last bit. Reading the weights is most of what it
    takes at batch 1, and calling modules was most of the rest, so their functions are called."""
    own, other = block.attn1, block.attn2
    rows, channels = h.shape
    each = (rows, own.heads, channels // own.heads)
    x = _normalized(block.norm1, h)
    keys, values = past
    keys[:, :, length] = multiply(own.to_k, x).view(each)
    values[:, :, length] = multiply(own.to_v, x).view(each)
    q = multiply(own.to_q, x).view(each)[:, :, None]
    end = length + 1
    read = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end])
    h = h + multiply(own.to_out[0], read.reshape(rows, channels))
    q = multiply(other.to_q, _normalized(block.norm2, h)).view(each)[:, :, None]
    read = F.scaled_dot_product_attention(q, *neighbors, attn_mask=bias.to(q.dtype))
    h = h + multiply(other.to_out[0], read.reshape(rows, channels))
    wide, gate = multiply(block.ff.net[0].proj, _normalized(block.norm3, h)).chunk(2, -1)
    made: Tensor = h + multiply(block.ff.net[2], wide * F.gelu(gate))
    return made


def _normalized(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _out(attention: Any, x: Tensor) -> Tensor:
    x = x.transpose(1, 2).flatten(2)
    for layer in attention.to_out:
        x = layer(x)
    return x
