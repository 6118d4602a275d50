"""What a source says beside what a knowledge base holds, item by item of the same key: the first half of a sync, in
which nothing is embedded or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress
from bowerbird.data.columns import as_column, clean, column_of, common_type
from bowerbird.data.item import OWN_COLUMNS, SourceItem, clean_metadata, content_id, hash_of

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "name"
"""The one key that is no metadata: the file or row name of an item."""


@dataclass
class Stored:
    """What a knowledge base holds, by the values of a key; rows without a value are nobody's business here."""

    place: str
    key: str
    table: pa.Table
    """`described` of a store: every row without picture and embedding."""
    rows: dict[Any, int]
    contents: list[int]
    types: dict[str, pa.DataType]

    @classmethod
    def of(cls, place: str, table: pa.Table, key: str) -> Stored:
        """Raises: BowerbirdError when no item has the column, or two items have the same value."""
        column = NAME if key == NAME else next(iter(clean_metadata({key: 0})))
        types = {f.name: f.type for f in table.schema if f.name not in OWN_COLUMNS}
        if len(table) and column not in {*types, NAME}:
            there = ", ".join(sorted(types)) or "none"
            raise BowerbirdError(f"`key` {key!r}: no item of {place} has this column; there are: {there}, name")
        ids = table["id"].to_numpy().astype(np.int64)
        own = table["content_hash"].to_pylist() if "content_hash" in table.schema.names else [None] * len(table)
        contents = [number if content is None else content for number, content in zip(ids.tolist(), own, strict=True)]
        rows: dict[Any, int] = {}
        for row, value in enumerate(table[column].to_pylist() if column in table.schema.names else []):
            if value is not None and rows.setdefault(value, row) != row:
                raise BowerbirdError(
                    f"`key` {key!r}: items {ids[rows[value]]} and {ids[row]} of {place} both have {value!r}; a key"
                    " names one item"
                )
        return cls(place, column, table.combine_chunks(), rows, contents, types)

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids of all rows, int64 `(n,)`."""
        found: np.ndarray = self.table["id"].to_numpy()
        return found.astype(np.int64)

    def value(self, row: int) -> Any:
        """The key of a row."""
        return self.table[self.key][row].as_py()

    def keys_of(self, items: Sequence[SourceItem]) -> list[Any]:
        """The keys of items as they are stored; None where there is none."""
        if self.key == NAME:
            return [clean(item.name) or None for item in items]
        values = [item.metadata.get(self.key) for item in items]
        coming = as_column(values)
        return column_of(values, common_type(self.types.get(self.key, coming.type), coming.type)).to_pylist()

    def metadata(self, row: int) -> dict[str, Any]:
        """The metadata of a row, without empty values."""
        return {name: value for name in self.types if (value := self.table[name][row].as_py()) is not None}


@dataclass
class Difference:
    """What a sync would do. `added` and `pictures`: keys of items that are new, and of those whose picture changed;
    `texts`: row → item of those of which only caption or metadata changed, without its bytes; `missing`: rows whose key
    the source has not. `columns`: the metadata that the source has, which alone it changes. `items`: those of `added`
    and `pictures`, None where they were too many to keep."""

    added: set[Any] = field(default_factory=set)
    pictures: set[Any] = field(default_factory=set)
    texts: dict[int, SourceItem] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    unchanged: int = 0
    columns: dict[str, None] = field(default_factory=dict)
    items: list[SourceItem] | None = field(default_factory=list)


def compare(
    stored: Stored,
    chunks: Iterable[tuple[list[SourceItem], int]],
    keep: int,
    *,
    total: int | None,
    progress: Progress | None,
) -> Difference:
    """Read the source once. `keep`: so many bytes of pictures to embed may be held.

    Raises: BowerbirdError, by name, for a row without a key, and for a key that two rows have.
    """
    found, seen = Difference(), _Seen(stored)
    held = done = 0
    for items, read in chunks:
        keys = seen.keys(items)
        found.columns |= dict.fromkeys(name for item in items for name in item.metadata)
        same: list[tuple[int, SourceItem]] = []
        for key, item in zip(keys, items, strict=True):
            row = stored.rows.get(key)
            if row is not None and (content_id(item) == stored.contents[row] or _same_picture(stored, row, item)):
                same.append((row, item))
                continue
            (found.added if row is None else found.pictures).add(key)
            held += len(item.data)
            if found.items is not None:
                found.items.append(item)
        found.items = found.items if held <= keep else None
        found.texts |= dict(_other_texts(stored, same, found.columns))
        seen.compared(same, found.columns)
        done += read
        if progress is not None:
            progress(done, total, "comparing")
    found.texts |= dict(seen.late(found))
    found.missing = [row for key, row in stored.rows.items() if key not in seen.names]
    found.unchanged = len(seen.names) - len(found.added) - len(found.pictures) - len(found.texts)
    return found


class _Seen:
    """The keys of a source so far, and which rows were compared before a column was known."""

    def __init__(self, stored: Stored) -> None:
        self.stored, self.names = stored, dict[Any, str]()
        self._portions: list[tuple[list[tuple[int, SourceItem]], int]] = []

    def keys(self, items: Sequence[SourceItem]) -> list[Any]:
        key = self.stored.key
        if key != NAME and not self.names and items and all(key not in item.metadata for item in items):
            there = ", ".join(sorted({name for item in items for name in item.metadata})) or "none"
            raise BowerbirdError(f"`key` {key!r}: the source has no such column; there are: {there}")
        keys = self.stored.keys_of(items)
        for value, item in zip(keys, items, strict=True):
            if value is None:
                raise BowerbirdError(f"{item.name}: has no value in the key column {key!r}; every row needs one")
            if value in self.names:
                raise BowerbirdError(
                    f"`key` {key!r}: {self.names[value]} and {item.name} both have {value!r}; a key names one item"
                )
            self.names[value] = item.name
        return keys

    def compared(self, same: list[tuple[int, SourceItem]], columns: dict[str, None]) -> None:
        bare = [(row, _bare(item)) for row, item in same if len(columns) < len(self.stored.types)]
        self._portions.append((bare, len(columns)))

    def late(self, found: Difference) -> Iterator[tuple[int, SourceItem]]:
        """Rows of the portions before a column first came up that have a value in it, which the source has not."""
        names = list(found.columns)
        for same, known in self._portions:
            if late := dict.fromkeys(names[known:]):
                yield from _other_texts(self.stored, same, late)


def _same_picture(stored: Stored, row: int, item: SourceItem) -> bool:
    """Whether only the caption differs: with the old one the content would be the stored one."""
    caption = stored.table["caption"][row].as_py()
    return bool(item.data) and hash_of(item.data, caption) == stored.contents[row]


def _other_texts(
    stored: Stored, same: Sequence[tuple[int, SourceItem]], columns: Iterable[str]
) -> Iterator[tuple[int, SourceItem]]:
    """Those of `same` whose caption, or value in one of `columns`, is not the stored one."""
    rows = pa.array([row for row, _ in same], pa.int64())
    captions = stored.table["caption"].take(rows).to_pylist()
    other = [was != item.caption for was, (_, item) in zip(captions, same, strict=True)]
    for name in columns:
        values = [item.metadata.get(name) for _, item in same]
        before = stored.table[name].take(rows).to_pylist() if name in stored.types else [None] * len(same)
        differ = [at for at, (was, now) in enumerate(zip(before, values, strict=True)) if was != now]
        if differ and name in stored.types:  # 7 and "7" are one value of a column of texts
            some = [values[at] for at in differ]
            kind = common_type(stored.types[name], as_column(some).type)
            same_kind = zip(column_of([before[at] for at in differ], kind), column_of(some, kind), strict=True)
            differ = [at for at, (was, now) in zip(differ, same_kind, strict=True) if was.as_py() != now.as_py()]
        for at in differ:
            other[at] = True
    for is_other, (row, item) in zip(other, same, strict=True):
        if is_other:
            yield row, _bare(item)


def _bare(item: SourceItem) -> SourceItem:
    return SourceItem(b"", item.name, item.caption, item.metadata)
