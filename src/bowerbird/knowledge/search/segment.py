"""The searchable form of a knowledge base at one version: vectors, the dense index, the word index, captions and
metadata, as files.

A cache: it lies in `index/` with a manifest that names the version and fingerprint it was made from and the hash of
every file. What does not match is left aside and made again from the rows. Made in one pass over the rows, within the
memory that the plan allows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bowerbird.core import checksums, files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage
from bowerbird.data.item import CAPTION_EMBEDDING, HIDDEN_COLUMNS, OWN_COLUMNS
from bowerbird.knowledge.search import ann, bm25, dense
from bowerbird.knowledge.search.analyzer import Analyzer
from bowerbird.knowledge.search.planner import Plan

if TYPE_CHECKING:
    import faiss

    from bowerbird.knowledge.search.protocol import IndexedRows

FOLDER = "index"
MANIFEST, VECTORS, LENGTHS, DENSE, WORDS, TABLE = (
    "manifest.json",
    "vectors.npy",
    "lengths.npy",
    "dense.faiss",
    "bm25",
    "table.arrow",
)
SMALL, STEPS = "small.npy", "steps.npy"
CAPTION_VECTORS, CAPTION_LENGTHS = "captions.npy", "caption-lengths.npy"
BATCH = 8192
MADE_BY = ("fingerprint", "normalize", "layout", "words", "text", "captions")
"""What a segment must have been made with to be taken; `text` is there where words are taken otherwise than plainly,
`captions` where they have vectors of their own."""


@dataclass
class Segment:
    """Rows 0 … n-1 of one version: `table` (ids, captions, names, metadata), vectors and indexes.

    `facts`: the manifest of a segment on disk; of one in memory, what its word index goes by.
    """

    table: pa.Table
    vectors: dense.Vectors
    facts: dict[str, Any]
    index: faiss.Index | None = None  # where the plan is not flat
    captions: dense.Vectors | None = None  # where captions have vectors; zeros for those without a caption
    words: bm25.Words | None = None  # over caption and, where there is one, the `tags` column; None without rows

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def ids(self) -> np.ndarray:
        """Content ids, int64 `(n,)`."""
        return self._numbers("id")

    @cached_property
    def added(self) -> np.ndarray:
        """The version each row came with, int64 `(n,)`."""
        return self._numbers("added")

    def _numbers(self, name: str) -> np.ndarray:
        found: np.ndarray = self.table[name].to_numpy().astype(np.int64)
        return found

    @cached_property
    def by_id(self) -> np.ndarray:
        """The rows in the order of their ids."""
        return np.argsort(self.ids, kind="stable")

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The rows of `ids` `(n,)`, -1 for one that is not here."""
        if not len(self):
            return np.full(len(ids), -1, np.int64)
        at = np.minimum(np.searchsorted(self.ids, ids, sorter=self.by_id), len(self) - 1)
        rows = self.by_id[at]
        return np.where(self.ids[rows] == ids, rows, -1)

    def metadata(self, row: int) -> dict[str, Any]:
        """The metadata of one row, without empty values."""
        columns = [name for name in self.table.column_names if name not in OWN_COLUMNS]
        return {name: value for name in columns if (value := self.table[name][row].as_py()) is not None}


def tags_of(table: pa.Table | pa.RecordBatch) -> list[str]:
    """The further words of each row (`bm25.further_words`)."""
    there = [name for name in bm25.FURTHER if name in table.schema.names]
    rows = table.select(there).to_pylist() if there else [{}] * len(table)
    return [bm25.further_words(row) for row in rows]


def vectors_of(batch: pa.RecordBatch, dim: int) -> np.ndarray:
    """The embeddings of a batch, float32 `(n, dim)`."""
    column = batch.column(batch.schema.get_field_index("embedding"))
    return np.asarray(column.flatten(), np.float32).reshape(len(batch), dim)


def caption_dim(tag: dict[str, Any]) -> int:
    """The dimension of the captions' vectors; 0 where they have none."""
    return int(tag["captions"]["dim"]) if "captions" in tag else 0


def caption_vectors_of(batch: pa.RecordBatch | pa.Table, dim: int) -> np.ndarray:
    """The vectors of the captions of a batch, float32 `(n, dim)`; zeros where there is none."""
    made = np.zeros((len(batch), dim), np.float32)
    if CAPTION_EMBEDDING in batch.schema.names:
        for row, data in enumerate(batch.column(batch.schema.get_field_index(CAPTION_EMBEDDING)).to_pylist()):
            if data is not None:
                made[row] = np.frombuffer(data, "<f4")
    return made


