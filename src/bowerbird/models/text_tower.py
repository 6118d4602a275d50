"""Text as tokens for cross-attention: the bundled small tower, and T5 or CLIP through transformers.

The small tower takes any word: a word is the sum of its hashed letter n-grams, so an unseen one still lands near words
it shares pieces with; one layer of attention then lets words know their neighbors and their order. It learns together
with the network it serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.diffusion.conditions import Tokens
from bowerbird.models import network_files
from bowerbird.models.small_encoder import MAX_WORDS, pieces, words_of

T5_LENGTH = 128
"""Longest text for T5 in its tokens, as in Imagen; CLIP's own limit is 77."""


@lru_cache(maxsize=65536)
def _pieces_of(word: str, buckets: int) -> tuple[int, ...]:
    return tuple(pieces(word, buckets))


class SmallTextTower(ModelMixin, ConfigMixin):
    """Texts -> a start token and one token a word, `Tokens` of `(n, L, dim)`; a text without words has no token that
    counts."""

    @register_to_config
    def __init__(
        self, buckets: int = 4096, dim: int = 96, heads: int = 3, layers: int = 1, max_words: int = 24
    ) -> None:
        super().__init__()
        if max_words > MAX_WORDS:
            raise BowerbirdError(f"max_words is at most {MAX_WORDS}; got {max_words}")
        self.pieces = nn.EmbeddingBag(buckets, dim, mode="sum")
        self.norm = nn.LayerNorm(dim)
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.order = nn.Parameter(torch.randn(max_words, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.attend = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, texts: Sequence[str]) -> Tokens:
        """n texts of up to `max_words` words (the rest is cut) -> `Tokens`."""
        split = [words_of(text)[: self.config.max_words] for text in texts]
        # generating pads to the full length: kernels are chosen by shape, and a picture's last bit must not depend on
        # what it is generated with
        longest = max((len(words) for words in split), default=0) if self.training else self.config.max_words
        device = self.start.device
        keys = self.start.expand(len(texts), 1, -1)
        there = torch.tensor(
            [[1.0] * len(words) + [0.0] * (longest - len(words)) for words in split], device=device
        ).view(len(texts), longest)
        if longest:
            bags = [_pieces_of(word, self.config.buckets) for words in split for word in words]
            flat = torch.tensor([p for bag in bags for p in bag], device=device, dtype=torch.long)
            sizes = torch.tensor([len(bag) for bag in bags], device=device, dtype=torch.long)
            padded = self.start.new_zeros(len(texts), longest, len(self.start))
            if bags:
                vectors = self.norm(self.pieces(flat, sizes.cumsum(0) - sizes))
                padded = padded.to(vectors.dtype)
                padded[there.bool()] = vectors
            keys = torch.cat([keys.to(padded.dtype), padded + self.order[:longest].to(padded.dtype)], 1)
        any_word = (there.sum(1, keepdim=True) > 0).float()
        hidden = torch.cat(
            [torch.zeros_like(any_word), 1 - there], 1
        ).bool()  # the start token is always seen: no row without a key
        return Tokens(self.attend(keys, src_key_padding_mask=hidden), torch.cat([any_word, there], 1))


def text_dim(text_encoder: Any) -> int:
    """Numbers a token of the tower has."""
    config = text_encoder.config
    return int(
        config.dim
        if isinstance(text_encoder, SmallTextTower)
        else getattr(config, "d_model", None) or config.hidden_size
    )


def text_tokens(text_encoder: Any, tokenizer: Any, texts: Sequence[str]) -> Tokens:
    """n texts through the small tower (`tokenizer` None), or through T5 or CLIP with their tokenizer. An empty text
    has no token that counts."""
    if tokenizer is None:
        tokens: Tokens = text_encoder(texts)
        return tokens
    length = min(int(tokenizer.model_max_length), T5_LENGTH)
    fed = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt").to(
        text_encoder.device
    )
    keys: Tensor = text_encoder(input_ids=fed["input_ids"], attention_mask=fed["attention_mask"]).last_hidden_state
    filled = torch.tensor([[float(bool(text.strip()))] for text in texts], device=keys.device)
    return Tokens(keys, fed["attention_mask"].float() * filled)


def load_text_tower(name: str) -> tuple[Any, Any]:
    """A frozen T5 encoder or CLIP text model with its tokenizer, from a directory or a hub id; safetensors only.

    Raises: BowerbirdError when it is not there, or is neither.
    """
    from transformers import AutoConfig, AutoTokenizer, CLIPTextModel, T5EncoderModel

    if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise BowerbirdError(f"text tower {name!r}: no such directory, and no hub id such as google/t5-v1_1-small")
    here = Path(name).is_dir()
    with opening(f"text tower {name!r}", "give a directory or hub id of T5 or CLIP with safetensors"):
        if here:
            network_files.check_folder(Path(name))
        kind = AutoConfig.from_pretrained(name, local_files_only=here).model_type
        if kind not in ("t5", "clip", "clip_text_model"):
            raise BowerbirdError(f"text tower {name!r} is a {kind} model; give T5 or CLIP")
        tower = T5EncoderModel if kind == "t5" else CLIPTextModel
        model = tower.from_pretrained(name, use_safetensors=True, local_files_only=here)
        network_files.check_finite(model, Path(name))
        return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(name, local_files_only=here)
