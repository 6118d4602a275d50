"""The rows of a knowledge base, in LanceDB: the truth everything else is made from.

A row: id (content hash), caption, name, metadata columns, the picture's original bytes, its raw embedding, the version
it came with, and a check over all that the id does not hash. Every write makes a new table version; readers open the
one the manifest names, so an unfinished write is never seen.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell
from bowerbird.data.columns import as_column, column_of, common_type
from bowerbird.data.filters import check_condition, explain
from bowerbird.data.item import CAPTION_EMBEDDING, OWN_COLUMNS, PACKED_COLUMNS, hash_of, item_id
from bowerbird.knowledge.storage.batches import read_in_batches

TABLE = "rows"
FOLDER = "rows.lance"
HINT = "latest_version_hint.json"
"""LanceDB's one file that changes; it does without it."""
CACHE_BYTES = 64 * 1024**2
CONTENT, TOKENS = "content_hash", "token_matrix"
LATER = {CONTENT: pa.int64(), **dict.fromkeys(PACKED_COLUMNS, pa.binary())}
"""Columns that a table has from the first item on that needs them."""

WITH_TOKENS = 1024
"""Rows that are read at once where they have tokens: those are ten times an embedding."""

Append = Callable[[list[dict[str, Any]], np.ndarray], None]
"""Takes items, as `Rows.append`, with their embeddings."""
Form = Callable[[dict[str, Any], np.ndarray], dict[str, Any]]
"""From an item as it is stored, with its `metadata`, and its embedding to the item that takes its place."""


