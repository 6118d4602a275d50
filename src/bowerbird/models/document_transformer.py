"""A decoder over documents of words and picture codes, one vocabulary for both: what comes next, where.

Each position knows which symbol it holds, the place of that symbol in its document (a word's number, a cell of the
picture's grid), the place of the symbol it predicts, and the number of the document. So a document means the same
wherever it stands, any number of documents can precede it, and cells can come in any order, as infilling needs.

Source: RA-CM3, arXiv 2211.12561; the place of what is predicted as a second embedding: sigma-GPT, arXiv 2404.09562.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.models.causal_attention import attend_causally
from bowerbird.models.packed_weights import multiply, pack


@dataclass(frozen=True)
class Prefix:
    """What `rows` of a batch have before them in common, keys and values of each layer with B = 1; it is read, not
    copied. `computed` `(B,)`: the row that stands at each place while these are computed, itself or one of them, so
    that as many are always computed together."""

    keys: list[Tensor]
    values: list[Tensor]
    rows: Tensor
    computed: Tensor


@dataclass
class KeyValues:
    """Keys and values of what was read, of each layer, `(B, heads, capacity, d)`; the first `length` count. `shared`:
    those before them; each row has one of these prefixes, or there is none."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0
    shared: tuple[Prefix, ...] = ()

    def prefix(self, rows: Sequence[int], count: int) -> Prefix:
        """What was read, cut to its length, before the `rows` of `count`."""
        keys, values = ([part[:, :, : self.length] for part in parts] for parts in (self.keys, self.values))
        computed = [row if row in rows else rows[0] for row in range(count)]
        device = keys[0].device
        return Prefix(keys, values, torch.tensor(rows, device=device), torch.tensor(computed, device=device))


