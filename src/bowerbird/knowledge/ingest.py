"""From a source to items with embeddings: read, filter, decode, embed, a chunk at a time, so that memory does not grow with the source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird import images
from bowerbird.errors import MismatchError, PictureError
from bowerbird.knowledge import patches, sources
from bowerbird.knowledge.items import SourceItem, storable
from bowerbird.knowledge.where import filter_rows
from bowerbird.types import Encoder

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 512
ENOUGH = 4
"""A JPEG is decoded at so many times the pixels that the encoder looks at, and not at all of its own."""
GROUP = 32
"""Pictures a thread decodes in one go: small ones take less time than handing them over."""
Filter = Callable[["Image.Image", SourceItem], "str | None"]
"""A person's own filter, for safety or taste: gets the picture and its item, and gives the reason to leave it out, or None."""


@dataclass(frozen=True)
class Choice:
    """What of a source becomes an item. `patches`: so many crops in place of each picture (0: the picture itself)."""

    caption_column: str | None = None
    where: str | None = None
    patches: int = 0
    fetch: bool = False


@dataclass
class AddReport:
    """What `add` did: items added, items that were there already, pictures that could not be read, near-duplicates, and what a filter refused.

    `duplicates`: (name, the name it is like, cosine). The lists of `unreadable` and `refused` give names with reasons.
    """

    added: int = 0
    present: int = 0
    unreadable: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Prepared:
    """Items that are ready to be stored, with their embeddings `(n, d)`, and what was left out."""

    items: list[SourceItem]
    embeddings: np.ndarray
    unreadable: list[str]
    refused: list[str]


def chunks(source: str | Path, choice: Choice, size: int = CHUNK) -> Iterator[tuple[list[SourceItem], int]]:
    """Items of `source` that satisfy `choice`, from `size` of the source at a time, and how many of the source were read for them.

    A column that only some rows have is empty in the others. Raises: BowerbirdError for a condition on columns that no row so far has.
    """
    columns: dict[str, None] = {}
    items: Iterable[SourceItem] = sources.read(source, caption_column=choice.caption_column, fetch=choice.fetch)
    iterator = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while read := [storable(item) for item in islice(iterator, size)]:
            columns |= dict.fromkeys(name for item in read for name in item.metadata)
            rows: Sequence[dict[str, Any]] = (
                [item.metadata for item in read] if choice.where is None else [dict.fromkeys(columns) | item.metadata for item in read]
            )
            chosen = [read[i] for i in filter_rows(rows, choice.where)]
            if choice.patches:
                chosen = [piece for pieces in pool.map(partial(patches.cut, count=choice.patches), chosen) for piece in pieces]
            yield chosen, len(read)


def prepare(items: Sequence[SourceItem], encoder: Encoder, keep: Filter | None = None) -> Prepared:
    """Decode, filter and embed `items`; an embedding that a source brings is taken as it is.

    Raises: MismatchError for an embedding of another encoder that comes without a picture.
    """
    return embedded(decoded(items, encoder, everything=keep is not None), encoder, keep)


Looked = list[tuple[SourceItem, "Image.Image | str | None"]]
"""Items with their decoded pictures, None where the embedding is enough, or the reason why one cannot be taken."""


def decoded(items: Sequence[SourceItem], encoder: Encoder, *, everything: bool) -> Looked:
    """The pictures of `items`, on all cores; with `everything` also of those that bring their embedding."""
    items = [_without_a_strangers(item, encoder) for item in items]
    groups = [items[start : start + GROUP] for start in range(0, len(items), GROUP)]

    def look(group: Sequence[SourceItem]) -> Looked:
        return [(item, _looked_at(item, encoder, decode=everything)) for item in group]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [pair for pairs in pool.map(look, groups) for pair in pairs]


def embedded(looked: Looked, encoder: Encoder, keep: Filter | None) -> Prepared:
    """What is readable and not refused, with embeddings."""
    kept: list[SourceItem] = []
    pictures: list[Image.Image] = []
    unreadable, refused = [], []
    for item, picture in looked:
        if isinstance(picture, str):
            unreadable.append(picture)
            continue
        reason = keep(picture, item) if keep is not None and picture is not None else None
        if reason is not None:
            refused.append(f"{item.name}: {reason}")
            continue
        kept.append(item)
        if item.embedding is None and picture is not None:
            pictures.append(picture)
    made = iter(np.asarray(encoder.embed_images(pictures), np.float32) if pictures else ())
    embeddings = [np.asarray(item.embedding, np.float32) if item.embedding is not None else next(made) for item in kept]
    return Prepared(kept, np.stack(embeddings) if embeddings else np.zeros((0, encoder.dim), np.float32), unreadable, refused)


def _looked_at(item: SourceItem, encoder: Encoder, *, decode: bool) -> Image.Image | str | None:
    """The decoded picture of an item, None for one whose embedding is enough, or the reason why it cannot be taken."""
    try:
        if item.embedding is not None:
            _check_embedding(item, encoder)
            return images.decode(item.data, item.name) if decode and item.data else None
        # a person's filter sees the whole picture; the network sees few pixels of it
        size = None if decode else getattr(encoder, "picture_size", None)
        return images.decode(item.data, item.name, at_least=None if size is None else ENOUGH * size)
    except PictureError as error:
        return str(error)


def _without_a_strangers(item: SourceItem, encoder: Encoder) -> SourceItem:
    """The item, without an embedding that is known to be of another encoder. Raises: MismatchError when it has no picture to embed instead."""
    if item.embedding is None or item.fingerprint in ("", encoder.fingerprint):
        return item
    if not item.data:
        raise MismatchError(
            f"{item.name}: brings an embedding of encoder {item.fingerprint} and no picture; this one is {encoder.name!r} ({encoder.fingerprint})"
        )
    return replace(item, embedding=None)


def _check_embedding(item: SourceItem, encoder: Encoder) -> None:
    """Raises: MismatchError when an item brings an embedding of another size, PictureError when it is not all numbers."""
    vector = np.asarray(item.embedding, np.float32)
    if vector.shape != (encoder.dim,):
        raise MismatchError(
            f"{item.name}: brings an embedding of {vector.shape} numbers, encoder {encoder.name!r} has {encoder.dim}; give the encoder it is of"
        )
    if not np.isfinite(vector).all():
        raise PictureError(f"{item.name}: its embedding is not all finite numbers")