class Rows:
    """One LanceDB table below `folder`, opened at `version` (the newest when None)."""

    def __init__(self, folder: Path, version: int | None = None) -> None:
        import lancedb

        self.folder = folder
        # left to itself LanceDB keeps up to seven gigabytes of what it read, every version's list of files among it
        session = lancedb.Session(index_cache_size_bytes=CACHE_BYTES, metadata_cache_size_bytes=CACHE_BYTES)
        self._db = lancedb.connect(str(folder), session=session)
        try:
            self._table = self._db.open_table(TABLE)
            if version is not None and self._table.version != version:
                self._table.checkout(version)
        except (ValueError, OSError, RuntimeError) as error:
            raise BowerbirdError(
                f"{folder}: the rows cannot be opened ({str(error).splitlines()[0][:120]}); restore this folder from a"
                " copy"
            ) from error

    @classmethod
    def create(cls, folder: Path, dim: int) -> Rows:
        """An empty table for embeddings of dimension `dim`."""
        import lancedb

        schema = pa.schema(
            [
                ("id", pa.int64()),
                ("caption", pa.string()),
                ("name", pa.string()),
                ("image", pa.large_binary()),
                ("embedding", pa.list_(pa.float32(), dim)),
                ("added", pa.int64()),
                ("check", pa.int64()),
            ]
        )
        lancedb.connect(str(folder)).create_table(TABLE, schema=schema)
        return cls(folder)

    @property
    def version(self) -> int:
        """LanceDB's number of the opened version."""
        return int(self._table.version)

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def metadata_types(self) -> dict[str, str]:
        """Metadata columns and their Arrow types."""
        return {field.name: str(field.type) for field in self._table.schema if field.name not in OWN_COLUMNS}

    def roll_back(self) -> None:
        """Make the opened version the newest again: what a writer does with an unfinished write it finds."""
        opened = self.version
        self._table.checkout_latest()  # a list of all versions would read each one's own file
        if self.version != opened:
            self.restore(opened)

    def restore(self, version: int) -> None:
        """Make an earlier version the newest again, as it was."""
        self._table.checkout(version)
        self._table.restore()

    def append(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray, added: int) -> None:
        """Add `items` (own columns without embedding, and `metadata`) as of version `added`; new metadata columns are
        added to the table."""
        table = self._to_arrow(items, embeddings, added)
        at = table.schema.get_field_index("check")
        bare = table.drop_columns(["image"]).combine_chunks().to_batches()[0]
        self._table.add(table.set_column(at, table.schema.field(at), pa.array(checks(bare), pa.int64())))

    def widen(self, items: Sequence[dict[str, Any]], added: int) -> list[str]:
        """Change the type of the columns that the metadata of `items` does not fit, to text if need be, as of the
        change `added`; returns a line about each."""
        known = {field.name: field.type for field in self._table.schema if field.name not in OWN_COLUMNS}
        lines, wider = [], {}
        for name in sorted({key for item in items for key in item["metadata"]} & known.keys()):
            coming = as_column([item["metadata"].get(name) for item in items])
            kind = common_type(known[name], coming.type)
            if kind != known[name]:
                wider[name] = kind
                alone = (i for i in items if i["metadata"].get(name) is not None)
                odd = next(i for i in alone if _type_with(known[name], i["metadata"][name]) != known[name])
                word = "text" if pa.types.is_string(kind) else "numbers"
                lines.append(
                    f"column {name} becomes {word} (it was {known[name]}):"
                    f" {str(odd['metadata'][name])[:60]!r} in {odd['name'][:80]}"
                )
        if wider:
            self._retype(wider, added)
        return lines

    def _retype(self, kinds: dict[str, pa.DataType], added: int) -> None:
        """Write columns again in another type; rows are then as of the change `added`, with new checks."""
        parts = []
        for batch in self.checked_batches(4096):
            for name, kind in kinds.items():
                at = batch.schema.get_field_index(name)
                batch = batch.set_column(at, pa.field(name, kind), column_of(batch.column(at).to_pylist(), kind))
            at = batch.schema.get_field_index("added")
            batch = batch.set_column(at, batch.schema.field(at), pa.array([added] * len(batch), pa.int64()))
            at = batch.schema.get_field_index("check")
            batch = batch.set_column(at, batch.schema.field(at), pa.array(checks(batch), pa.int64()))
            parts.append(batch.select(["id", "added", "check", *kinds]))
        self._table.drop_columns(list(kinds))
        self._table.add_columns(pa.schema([pa.field(name, kind) for name, kind in kinds.items()]))
        if parts:
            self._table.merge_insert("id").when_matched_update_all().execute(pa.Table.from_batches(parts))

    def _to_arrow(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray, added: int) -> pa.Table:
        names = sorted({key for item in items for key in item["metadata"]})
        values = {name: [item["metadata"].get(name) for item in items] for name in names}
        columns = {name: as_column(values[name]) for name in names}
        known = {field.name: field.type for field in self._table.schema}
        fresh = [pa.field(name, column.type) for name, column in columns.items() if name not in known]
        for name, kind in LATER.items():
            if name not in known and any(item.get(name) is not None for item in items):
                fresh.append(pa.field(name, kind))
        if fresh:
            self._table.add_columns(pa.schema(fresh))
        arrays: dict[str, pa.Array] = {}
        for field in self._table.schema:
            if field.name == "embedding":
                arrays["embedding"] = pa.FixedSizeListArray.from_arrays(
                    pa.array(embeddings.reshape(-1), pa.float32()), embeddings.shape[1]
                )
            elif field.name in ("added", "check"):
                arrays[field.name] = pa.array([added] * len(items), field.type)
            elif field.name in OWN_COLUMNS:
                arrays[field.name] = pa.array([item.get(field.name) for item in items], field.type)
            elif field.name in columns:
                arrays[field.name] = _cast(values[field.name], columns[field.name], field)
            else:
                arrays[field.name] = pa.nulls(len(items), field.type)
        return pa.table(arrays)

    def delete(self, ids: Sequence[int]) -> None:
        """Remove the rows with these ids."""
        for start in range(0, len(ids), 1000):
            self._table.delete(_among(ids[start : start + 1000]))

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids (int64), of all rows or of those that satisfy `where`. Raises: BowerbirdError when it is no such
        condition."""
        query = self._table.search().select(["id"]).limit(max(1, len(self)))
        query = query if where is None else query.where(f"({check_condition(where)})")
        try:
            return query.to_arrow()["id"].to_numpy().astype(np.int64)
        except Exception as error:  # LanceDB raises several kinds for one cause: the condition
            if where is None:
                raise
            raise explain(where, [*self.metadata_types(), "caption", "name", "id"], error) from error

    def keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and the versions they came with, each int64 `(n,)`: what tells a row from every other, also from an
        earlier form of itself."""
        found = self._table.search().select(["id", "added"]).limit(max(1, len(self))).to_arrow()
        return found["id"].to_numpy().astype(np.int64), found["added"].to_numpy().astype(np.int64)

    def contents(self) -> np.ndarray:
        """The content hash of every row, int64 `(n,)`, in the order of `keys`: its id, for most."""
        names = ["id", CONTENT] if CONTENT in self._table.schema.names else ["id"]
        found = self._table.search().select(names).limit(max(1, len(self))).to_arrow()
        return pc.coalesce(*(found[name] for name in reversed(names))).to_numpy().astype(np.int64)

    def described(self) -> pa.Table:
        """Every row without its picture and its embedding: captions, names and metadata."""
        hidden = ("image", "embedding", "added", "check", *PACKED_COLUMNS)
        names = [f.name for f in self._table.schema if f.name not in hidden]
        return self._table.search().select(names).limit(max(1, len(self))).to_arrow().select(names)

    def schema_without(self, *names: str) -> pa.Schema:
        """The table's columns but for those named."""
        return pa.schema([field for field in self._table.schema if field.name not in names])

    def checked_batches(self, size: int, ids: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows, or those of `ids`, without their pictures, `size` at a time, each compared with its check.

        Raises: BowerbirdError naming the first row that is not as it was written.
        """
        names = [field.name for field in self._table.schema if field.name != "image"]
        query = self._table.search().select(names).limit(max(1, len(self)))
        if ids is not None:
            query = query.where(_among(ids))
        for batch in query.to_batches(size if TOKENS not in names else min(size, WITH_TOKENS)):
            if len(batch):
                batch = batch.select(names)
                wrong = np.flatnonzero(checks(batch) != batch.column(names.index("check")).to_numpy())
                if len(wrong):
                    raise BowerbirdError(
                        f"{self.folder}: the row of id {batch.column(names.index('id'))[int(wrong[0])]} is not as it"
                        f" was written; bowerbird kb verify {in_shell(self.folder)} names the damaged file"
                    )
                yield batch

    def of(self, ids: Sequence[int]) -> pa.Table:
        """The rows of `ids` without pictures, tokens and checks."""
        schema = self.schema_without("image", "check", TOKENS)
        found = [
            batch
            for start in range(0, len(ids), 5000)
            for batch in self.checked_batches(4096, ids[start : start + 5000])
        ]
        return pa.Table.from_batches([batch.select(schema.names) for batch in found], schema=schema)

    def whole(self, ids: Sequence[int]) -> pa.Table:
        """The rows of `ids` with everything they hold, in the order of `ids`."""
        found = self._table.search().where(_among(ids)).limit(len(ids)).to_arrow()
        at = {number: row for row, number in enumerate(found["id"].to_pylist())}
        return found.select(self._table.schema.names).take([at[int(i)] for i in ids])

    def whole_batches(self, ids: Sequence[int], most: int) -> Iterator[pa.Table]:
        """`whole`, up to `most` rows at a time."""
        return read_in_batches(ids, self.whole, lambda table: int(table["image"].nbytes), most)

    def pictures(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The original bytes of these items' pictures, by id, read in one batch; each is compared with its id. Items
        without a picture are left out.

        Raises: BowerbirdError when one is not what was added.
        """
        wanted = sorted({int(i) for i in ids})
        if not wanted:
            return {}
        names = [name for name in ("id", "image", "caption", CONTENT) if name in self._table.schema.names]
        found = self._table.search().where(_among(wanted)).select(names).limit(len(wanted)).to_arrow()
        pictures = {}
        for row in found.to_pylist():
            number, data, content = row["id"], row["image"], row.get(CONTENT)
            if data and hash_of(data, row["caption"]) != (number if content is None else content):
                raise BowerbirdError(
                    f"{self.folder}: the picture of id {number} is not as it was added; bowerbird kb verify"
                    f" {self.folder} names the damaged file"
                )
            if data:
                pictures[number] = data
        return pictures

    def tokens(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The packed tokens of these items, by id; items without are left out."""
        known, places = self._places
        wanted = np.unique(np.asarray(ids, np.int64))
        at = np.minimum(np.searchsorted(known, wanted), max(0, len(known) - 1))
        at = at[known[at] == wanted] if len(known) else at[:0]
        found = self._table.take_row_ids(places[at].tolist()).select(["id", TOKENS]).to_arrow() if len(at) else None
        rows = [] if found is None else zip(found["id"].to_pylist(), found[TOKENS].to_pylist(), strict=True)
        return {number: data for number, data in rows if data is not None}

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the opened version, ascending, and where LanceDB has each; none where no row has tokens."""
        if TOKENS not in self._table.schema.names:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        found = self._table.search().select(["id"]).with_row_id(True).limit(max(1, len(self))).to_arrow()
        ids, places = (found[name].to_numpy().astype(np.int64) for name in ("id", "_rowid"))
        order = np.argsort(ids)
        return ids[order], places[order]

    def change(self, ids: Sequence[int], caption: str | None, metadata: dict[str, Any], append: Append) -> None:
        """Write the rows of `ids` again, by `append`, with another caption or other metadata.

        Raises: BowerbirdError, before anything is written, when two items would become one.
        """
        if caption is not None:
            self._refuse_collisions(ids, caption)

        def changed(row: dict[str, Any], vector: np.ndarray) -> dict[str, Any]:
            item = row | {"metadata": row["metadata"] | metadata}
            if caption is None:
                return item
            content = item_id(row["image"], vector, caption)
            own = {"id": content} if row.get(CONTENT) is None else {CONTENT: content}
            return with_caption(item, caption) | own

        self.rewrite(ids, changed, append)

    def rewrite(self, ids: Sequence[int], form: Form, append: Append) -> None:
        """Remove the rows of `ids` and `append` them as `form` makes them of what they were."""
        before = Rows(self.folder, self.version)
        names = [f.name for f in self._table.schema if f.name not in OWN_COLUMNS]
        self.delete(ids)
        for found in before.whole_batches(ids, 2000):
            embeddings = np.stack(found["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
            items = []
            for row, vector in zip(found.drop_columns(["embedding"]).to_pylist(), embeddings, strict=True):
                own = {name: row.get(name) for name in ("id", "caption", "name", "image", *LATER)}
                kept = {name: row[name] for name in names if row[name] is not None}
                items.append(form(own | {"metadata": kept}, vector))
            append(items, embeddings)

    def _refuse_collisions(self, ids: Sequence[int], caption: str) -> None:
        becomes: dict[int, int] = {}
        others = set(self.keys()[0].tolist()) - set(ids)
        for found in self.whole_batches(ids, 200):
            vectors = np.stack(found["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
            kept = found[CONTENT].is_valid().to_pylist() if CONTENT in found.schema.names else [False] * len(found)
            for number, data, vector, keeps_id in zip(
                found["id"].to_pylist(), found["image"].to_pylist(), vectors, kept, strict=True
            ):
                new = number if keeps_id else item_id(data, vector, caption)
                if new in others or becomes.setdefault(new, number) != number:
                    raise BowerbirdError(
                        f"{self.folder}: with caption {caption!r}, item {number} would be the same as item"
                        f" {becomes.get(new, new)}; nothing was changed"
                    )

    def compact(self) -> None:
        """Write the rows as few files; every earlier version stays."""
        self._table.optimize(cleanup_older_than=timedelta(days=365_000))

    def forget_others(self) -> None:
        """Delete the files that only earlier versions need."""
        self._clean()
        left = [path for path in self._manifests() if version_of(path) != self.version]
        if left:  # LanceDB goes by the clock: a version that was made when it was ahead of now has no age to drop it by
            for path in left:
                path.unlink(missing_ok=True)
            self._clean()

    def _clean(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="optimize")  # that older versions go is what was asked for
            self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    def _manifests(self) -> list[Path]:
        """LanceDB's list of files for each of its versions."""
        return list((self.folder / FOLDER / "_versions").glob("*.manifest"))


def version_of(manifest: Path) -> int:
    """The version that a list of files of LanceDB is of: it counts their names down from 2^64 - 1, or up."""
    number = int(manifest.name.split(".")[0])
    return number if number < 2**63 else 2**64 - 1 - number


def _among(ids: Sequence[int]) -> str:
    return f"id IN ({', '.join(str(int(i)) for i in ids)})"


def with_caption(item: dict[str, Any], caption: str) -> dict[str, Any]:
    """An item with this caption; the vector of another one is not its own."""
    return item | {"caption": caption} | ({} if item["caption"] == caption else {CAPTION_EMBEDDING: None})


def checks(batch: pa.RecordBatch) -> np.ndarray:
    """A number for each row that changes with any bit of it, pictures and the check itself aside, int64 `(n,)`."""
    embedding = batch.column(batch.schema.get_field_index("embedding"))
    words = np.asarray(embedding.flatten(), np.float32).view(np.uint32).reshape(len(batch), -1).astype(np.uint64)
    # odd multipliers: no change of one number can cancel, modulo 2^64
    total: np.ndarray = words @ (2 * np.arange(words.shape[1], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    names = sorted(n for n in batch.schema.names if n not in ("image", "embedding", "check", *PACKED_COLUMNS))
    packed = [batch.column(batch.schema.get_field_index(n)) for n in PACKED_COLUMNS if n in batch.schema.names]
    columns = [(name, batch.column(batch.schema.get_field_index(name)).to_pylist()) for name in names]
    for row in range(len(batch)):
        text = json.dumps(
            [[name, column[row]] for name, column in columns if column[row] is not None],
            ensure_ascii=False,
            default=str,
        )
        said = text.encode("utf-8", "surrogatepass") + b"".join(column[row].as_py() or b"" for column in packed)
        digest = hashlib.blake2b(said, digest_size=8).digest()
        total[row] ^= np.uint64(int.from_bytes(digest, "big"))
    return total.view(np.int64)


def _type_with(known: pa.DataType, value: Any) -> pa.DataType:
    """The type of a column of `known` that also has `value`."""
    return common_type(known, as_column([value]).type)


def _cast(values: Sequence[Any], column: pa.Array, field: pa.Field) -> pa.Array:
    """`values`, by themselves `column`, in the type the table already has. Raises: BowerbirdError when the two disagree
    beyond that."""
    if common_type(field.type, column.type) == field.type:
        return column_of(values, field.type)
    try:
        if pa.types.is_integer(field.type) and pa.types.is_floating(column.type):
            return column.cast(field.type)  # whole numbers all the same
    except pa.ArrowInvalid:
        pass
    raise BowerbirdError(
        f"metadata column {field.name!r} is {field.type} in this knowledge base and {column.type} in the new values;"
        " give it another name"
    )
