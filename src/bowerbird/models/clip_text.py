"""CLIP's text side, small and new: a byte pair vocabulary made from captions, in the files that CLIP's tokenizer reads,
and a text model that is trained together with the network it serves.

Source: CLIP, arXiv 2103.00020, section 2.4; byte level pairs, lower case, `</w>` at a word's end, as in its release.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from bowerbird.core import files

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
BYTES = 256


class TextConfig(BaseModel):
    """Sizes of the text model; `positions`: most tokens of a text, with its start and end."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    vocabulary: int = Field(default=2048, ge=2 * BYTES + 2, le=65_536)
    positions: int = Field(default=32, ge=4, le=512)
    width: int = Field(default=192, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=6, ge=1)


def learn_pairs(texts: Iterable[str], vocabulary: int) -> list[tuple[str, str]]:
    """The merges of a byte pair vocabulary of at most so many tokens: each time the most frequent pair, of equals the
    first by letters.

    Not `tokenizers`' own trainer: what that makes of the same texts differs from process to process, and a training
    that goes on after a cut needs the numbers that its embeddings were learned for.
    """
    from transformers import CLIPTokenizer

    cut = CLIPTokenizer().backend_tokenizer  # as CLIP cleans and cuts a text
    counts = Counter(
        word for text in texts for word, _ in cut.pre_tokenizer.pre_tokenize_str(cut.normalizer.normalize_str(text))
    )
    words = [([*word[:-1], word[-1] + WORD_END], count) for word, count in sorted(counts.items())]
    pairs: Counter[tuple[str, str]] = Counter()
    holding: dict[tuple[str, str], set[int]] = {}  # the words in which a pair is, or was
    for number, (parts, count) in enumerate(words):
        for pair in pairwise(parts):
            pairs[pair] += count
            holding.setdefault(pair, set()).add(number)
    merges: list[tuple[str, str]] = []
    while len(merges) < vocabulary - 2 * BYTES - 2 and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for number in holding.pop(best):
            parts, count = words[number]
            joined = _merged(parts, best)
            words[number] = joined, count
            for pair in pairwise(parts):
                pairs[pair] -= count
                if not pairs[pair]:
                    del pairs[pair]
            for pair in pairwise(joined):
                pairs[pair] += count
                holding.setdefault(pair, set()).add(number)
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """The parts of a word with every such pair as one."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def build_tokenizer(merges: list[tuple[str, str]], positions: int) -> CLIPTokenizer:
    """transformers' tokenizer over these merges: every byte, every byte at a word's end, the pairs, start and end. So
    every text has tokens, those of words that were never seen too."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + WORD_END for letter in alphabet), *(a + b for a, b in merges), START, END]
    numbers = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=positions)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write `tokenizer` to `folder`, and one of byte pairs also as `vocab.json` and `merges.txt`, which every program
    for CLIP reads."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if "merges" not in model:
        return
    files.write_json(folder / "vocab.json", model["vocab"])
    with files.atomic_path(folder / "merges.txt") as temporary:
        lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_text_model(config: TextConfig, tokenizer: Any) -> CLIPTextModel:
    """A new text model for the vocabulary of `tokenizer`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=2 * config.width,
            projection_dim=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_ids(tokenizer: Any, texts: list[str]) -> Any:
    """n texts -> their tokens `(n, L)`, filled up with the end token and cut as Stable Diffusion does it."""
    return tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