class Block(nn.Module):
    """Causal self-attention with normalized queries and keys, then a feed-forward layer, both residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.norm_q, self.norm_k = (nn.LayerNorm(channels // heads, bias=False) for _ in range(2))
        self.out = nn.Linear(channels, channels, bias=False)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, h: Tensor, seen: KeyValues | None = None, layer: int = 0) -> Tensor:
        """`(B, L, C)` -> the same; with `seen`, after what was read, to which it is added."""
        q, k, v = multiply(self.qkv, self.norm1(h)).view(*h.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype)
        if seen is None:
            read = attend_causally(q, k, v)
        else:
            end = seen.length + k.shape[2]
            keys, values = seen.keys[layer], seen.values[layer]
            keys[:, :, seen.length : end], values[:, :, seen.length : end] = k, v
            read = _attend(q, keys[:, :, :end], values[:, :, :end], seen.shared, layer)
        h = h + multiply(self.out, read.transpose(1, 2).flatten(2))
        made: Tensor = h + multiply(self.down, F.gelu(multiply(self.up, self.norm2(h))))
        return made


def _attend(q: Tensor, k: Tensor, v: Tensor, shared: Sequence[Prefix], layer: int) -> Tensor:
    """Attention of the last positions to all before them, and to the prefix of each row, whose keys are read once for
    all rows that have it."""
    new, scale = q.shape[2], q.shape[3] ** -0.5
    scores = (q @ k.transpose(2, 3)).float() * scale
    if new > 1:
        later = torch.ones(new, k.shape[2], dtype=torch.bool, device=q.device).triu(k.shape[2] - new + 1)
        scores = scores.masked_fill(later, -torch.inf)
    if not shared:
        return scores.softmax(-1).to(v.dtype) @ v
    if len(shared) == 1:
        read, chances = _after(q, scores, shared[0].keys[layer], shared[0].values[layer])
        return read + chances @ v
    read, chances = torch.empty(q.shape, dtype=v.dtype, device=q.device), torch.empty_like(scores, dtype=v.dtype)
    for prefix in shared:
        part = _after(q[prefix.computed], scores[prefix.computed], prefix.keys[layer], prefix.values[layer])
        read[prefix.rows], chances[prefix.rows] = part[0][prefix.rows], part[1][prefix.rows]
    return read + chances @ v


def _after(q: Tensor, scores: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """What is read in a prefix `(1, heads, L, d)`, and the chances of what stands behind it, whose `scores` are
    given."""
    rows, heads, new, dim = q.shape
    together = q.transpose(0, 1).reshape(1, heads, rows * new, dim)
    before = (together @ k.transpose(2, 3)).float() * dim**-0.5
    before = before.view(heads, rows, new, -1).transpose(0, 1)
    chances = torch.cat([before, scores], 3).softmax(-1).to(v.dtype)
    size = before.shape[3]
    flat = chances[..., :size].transpose(0, 1).reshape(1, heads, rows * new, size)
    return (flat @ v).view(heads, rows, new, dim).transpose(0, 1), chances[..., size:]


class Places(nn.Module):
    """An embedding of the places of a document: words and marks by number, cells of the grid by row and column too."""

    def __init__(self, count: int, first: int, side: int, channels: int) -> None:
        super().__init__()
        self.each = nn.Embedding(count, channels)
        self.row, self.column = nn.Embedding(side + 1, channels), nn.Embedding(side + 1, channels)
        cell = torch.arange(count) - first
        inside = (cell >= 0) & (cell < side * side)
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", torch.where(inside, cell // side + 1, 0), persistent=False)
        self.register_buffer("columns", torch.where(inside, cell % side + 1, 0), persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """Places of any shape -> their embeddings."""
        made: Tensor = self.each(places) + self.row(self.rows[places]) + self.column(self.columns[places])
        return made


class DocumentTransformer(ModelMixin, ConfigMixin):
    """`text_tokens` words, then `image_tokens` codes of a picture's grid of edge `side`, then three marks; captions of
    at most `text_length` tokens. `documents`: most that may precede the one that is generated."""

    @register_to_config
    def __init__(
        self,
        text_tokens: int = 1024,
        image_tokens: int = 2048,
        text_length: int = 32,
        side: int = 16,
        documents: int = 8,
        channels: int = 320,
        layers: int = 8,
        head_channels: int = 64,
    ) -> None:
        super().__init__()
        vocabulary = text_tokens + image_tokens + 3
        count = 1 + text_length + 1 + side * side + 2
        self.tokens = nn.Embedding(vocabulary, channels)
        self.places, self.following = (Places(count, text_length + 2, side, channels) for _ in range(2))
        self.document = nn.Embedding(documents + 1, channels)
        self.blocks = nn.ModuleList(Block(channels, channels // head_channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                deep = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)

    def forward(
        self, tokens: Tensor, places: Tensor, following: Tensor, documents: Tensor, seen: KeyValues | None = None
    ) -> Tensor:
        """Symbols, their places, the places of what comes next and the documents' numbers, each `(B, L)` -> features
        `(B, L, C)`; see `logits`. With `seen`: after what was read, to which they are added."""
        h = self.tokens(tokens) + self.places(places) + self.following(following) + self.document(documents)
        for layer, block in enumerate(self.blocks):
            h = block(h, seen, layer)
        if seen is not None:
            seen.length += tokens.shape[1]
        made: Tensor = self.norm(h)
        return made

    def logits(self, features: Tensor) -> Tensor:
        """Features `(…, C)` -> the logits of every symbol `(…, symbols)`; the head is the symbols' embedding."""
        return multiply(self.tokens, features)

    def pack(self) -> None:
        """From now on few symbols at a time are predicted by weights of 8 bits (`packed_weights`)."""
        pack([*(layer for layer in self.modules() if isinstance(layer, nn.Linear)), self.tokens])

    def empty(self, rows: int, capacity: int, shared: tuple[Prefix, ...] = ()) -> KeyValues:
        """Room for keys and values of so many positions."""
        width, size = int(self.config["channels"]), int(self.config["head_channels"])
        shape = (rows, width // size, capacity, size)
        parts = [[torch.zeros(shape, device=self.device, dtype=self.dtype) for _ in self.blocks] for _ in range(2)]
        return KeyValues(parts[0], parts[1], 0, shared)