def _compared(raw: np.ndarray) -> dense.Vectors:
    """Vectors of captions, which are compared by cosine."""
    return dense.Vectors(raw, dense.lengths_of(raw, True))


def nothing(like: Segment, dim: int) -> Segment:
    """No rows, beside a segment that has them all."""
    empty = dense.Vectors(np.zeros((0, dim), np.float32), np.zeros(0, np.float32))
    captions = None if like.captions is None else _compared(np.zeros((0, like.captions.raw.shape[1]), np.float32))
    return Segment(like.table.slice(0, 0), empty, {"files": {}}, captions=captions)


def in_memory(table: pa.Table, dim: int, tag: dict[str, Any], like: Segment | None) -> Segment:
    """Rows that are in no segment yet; their word index weighs words as that of `like` does."""
    raw = np.concatenate([np.zeros((0, dim), np.float32), *[vectors_of(b, dim) for b in table.to_batches()]])
    width = caption_dim(tag)
    made = Segment(
        table.drop_columns([name for name in ("embedding", CAPTION_EMBEDDING) if name in table.column_names]),
        dense.Vectors(raw, dense.lengths_of(raw, bool(tag["normalize"]))),
        {"files": {}},
        captions=_compared(caption_vectors_of(table, width)) if width else None,
    )
    captions, tags, names = made.table["caption"].to_pylist(), tags_of(made.table), made.table["name"].to_pylist()
    if not len(made):
        made.words = None
    elif like is None or like.words is None:
        made.words = bm25.build(captions, tags, tag["words"], names, Analyzer.of(tag))
    else:
        made.words = bm25.build_like(like.words, float(like.facts["mean_words"]), captions, tags, tag["words"], names)
    return made


def write(folder: Path, rows: IndexedRows, plan: Plan, tag: dict[str, Any], dim: int, on_message: OnMessage) -> None:
    """Make the segment of `rows` in `folder`; what an interrupted making left there (`files.resumable_directory`)
    is gone on with."""
    on_message = (lambda _: None) if plan.kind == "flat" else on_message  # it takes a second
    done = folder / "rows.json"
    if not done.is_file():
        on_message(f"reading {plan.items:,} rows")
        _write_rows(folder, rows, plan.items, dim, tag)
        files.write_json(done, tag)
    with pa.memory_map(str(folder / TABLE)) as source:
        table = pa.ipc.open_file(source).read_all()
    facts: dict[str, Any] = {"index": plan.facts() | _write_dense(folder, plan, on_message)}
    if len(table):
        on_message("indexing words")
        words, facts["mean_words"] = word_index(table, tag["words"], Analyzer.of(tag))
        bm25.save(words, folder / WORDS)
    done.unlink()
    for left in folder.glob("shard*"):
        left.unlink()
    files.write_sealed(
        folder / MANIFEST,
        {**tag, "items": plan.items, **facts, "files": checksums.record(folder, MANIFEST, files.MAKING)},
    )


def word_index(table: pa.Table, weights: Sequence[int], analyzer: Analyzer) -> tuple[bm25.Words, float]:
    """The word index of a segment's table, and the mean number of words that it weighs by."""
    columns = [name for name in ("caption", "name", *bm25.FURTHER) if name in table.column_names]
    chosen = table.select(columns)
    return bm25.build_and_count(
        (c for b in chosen.to_batches() for c in b.column("caption").to_pylist()),
        (t for b in chosen.to_batches() for t in tags_of(b)),
        weights,
        (n for b in chosen.to_batches() for n in b.column("name").to_pylist()),
        analyzer,
    )


def shown_columns(schema: pa.Schema) -> list[str]:
    """Those columns of the rows that a segment's table has."""
    return [name for name in schema.names if name not in HIDDEN_COLUMNS]


