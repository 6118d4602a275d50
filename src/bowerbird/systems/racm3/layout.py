"""How documents become one sequence: which symbol stands where, and which of them are learned.

A retrieved document is `<doc> caption <image> codes`. The document that is generated comes last, in one of the three
orders of causal masking: as it is (text to image); with `<mask>` for the caption, which follows behind `<infill>`
(image to text); or with the codes of a hole behind `<infill>` (infilling). `<doc>` and `<end>` are the tokenizer's own
start and end.

Source: RA-CM3, arXiv 2211.12561, section 3.3; CM3, arXiv 2201.07520.
Differs from the paper: what is moved keeps its place in the document, so a hole may have any form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Sizes of the vocabulary and of a document; the numbers of its marks and places follow from them."""

    text_tokens: int
    image_tokens: int
    text_length: int = 32
    side: int = 16

    @staticmethod
    def of(config: Any) -> Layout:
        """The layout that a `DocumentTransformer` with this configuration reads."""
        return Layout(config["text_tokens"], config["image_tokens"], config["text_length"], config["side"])

    @property
    def doc(self) -> int:
        """The symbol a document starts with."""
        return self.text_tokens - 2

    @property
    def end(self) -> int:
        """The symbol at the end of what is generated."""
        return self.text_tokens - 1

    @property
    def image(self) -> int:
        """The symbol before the codes of a picture."""
        return self.text_tokens + self.image_tokens

    @property
    def mask(self) -> int:
        """The symbol in place of what comes later."""
        return self.image + 1

    @property
    def infill(self) -> int:
        """The symbol before what was masked."""
        return self.image + 2

    @property
    def grid(self) -> int:
        """The place of the first code."""
        return self.text_length + 2

    @property
    def cells(self) -> int:
        """Codes of a picture."""
        return self.side * self.side

    @property
    def infill_place(self) -> int:
        """The place of `infill`; that of `end` is the next."""
        return self.grid + self.cells


@dataclass(frozen=True)
class Passage:
    """A part of a sequence: symbols, their places in the document, its number (0 for the one that is generated), and
    the weight in the loss with which each symbol is learned. All `(L,)`."""

    tokens: np.ndarray
    places: np.ndarray
    documents: np.ndarray
    learned: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


def join(passages: Sequence[Passage]) -> Passage:
    """One after the other."""
    if len(passages) == 1:
        return passages[0]
    return Passage(
        np.concatenate([p.tokens for p in passages]),
        np.concatenate([p.places for p in passages]),
        np.concatenate([p.documents for p in passages]),
        np.concatenate([p.learned for p in passages]),
    )


Piece = tuple[np.ndarray | Sequence[int], np.ndarray | Sequence[int], float]
"""Symbols, their places, and the weight with which they are learned."""


def _passage(pieces: Sequence[Piece], number: int) -> Passage:
    tokens = np.concatenate([np.asarray(piece[0], np.int64) for piece in pieces])
    places = np.concatenate([np.asarray(piece[1], np.int64) for piece in pieces])
    learned = np.concatenate([np.full(len(piece[0]), piece[2], np.float32) for piece in pieces])
    return Passage(tokens, places, np.full(len(tokens), number, np.int64), learned)


def _caption(layout: Layout, text: np.ndarray, weight: float) -> Piece:
    return text[: layout.text_length], np.arange(1, 1 + min(len(text), layout.text_length)), weight


def _cells(layout: Layout, codes: np.ndarray, chosen: np.ndarray, weight: float) -> Piece:
    return codes[chosen].astype(np.int64) + layout.text_tokens, chosen + layout.grid, weight


def opening(layout: Layout, text: np.ndarray | None, number: int = 0, *, text_weight: float = 0.0) -> Passage:
    """`<doc> caption <image>`: what a picture follows. Without a text, `<mask>` stands for it."""
    mark: Piece = ([layout.image], [layout.text_length + 1], 0.0 if text is None else text_weight)
    words = ([layout.mask], [1], 0.0) if text is None else _caption(layout, text, text_weight)
    return _passage([([layout.doc], [0], 0.0), words, mark], number)


def cells(layout: Layout, codes: np.ndarray, chosen: np.ndarray, number: int = 0, *, weight: float = 1.0) -> Passage:
    """The codes `(N,)` of a picture in the cells `chosen`, in that order."""
    return _passage([_cells(layout, codes, chosen, weight)], number)


