"""Which tokens of a text encoder a stretch of a prompt is: by the tokenizer's own offsets, or by aligning what its
tokens say with what the prompt says.

Not by counting words, which goes wrong at the first word of several pieces (as StructureDiffusion's code counts
relations, arXiv 2212.05032).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from bowerbird.core.errors import BowerbirdError

Span = tuple[int, int]


def token_spans(tokenizer: Any, prompt: str, spans: Sequence[Span]) -> list[Span]:
    """For each stretch `prompt[start:end]`, the tokens `[first, last)` of `tokenizer(prompt)` that it touches, special
    ones counted; `(0, 0)` for one beyond the longest text that the tokenizer keeps.

    Raises: BowerbirdError when the tokens cannot be found in the prompt.
    """
    places = token_offsets(tokenizer, prompt)
    found: list[Span] = []
    for start, end in spans:
        touched = [at for at, (a, b) in enumerate(places) if a < end and start < b]
        found.append((touched[0], touched[-1] + 1) if touched else (0, 0))
    return found


def token_offsets(tokenizer: Any, prompt: str) -> list[Span]:
    """Where each token of `tokenizer(prompt)` stands in the prompt; `(0, 0)` for special ones."""
    if getattr(tokenizer, "is_fast", False):
        read = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True)
        return [(int(a), int(b)) for a, b in read["offset_mapping"]]
    ids = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length)["input_ids"]
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return align([None if i in special else piece for i, piece in zip(ids, pieces, strict=True)], prompt)


def align(pieces: Sequence[str | None], prompt: str) -> list[Span]:
    """Where byte pair `pieces`, as CLIP writes them, stand in `prompt`; `(0, 0)` for None.

    Byte by byte: the tokenizer has put the text in its composed form, in small letters, and left blanks out.
    Raises: BowerbirdError when a piece is not what comes next.
    """
    stream = [(byte, at, end) for at, end, text in _composed(prompt) for byte in text.encode() if not text.isspace()]
    found: list[Span] = []
    next_byte = 0
    for piece in pieces:
        if piece is None:
            found.append((0, 0))
            continue
        said = bytes(_byte_of()[character] for character in piece.removesuffix("</w>"))
        there = stream[next_byte : next_byte + len(said)]
        if bytes(byte for byte, _, _ in there) != said:
            raise BowerbirdError(
                f"the tokenizer's piece {piece!r} is not in the prompt {prompt!r} where it should be; phrases need a"
                " tokenizer with offsets (is_fast)"
            )
        found.append((there[0][1], there[-1][2]))
        next_byte += len(said)
    return found


def _composed(prompt: str) -> list[tuple[int, int, str]]:
    """The characters with their marks: where each begins and ends, and what it is, composed and in small letters."""
    parts: list[tuple[int, int, str]] = []
    at = 0
    while at < len(prompt):
        end = at + 1
        while end < len(prompt) and unicodedata.combining(prompt[end]):
            end += 1
        parts.append((at, end, unicodedata.normalize("NFC", prompt[at:end]).lower()))
        at = end
    return parts


@cache
def _byte_of() -> dict[str, int]:
    """The byte that each character of a byte level vocabulary stands for (GPT-2's table, which CLIP uses)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(rest)}
