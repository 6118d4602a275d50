"""From a source to items with embeddings: read, filter, decode, embed, a chunk at a time, so that memory does not grow
with the source."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError, MismatchError, PictureError
from bowerbird.core.types import Encoder, TokenEncoder
from bowerbird.data.filters import Condition
from bowerbird.data.item import SourceItem, decode_item
from bowerbird.data.photographs import color_share
from bowerbird.data.portions import ITEMS, portions
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import registry
from bowerbird.knowledge.ingest import crops
from bowerbird.knowledge.rerank.tokens import pack, pool, unit

if TYPE_CHECKING:
    from PIL import Image

HELD = 32
"""A chunk holds this part of the memory allowed: beside it lie the next one, its rows, and what LanceDB writes."""
ENOUGH = 3
"""A picture is kept at so many times the pixels that the encoder looks at, or up to twice that, and not at all of its
own."""
SAMPLE = 16
"""Of so many pictures of a piece it is seen whether they are photographs."""
PIECE = 128
"""Pictures that are in memory decoded, and as many being decoded."""
GROUP = 32
"""Pictures a thread decodes in one go: small ones take less time than handing them over."""
Filter = Callable[["Image.Image", SourceItem], "str | None"]
"""A person's own filter, for safety or taste: gets the picture and its item, and gives the reason to leave it out, or
None."""


def name_of(filter_fn: Filter | None) -> str | None:
    """What an interrupted build remembers of a person's filter."""
    return (
        None
        if filter_fn is None
        else f"{getattr(filter_fn, '__module__', '')}:{getattr(filter_fn, '__qualname__', type(filter_fn).__name__)}"
    )


@dataclass(frozen=True)
class Choice:
    """What of a source becomes an item, and what it may cost.

    `patches`: so many crops in place of each picture (0: the picture itself). `fetch_urls`, `private_urls`: whether
    addresses may be asked, and also those of this machine and its network. `max_pixels`: the largest picture decoded.
    `pictures`: where the pictures lie that a source only names.
    """

    caption_column: str | None = None
    where: str | None = None
    patches: int = 0
    fetch_urls: bool = False
    private_urls: bool = False
    max_pixels: int = images.MAX_PIXELS
    pictures: tuple[str, ...] = ()


@dataclass
class AddReport:
    """What `add` did: items added, items that were there already, pictures that could not be read, near-duplicates,
    what a filter refused, and in `source` what reading the sources passed over.

    `duplicates`: (name, the name it is like, cosine). The lists of `unreadable` and `filtered` give names with reasons.
    """

    added: int = 0
    already_present: int = 0
    unreadable: list[str] = field(default_factory=list)
    filtered: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str, float]] = field(default_factory=list)
    source: SourceReport = field(default_factory=SourceReport)


@dataclass(frozen=True)
class Prepared:
    """Items that are ready to be stored, with their embeddings `(n, d)`, and what was left out.

    `color_shares`: of some of the pictures, to tell photographs (`data.photographs`) from the drawings that `small`
    knows; none with another encoder. `tokens`: of each item its token matrix, packed, None where it has none.
    """

    items: list[SourceItem]
    embeddings: np.ndarray
    unreadable: list[str]
    filtered: list[str]
    color_shares: list[float]
    tokens: list[bytes | None]


@dataclass(frozen=True)
class Look:
    """How pictures are looked at: a person's filter, the largest picture decoded, in pixels, and to how many tokens
    each is pooled (0: it has none)."""

    filter_fn: Filter | None = None
    max_pixels: int = images.MAX_PIXELS
    tokens: int = 0


@dataclass(frozen=True)
class Reason:
    """Why an item is left out: it cannot be read, or a person's filter `filtered` it out."""

    text: str
    filtered: bool = False


def chunk_bytes(memory: int, processes: int = 0) -> int:
    """How many bytes of pictures a chunk may hold within `memory`; worker processes have several on the way."""
    return memory // (HELD * (1 + 2 * processes))


