"""What makes search fast and can always be made again: vectors, the dense index, the word index, captions and metadata.

They lie in `index/` with a manifest that names the version and fingerprint they were made from and the hash of every file;
anything that does not match is left aside and made anew from the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bowerbird import checkpoint
from bowerbird.errors import BowerbirdError
from bowerbird.knowledge import dense, sparse
from bowerbird.knowledge.rows import OWN_COLUMNS

if TYPE_CHECKING:
    import bm25s
    import faiss

VECTORS, DENSE, SPARSE, TABLE = "vectors.npy", "dense.faiss", "bm25", "table.arrow"


@dataclass
class Caches:
    """The searchable form of one version: `ids` (n,), `table` (captions, names, metadata); vectors and indexes on first use."""

    table: pa.Table
    normalize: bool
    folder: Path | None = None
    hashes: dict[str, str] | None = None
    raw: np.ndarray | None = None

    @cached_property
    def ids(self) -> np.ndarray:
        """Content ids in row order, int64 `(n,)`."""
        return self.table["id"].to_numpy().astype(np.int64)

    @cached_property
    def row_of(self) -> dict[int, int]:
        """From id to row."""
        return {int(item): row for row, item in enumerate(self.ids)}

    @cached_property
    def vectors(self) -> np.ndarray:
        """Raw embeddings, float32 `(n, d)`, memory-mapped where they lie on disk."""
        if self.raw is not None:
            return self.raw
        assert self.folder is not None
        array: np.ndarray = np.load(self.folder / VECTORS, mmap_mode="r", allow_pickle=False)
        return array

    @cached_property
    def dense(self) -> faiss.Index:
        """The dense index."""
        found = dense.load(self.folder / DENSE, (self.hashes or {}).get(DENSE, "")) if self.folder else None
        return found if found is not None else dense.build(self.ids, dense.prepare(self.vectors, self.normalize))

    @cached_property
    def sparse(self) -> bm25s.BM25:
        """The word index over caption and, where there is one, the `tags` column."""
        found = sparse.load(self.folder / SPARSE) if self.folder else None
        if found is not None:
            return found
        rows = self.table["tags"].to_pylist() if "tags" in self.table.column_names else [None] * len(self.table)
        tags = [" ".join(map(str, row)) if isinstance(row, list) else str(row or "") for row in rows]
        return sparse.build(self.table["caption"].to_pylist(), tags)

    def metadata(self, row: int) -> dict[str, Any]:
        """The metadata of one row, without empty values."""
        columns = [name for name in self.table.column_names if name not in OWN_COLUMNS]
        return {name: value for name in columns if (value := self.table[name][row].as_py()) is not None}

    def write(self, folder: Path, tag: dict[str, Any]) -> None:
        """Write all caches as the directory `folder`, their manifest last."""
        with checkpoint.atomic_directory(folder) as target:
            np.save(target / VECTORS, np.asarray(self.vectors, np.float32))
            dense.save(self.dense, target / DENSE)
            if len(self.ids):
                sparse.save(self.sparse, target / SPARSE)
            with pa.OSFile(str(target / TABLE), "wb") as sink, pa.ipc.new_file(sink, self.table.schema) as writer:
                writer.write_table(self.table)
            files = sorted(p for p in target.rglob("*") if p.is_file())
            hashes = {p.relative_to(target).as_posix(): dense.file_hash(p) for p in files}
            checkpoint.write_json(target / "manifest.json", {**tag, "sha256": hashes})


def from_rows(table: pa.Table, normalize: bool) -> Caches:
    """Caches of `table` (all rows, without pictures), in memory."""
    column = table["embedding"].combine_chunks()
    flat = column.flatten() if not isinstance(column, pa.ChunkedArray) else pa.concat_arrays([c.flatten() for c in column.chunks])
    raw = np.asarray(flat, np.float32).reshape(len(table), -1) if len(table) else np.zeros((0, table.schema.field("embedding").type.list_size), np.float32)
    return Caches(table.drop_columns(["embedding"]), normalize, raw=raw)


def load(folder: Path, tag: dict[str, Any], normalize: bool) -> Caches | None:
    """The caches in `folder` when they were made for `tag` (version, fingerprint) and are unharmed, else None."""
    try:
        manifest = checkpoint.read_json(folder / "manifest.json", "index")
        hashes = manifest.get("sha256", {})
        if {key: manifest.get(key) for key in tag} != tag or any(dense.file_hash(folder / name) != value for name, value in hashes.items()):
            return None
        with pa.memory_map(str(folder / TABLE)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (BowerbirdError, OSError, pa.ArrowInvalid):
        return None
    return Caches(table, normalize, folder, hashes)