def retrieved(layout: Layout, codes: np.ndarray, text: np.ndarray, number: int, *, weight: float = 0.0) -> Passage:
    """A document that was retrieved, whose number is 1 or more."""
    every = np.arange(layout.cells)
    return _passage(
        [
            ([layout.doc], [0], 0.0),
            _caption(layout, text, weight),
            ([layout.image], [layout.text_length + 1], weight),
            _cells(layout, codes, every, weight),
        ],
        number,
    )


def picture_from_text(layout: Layout, codes: np.ndarray, text: np.ndarray, *, text_weight: float = 1.0) -> Passage:
    """`<doc> caption <image> codes <end>`."""
    end = _passage([([layout.end], [layout.infill_place + 1], 0.0)], 0)
    start = opening(layout, text, text_weight=text_weight)
    return join([start, cells(layout, codes, np.arange(layout.cells)), end])


def text_from_picture(layout: Layout, codes: np.ndarray, text: np.ndarray, *, text_weight: float = 1.0) -> Passage:
    """`<doc> <mask> <image> codes <infill> caption <end>`."""
    words = _caption(layout, text, text_weight)
    end = ([layout.end], [layout.infill_place + 1], text_weight)
    return join([before_caption(layout, codes), _passage([words, end], 0)])


def before_caption(layout: Layout, codes: np.ndarray) -> Passage:
    """`<doc> <mask> <image> codes <infill>`: what the caption of a picture follows."""
    mark = _passage([([layout.infill], [layout.infill_place], 0.0)], 0)
    return join([opening(layout, None), cells(layout, codes, np.arange(layout.cells)), mark])


def before_hole(layout: Layout, codes: np.ndarray, text: np.ndarray | None, hole: np.ndarray) -> Passage:
    """`<doc> caption <image> codes <mask> <infill>`: what the codes of a hole follow, boolean `(N,)`."""
    at = np.flatnonzero(hole)
    marks = [([layout.mask], [layout.grid + at[0]], 0.0), ([layout.infill], [layout.infill_place], 0.0)]
    return join([opening(layout, text), cells(layout, codes, np.flatnonzero(~hole)), _passage(marks, 0)])


def hole_from_rest(layout: Layout, codes: np.ndarray, text: np.ndarray, hole: np.ndarray) -> Passage:
    """What `before_hole` gives, the codes of the hole, and `<end>`."""
    end = _passage([([layout.end], [layout.infill_place + 1], 0.0)], 0)
    return join([before_hole(layout, codes, text, hole), cells(layout, codes, np.flatnonzero(hole)), end])


def document_numbers(count: int, most: int) -> list[int]:
    """The numbers of so many documents where a decoder knows `most`: rising and spread, as training has them, where the
    first few are hardly ever met together."""
    return [round((i + 1) * (most + 1) / (count + 1)) for i in range(count)]


def following(layout: Layout, tokens: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The place of what comes after each symbol. After a word it is the next word's, as nothing may say that a caption
    is over; after the last symbol it is 0."""
    behind = np.zeros_like(places)
    behind[..., :-1] = places[..., 1:]
    open_end = (places <= layout.text_length) & (tokens != layout.mask)
    return np.where(open_end, places + 1, behind)


def stack(layout: Layout, sequences: Sequence[Passage]) -> dict[str, Tensor]:
    """n sequences as the arguments of a `DocumentTransformer`, `(n, L)`, with `target` and `weights`: the symbol after
    each and how much it counts; L is one less than the longest has. Shorter ones are filled up behind, where causal
    attention does not look."""
    length = max(len(sequence) for sequence in sequences)
    tokens = np.full((len(sequences), length), layout.end, np.int64)
    places = np.full_like(tokens, layout.infill_place + 1)
    documents = np.zeros_like(tokens)
    learned = np.zeros(tokens.shape, np.float32)
    for row, passage in enumerate(sequences):
        size = len(passage)
        tokens[row, :size], places[row, :size] = passage.tokens, passage.places
        documents[row, :size], learned[row, :size] = passage.documents, passage.learned
    arrays = {
        "tokens": tokens[:, :-1],
        "places": places[:, :-1],
        "following": following(layout, tokens, places)[:, :-1],
        "documents": documents[:, :-1],
        "target": tokens[:, 1:],
        "weights": learned[:, 1:],
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