def chunks(
    sources: Sequence[str | Path],
    choice: Choice,
    *,
    count: int = ITEMS,
    size: int,
    report: SourceReport | None = None,
) -> Iterator[tuple[list[SourceItem], int]]:
    """Items of `sources` that satisfy `choice`, from `count` items or `size` bytes of them at a time, and how many were
    read for them; what was passed over goes to `report`.

    A column that only some rows have is empty in the others, and of the type that it had first, where that can be.
    Raises: BowerbirdError for a condition on columns that no row so far has.
    """
    condition = Condition(choice.where)
    items = chain.from_iterable(
        registry.read(
            source,
            caption_column=choice.caption_column,
            fetch_urls=choice.fetch_urls,
            private_urls=choice.private_urls,
            report=report,
            pictures=choice.pictures,
        )
        for source in sources
    )
    crowd = max(1, choice.patches)  # patches are held as files until they are stored
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for read in portions(items, count=max(1, count // crowd), size=max(1, size // crowd)):
            chosen = [read[i] for i in condition.rows([item.metadata for item in read])]
            if choice.patches:
                cut = partial(crops.cut, count=choice.patches, max_pixels=choice.max_pixels)
                chosen = [piece for pieces in pool.map(cut, chosen) for piece in pieces]
            yield chosen, len(read)


Decoded = list[tuple[SourceItem, "Image.Image | Reason | None"]]
"""Items with their pictures, None where the embedding is enough, or the reason why one is left out."""


def prepare(items: Sequence[SourceItem], encoder: Encoder, look: Look | None = None) -> Prepared:
    """Decode, filter and embed `items`, `PIECE` at a time; an embedding that a source brings is taken as it is.

    Raises: MismatchError for an embedding of another encoder that comes without a picture.
    """
    look = look or Look()
    return join([embed(decode(piece, encoder, look), encoder, look) for piece in pieces(items)], encoder)


def pieces(items: Sequence[SourceItem]) -> list[Sequence[SourceItem]]:
    """`items` in portions whose pictures may be in memory at once."""
    return [items[start : start + PIECE] for start in range(0, len(items), PIECE)]


def join(parts: Sequence[Prepared], encoder: Encoder) -> Prepared:
    """Several portions as one."""
    embeddings = [part.embeddings for part in parts] or [np.zeros((0, encoder.dim), np.float32)]
    names = ("items", "unreadable", "filtered", "color_shares", "tokens")
    items, unreadable, refused, shares, tokens = (
        [one for part in parts for one in getattr(part, name)] for name in names
    )
    return Prepared(items, np.concatenate(embeddings), unreadable, refused, shares, tokens)


def decode(items: Sequence[SourceItem], encoder: Encoder, look: Look) -> Decoded:
    """The pictures of `items`, on all cores, as large as the encoder has use for; the filter is asked of whole
    ones, one at a time."""
    items = [_drop_foreign_embedding(item, encoder) for item in items]
    groups = [items[start : start + GROUP] for start in range(0, len(items), GROUP)]
    turn = threading.Lock()

    def of_group(group: Sequence[SourceItem]) -> Decoded:
        return [(item, _look_at(item, encoder, look, turn)) for item in group]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [pair for pairs in pool.map(of_group, groups) for pair in pairs]


def embed(decoded: Decoded, encoder: Encoder, look: Look) -> Prepared:
    """What is readable and not refused, with embeddings, and tokens where `look` asks for them."""
    kept = [(item, picture) for item, picture in decoded if not isinstance(picture, Reason)]
    shown = [picture for _, picture in kept if picture is not None]
    made, matrices = _embed_pictures(shown, encoder, look.tokens)
    own = iter(zip(made, matrices, strict=True))
    embeddings, tokens = [], list[bytes | None]()
    for item, picture in kept:
        vector, matrix = next(own) if picture is not None else (item.embedding, None)
        embeddings.append(np.asarray(vector if item.embedding is None else item.embedding, np.float32))
        tokens.append(matrix)
    sample = SAMPLE if encoder.name == "small" else 0  # whoever chose another knows their pictures
    left = [(picture.text, picture.filtered) for _, picture in decoded if isinstance(picture, Reason)]
    return Prepared(
        [item for item, _ in kept],
        np.stack(embeddings) if embeddings else np.zeros((0, encoder.dim), np.float32),
        [text for text, filtered in left if not filtered],
        [text for text, filtered in left if filtered],
        [color_share(picture) for _, picture in kept[:sample] if picture is not None],
        tokens,
    )


def _embed_pictures(
    pictures: Sequence[Image.Image], encoder: Encoder, tokens: int
) -> tuple[list[np.ndarray], list[bytes | None]]:
    """The embedding of each picture, and its tokens, pooled to so many."""
    if not pictures:
        return [], []
    if not tokens:
        return list(np.asarray(encoder.embed_images(pictures), np.float32)), [None] * len(pictures)
    made, matrices = cast("TokenEncoder", encoder).embed_images_with_tokens(pictures)
    return list(np.asarray(made, np.float32)), [pack(pool(unit(each), tokens)) for each in matrices]


def _look_at(item: SourceItem, encoder: Encoder, look: Look, turn: threading.Lock) -> Image.Image | Reason | None:
    filter_fn = look.filter_fn
    size = getattr(encoder, "picture_size", None)
    enough = None if size is None else ENOUGH * int(size)
    try:
        if item.embedding is not None:
            _check_embedding(item, encoder)
            if filter_fn is None and not (look.tokens and item.data):
                return None
            if filter_fn is not None and not item.data:
                return Reason(f"{item.name}: has no picture for the filter to look at", filtered=True)
        picture = decode_item(
            item,
            at_least=None if filter_fn is not None else enough,
            max_pixels=look.max_pixels,
        )
    except PictureError as error:
        return Reason(str(error))
    if filter_fn is not None:
        try:
            with turn:
                reason = filter_fn(picture, item)
        except Exception as error:  # a person's own code
            raise BowerbirdError(
                f"{item.name}: the filter {name_of(filter_fn)} failed on it ({type(error).__name__}: {error})"
            ) from error
        if reason is not None:
            return Reason(f"{item.name}: {reason}", filtered=True)
        picture = images.reduced(picture, enough)
    return None if item.embedding is not None and not look.tokens else picture


def _drop_foreign_embedding(item: SourceItem, encoder: Encoder) -> SourceItem:
    """The item, without an embedding that is known to be of another encoder. Raises: MismatchError when it has no
    picture to embed instead."""
    if item.embedding is None or item.fingerprint in ("", encoder.fingerprint):
        return item
    if not item.data:
        raise MismatchError(
            f"{item.name}: brings an embedding of encoder {item.fingerprint} and no picture; this one is"
            f" {encoder.name!r} ({encoder.fingerprint})"
        )
    return replace(item, embedding=None)


def _check_embedding(item: SourceItem, encoder: Encoder) -> None:
    """Raises: MismatchError when an item brings an embedding of another size, PictureError when it is not all
    numbers."""
    vector = np.asarray(item.embedding, np.float32)
    if vector.shape != (encoder.dim,):
        raise MismatchError(
            f"{item.name}: brings an embedding of shape {vector.shape}, the dimension of encoder {encoder.name!r} is"
            f" {encoder.dim}; give the encoder it is of"
        )
    if not np.isfinite(vector).all():
        raise PictureError(f"{item.name}: its embedding is not all finite numbers")
