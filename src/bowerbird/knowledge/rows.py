"""The rows of a knowledge base, in LanceDB: the truth everything else is made from.

A row: id (content hash), caption, name, metadata columns, the picture's original bytes, and its raw embedding.
Every write makes a new table version; readers open the one the manifest names, so an unfinished write is never seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bowerbird.errors import BowerbirdError
from bowerbird.knowledge.where import explain

TABLE = "rows"
OWN_COLUMNS = ("id", "caption", "name", "image", "embedding")


class Rows:
    """One LanceDB table below `folder`, opened at `version` (the newest when None)."""

    def __init__(self, folder: Path, version: int | None = None) -> None:
        import lancedb

        self._db = lancedb.connect(str(folder))
        try:
            self._table = self._db.open_table(TABLE)
            if version is not None and self._table.version != version:
                self._table.checkout(version)
        except (ValueError, OSError, RuntimeError) as error:
            raise BowerbirdError(f"{folder}: the rows cannot be opened ({str(error).splitlines()[0][:120]}); restore this folder from a copy") from error

    @classmethod
    def create(cls, folder: Path, dim: int) -> Rows:
        """An empty table for embeddings of `dim` numbers."""
        import lancedb

        schema = pa.schema(
            [("id", pa.int64()), ("caption", pa.string()), ("name", pa.string()), ("image", pa.large_binary()), ("embedding", pa.list_(pa.float32(), dim))]
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
        if self.version != max(entry["version"] for entry in self._table.list_versions()):
            self._table.restore()
        else:
            self._table.checkout_latest()

    def append(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray) -> None:
        """Add `items` (own columns without embedding, and `metadata`); new metadata columns are added to the table."""
        self._table.add(self._to_arrow(items, embeddings))

    def _to_arrow(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray) -> pa.Table:
        names = sorted({key for item in items for key in item["metadata"]})
        columns = {name: _column([item["metadata"].get(name) for item in items]) for name in names}
        known = {field.name: field.type for field in self._table.schema}
        fresh = [pa.field(name, column.type) for name, column in columns.items() if name not in known]
        if fresh:
            self._table.add_columns(pa.schema(fresh))
        arrays: dict[str, pa.Array] = {}
        for field in self._table.schema:
            if field.name == "embedding":
                arrays["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1), pa.float32()), embeddings.shape[1])
            elif field.name in OWN_COLUMNS:
                arrays[field.name] = pa.array([item[field.name] for item in items], field.type)
            elif field.name in columns:
                arrays[field.name] = _cast(columns[field.name], field)
            else:
                arrays[field.name] = pa.nulls(len(items), field.type)
        return pa.table(arrays)

    def delete(self, ids: Sequence[int]) -> None:
        """Remove the rows with these ids."""
        for start in range(0, len(ids), 1000):
            self._table.delete(f"id IN ({', '.join(str(int(i)) for i in ids[start : start + 1000])})")

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids (int64), of all rows or of those that satisfy `where`. Raises: BowerbirdError when it is no such condition."""
        query = self._table.search().select(["id"]).limit(max(1, len(self)))
        try:
            return (query.where(f"({where})") if where else query).to_arrow()["id"].to_numpy().astype(np.int64)
        except Exception as error:  # LanceDB raises several kinds for one cause: the condition
            if where is None:
                raise
            raise explain(where, [*self.metadata_types(), "caption", "name", "id"], error) from error

    def everything_but_pictures(self) -> pa.Table:
        """All rows without the `image` column."""
        names = [field.name for field in self._table.schema if field.name != "image"]
        return self._table.search().select(names).limit(max(1, len(self))).to_arrow().select(names)

    def pictures(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The original bytes of these items' pictures, by id, read in one batch."""
        wanted = sorted({int(i) for i in ids})
        if not wanted:
            return {}
        found = self._table.search().where(f"id IN ({', '.join(map(str, wanted))})").select(["id", "image"]).limit(len(wanted)).to_arrow()
        return dict(zip(found["id"].to_pylist(), found["image"].to_pylist(), strict=True))


def _column(values: list[Any]) -> pa.Array:
    """Metadata values as one Arrow column: numbers, booleans, texts and lists of texts as such, anything else as JSON text."""
    plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
    present = [v for v in plain if v is not None]
    kinds = {type(v) for v in present}
    if kinds and (kinds <= {str} or kinds <= {bool} or kinds <= {int} or kinds <= {int, float}):
        try:
            return pa.array([float(v) if v is not None and kinds == {int, float} else v for v in plain])
        except (pa.ArrowInvalid, OverflowError):
            pass
    if kinds == {list} and all(isinstance(x, str) for v in present for x in v):
        return pa.array(plain, pa.list_(pa.string()))
    return pa.array([v if v is None or isinstance(v, str) else json.dumps(v, default=str, ensure_ascii=False) for v in plain], pa.string())


def _cast(column: pa.Array, field: pa.Field) -> pa.Array:
    """`column` in the type the table already has. Raises: BowerbirdError when the two sources disagree beyond that."""
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BowerbirdError(
            f"metadata column {field.name!r} is {field.type} in this knowledge base and {column.type} in the new source; rename it there"
        ) from error