def _write_dense(folder: Path, plan: Plan, on_message: OnMessage) -> dict[str, Any]:
    """The dense index where the plan has one, and what was measured of it. Nothing of it stays in memory."""
    if plan.kind == "flat":
        return {}
    vectors = dense.Vectors(np.load(folder / VECTORS, mmap_mode="r"), np.load(folder / LENGTHS))
    if plan.small:
        on_message("quantizing the vectors to 8 bits")
        np.save(folder / STEPS, dense.quantize(vectors, folder / SMALL))
        vectors = dense.Vectors(vectors.raw, vectors.lengths, dense.load_small(folder / SMALL), np.load(folder / STEPS))
    index = ann.build(vectors, plan, folder, on_message)
    dense.save(index, folder / DENSE)
    return ann.tune(index, vectors, plan, on_message)


def _write_rows(folder: Path, rows: IndexedRows, items: int, dim: int, tag: dict[str, Any]) -> None:
    """One pass over the rows: table, vectors, lengths; each row's check is compared."""
    normalize, width = bool(tag["normalize"]), caption_dim(tag)
    lengths, said = np.zeros(items, np.float32), np.zeros(items, np.float32)
    at = 0
    with (folder / VECTORS).open("wb") as file, contextlib.ExitStack() as stack:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (items, dim)})
        beside = stack.enter_context((folder / CAPTION_VECTORS).open("wb")) if width else None
        if beside is not None:
            header = {"descr": "<f4", "fortran_order": False, "shape": (items, width)}
            np.lib.format.write_array_header_1_0(beside, header)
        with (
            pa.OSFile(str(folder / TABLE), "wb") as sink,
            pa.ipc.new_file(sink, rows.schema_without(*HIDDEN_COLUMNS)) as writer,
        ):
            for batch in rows.checked_batches(BATCH):
                raw = vectors_of(batch, dim)
                file.write(np.ascontiguousarray(raw).tobytes())
                lengths[at : at + len(raw)] = dense.lengths_of(raw, normalize)
                if beside is not None:
                    vectors = caption_vectors_of(batch, width)
                    beside.write(vectors.tobytes())
                    said[at : at + len(raw)] = dense.lengths_of(vectors, True)
                at += len(raw)
                writer.write_batch(batch.select(shown_columns(batch.schema)))
    if at != items:
        raise BowerbirdError(
            f"{folder.parent}: the manifest says {items} items and {at} rows are there; bowerbird kb verify"
            f" {folder.parent}"
        )
    np.save(folder / LENGTHS, lengths)
    if width:
        np.save(folder / CAPTION_LENGTHS, said)


def load(folder: Path, tag: dict[str, Any]) -> Segment | None:
    """The segment in `folder`, of whatever version, when it was made with the encoder and normalization of `tag` and
    is unharmed, else None.

    Everything is opened here: should another process put a newer segment in its place, this one goes on with its own
    files.
    """
    for _ in range(5):
        facts = _facts(folder)
        if facts is None or any(facts.get(key) != tag.get(key) for key in MADE_BY):
            return None
        try:
            made = _open(folder, facts)
        except (
            BowerbirdError,
            OSError,
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            RuntimeError,
            pa.ArrowInvalid,
        ):
            made = None
        if _facts(folder) == facts:  # else another was put in its place while this one was opened
            return made
    return None


def _facts(folder: Path) -> dict[str, Any] | None:
    try:
        return files.read_sealed(folder / MANIFEST, "index")
    except BowerbirdError:
        return None


def _open(folder: Path, facts: dict[str, Any]) -> Segment | None:
    if checksums.find_changes(folder, facts["files"]):
        return None
    with pa.memory_map(str(folder / TABLE)) as source:
        table = pa.ipc.open_file(source).read_all()
    raw, lengths = (
        np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False),
        np.load(folder / LENGTHS, allow_pickle=False),
    )
    quantized = SMALL in facts["files"]
    vectors = dense.Vectors(
        raw,
        lengths,
        small=dense.load_small(folder / SMALL) if quantized else None,
        steps=np.load(folder / STEPS, allow_pickle=False) if quantized else None,
        file=dense.RowFile(folder / VECTORS),
    )
    index = dense.load(folder / DENSE) if DENSE in facts["files"] else None
    words = bm25.load(folder / WORDS, Analyzer.of(facts)) if len(table) else None
    captions = None
    if "captions" in facts:
        captions = dense.Vectors(
            np.load(folder / CAPTION_VECTORS, mmap_mode="r", allow_pickle=False),
            np.load(folder / CAPTION_LENGTHS, allow_pickle=False),
            file=dense.RowFile(folder / CAPTION_VECTORS),
        )
    return Segment(table, vectors, facts, index, captions, words)
