"""From a source to rows: read, filter, decode, embed, append, a chunk at a time, so that memory does not grow with the source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird import images
from bowerbird.errors import MismatchError, PictureError
from bowerbird.knowledge import sources
from bowerbird.knowledge.items import SourceItem, content_id
from bowerbird.knowledge.rows import OWN_COLUMNS, Rows
from bowerbird.knowledge.where import filter_rows
from bowerbird.types import Encoder

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 512
Progress = Callable[[int, int | None], None]


@dataclass
class AddReport:
    """What `add` did: items added, items that were there already, and the pictures that could not be read with the reason."""

    added: int = 0
    present: int = 0
    unreadable: list[str] = field(default_factory=list)


def chunks(source: str | Path, caption_column: str | None, where: str | None) -> Iterator[tuple[list[SourceItem], int]]:
    """Items of `source` that satisfy `where`, `CHUNK` of the source at a time, and how many of the source were read for them.

    A column that only some rows have is empty in the others. Raises: BowerbirdError for a condition on columns that no row so far has.
    """
    columns: dict[str, None] = {}
    items: Iterable[SourceItem] = sources.read(source, caption_column=caption_column)
    iterator = iter(items)
    while read := list(islice(iterator, CHUNK)):
        columns |= dict.fromkeys(name for item in read for name in item.metadata)
        rows: Sequence[dict[str, Any]] = [item.metadata for item in read] if where is None else [dict.fromkeys(columns) | item.metadata for item in read]
        yield [read[i] for i in filter_rows(rows, where)], len(read)


def append(rows: Rows, encoder: Encoder, items: Sequence[SourceItem], seen: set[int], report: AddReport, version: int) -> None:
    """Decode, embed and add the `items` that are not in `seen` (which grows), as of `version`; what cannot be read goes into the report."""
    fresh: list[dict[str, Any]] = []
    pictures: list[Image.Image] = []
    brought: dict[int, np.ndarray] = {}  # by place in `fresh`
    for item in items:
        item = replace(item, caption=clean(item.caption))
        number = content_id(item)
        if number in seen:
            report.present += 1
            continue
        try:
            if item.embedding is not None:
                brought[len(fresh)] = _fitting(item, encoder)
            else:
                pictures.append(images.decode(item.data, item.name))
        except PictureError as error:
            report.unreadable.append(str(error))
            continue
        seen.add(number)
        fresh.append({"id": number, "caption": item.caption, "name": clean(item.name), "image": item.data, "metadata": named(item.metadata)})
    if fresh:
        made = iter(np.asarray(encoder.embed_images(pictures), np.float32) if pictures else ())
        rows.append(fresh, np.stack([brought[at] if at in brought else next(made) for at in range(len(fresh))]), version)
        report.added += len(fresh)


def clean(text: str) -> str:
    """Text that can be stored: what is no character (half of a pair, in JSON from elsewhere) becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def named(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata under names that can be columns and conditions: letters, digits and `_`, not ours and not LanceDB's."""
    made: dict[str, Any] = {}
    for key, value in metadata.items():
        name = re.sub(r"\W", "_", clean(str(key))) or "_"
        name = f"source_{name}" if name in OWN_COLUMNS or name.startswith("_row") else name
        made[name] = clean(value) if isinstance(value, str) else value
    return made


def _fitting(item: SourceItem, encoder: Encoder) -> np.ndarray:
    """The embedding that an item brings. Raises: MismatchError when it is of another size, PictureError when it is not all numbers."""
    vector = np.asarray(item.embedding, np.float32)
    if vector.shape != (encoder.dim,):
        raise MismatchError(
            f"{item.name}: brings an embedding of {vector.shape} numbers, encoder {encoder.name!r} has {encoder.dim}; give the encoder it is of"
        )
    if not np.isfinite(vector).all():
        raise PictureError(f"{item.name}: its embedding is not all finite numbers")
    return vector
