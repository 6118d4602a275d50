"""Tables of pictures: parquet files and saved HF data sets. A picture column, a caption column, and metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import CAPTION_COLUMNS, SourceItem
from bowerbird.data.sources import urls
from bowerbird.data.sources.base import SourceOptions
from bowerbird.data.sources.picture_file import read_picture_file
from bowerbird.data.sources.urls import URL

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


SUFFIXES = (".parquet", ".pq")
BATCH, BATCH_BYTES = 128, 32 * 1024**2
"""Rows read at once, and about how many bytes of them."""
ENCODER_KEY = b"bowerbird.encoder"
"""Schema metadata of a table whose `embedding` column is made by the encoder of this fingerprint."""


class Parquet:
    """A parquet file in the hub's layout: an `image` struct {bytes, path} or a path column; other columns become
    metadata."""

    def matches(self, place: str) -> bool:
        return Path(place).suffix.lower() in SUFFIXES and Path(place).is_file()

    def count(self, place: str) -> int | None:
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(place).num_rows)
        except (OSError, ValueError):
            return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        return read_parquet(Path(place), options)


def read_parquet(path: Path, options: SourceOptions) -> Iterator[SourceItem]:
    """The rows of a parquet file. Raises: BowerbirdError when it is none, or has no pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BowerbirdError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from error
    yield from read_batches(
        file.schema_arrow, file.iter_batches(batch_size=_rows_at_once(file.metadata)), path, options
    )


def _rows_at_once(facts: pq.FileMetaData) -> int:
    """So many rows as hold some `BATCH_BYTES`, going by what the file says of its row groups."""
    groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
    row = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    return max(1, min(BATCH, int(BATCH_BYTES / max(1.0, row))))


def read_batches(
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    path: Path,
    options: SourceOptions,
) -> Iterator[SourceItem]:
    """Rows with an `image` struct {bytes, path} or a path column; other columns become metadata. `path` names the
    table, and paths lie beside it.

    Embeddings of a table that says whose they are come along. Where `options` say `fetch_urls`, pictures may be had
    from the addresses in a column `url`.
    """
    caption_column = options.caption_column
    image_column = _image_column(schema, path, options.fetch_urls)
    fingerprint = (schema.metadata or {}).get(ENCODER_KEY, b"").decode("utf-8", "replace")
    names = [n for n in schema.names if n not in ((image_column, "embedding") if fingerprint else (image_column,))]
    if caption_column is not None and caption_column not in names:
        raise BowerbirdError(f"{path}: no column {caption_column!r} for captions; there is {', '.join(names)}")
    caption = caption_column or next((c for c in CAPTION_COLUMNS if c in names), None)
    row_number = 0
    for batch in _slices(batches):
        vectors = iter(_vectors(batch, path)) if fingerprint and "embedding" in schema.names else None
        rows = batch.select([n for n in batch.schema.names if vectors is None or n != "embedding"]).to_pylist()
        fetched = (
            iter(urls.fetch([row[image_column] for row in rows], private=options.private_urls))
            if image_column == URL
            else None
        )
        for row in rows:
            data, name, problem = (
                next(fetched) if fetched is not None else _picture_bytes(row.pop(image_column), path.parent)
            )
            text = row.pop(caption, None) if caption else None
            metadata = {("source_id" if k == "id" else k): v for k, v in row.items() if v is not None}
            yield SourceItem(
                data,
                name or f"{path.name}[{row_number}]",
                "" if text is None else str(text),
                metadata,
                next(vectors) if vectors is not None else None,
                fingerprint,
                problem,
            )
            row_number += 1


def _slices(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of `batches`, some `BATCH_BYTES` at a time: one batch may be a thousand photographs."""
    for batch in batches:
        step = max(1, min(BATCH, BATCH_BYTES * len(batch) // max(1, batch.nbytes)))
        for start in range(0, len(batch), step):
            yield batch.slice(start, step)


def _vectors(batch: pa.RecordBatch, path: Path) -> np.ndarray:
    """The embeddings of a batch, float32 `(n, d)`. Raises: BowerbirdError when they are not all of one length."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column(batch.schema.get_field_index("embedding"))
    listed = (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    )
    if (
        not listed
        or not pa.types.is_floating(column.type.value_type)
        or column.null_count
        or (len(batch) and len(pc.unique(pc.list_value_length(column))) != 1)
    ):
        raise BowerbirdError(
            f"{path}: its embeddings are not lists of one length ({column.type}, {column.null_count} empty)"
        )
    return np.asarray(column.flatten(), np.float32).reshape(len(batch), -1)


def _image_column(schema: pa.Schema, path: Path, fetch_urls: bool) -> str:
    """The column that holds the pictures: a struct or binary one called `image` or `img`, else a column of paths,
    else, if allowed, of addresses."""
    for name in ("image", "img", "jpg", "png", "webp", "image_path", "file_name", "path"):
        if name in schema.names:
            return name
    if URL in schema.names:
        if fetch_urls:
            return URL
        raise BowerbirdError(
            f"{path}: has addresses of pictures and no pictures; nothing is asked of the network unless you say so with"
            " `fetch_urls`"
        )
    raise BowerbirdError(
        f"{path}: no picture column; name it image (struct of bytes and path, bytes, or a path); there is"
        f" {', '.join(schema.names)}"
    )


def _picture_bytes(value: Any, folder: Path) -> tuple[bytes, str, str]:
    """Bytes and name of one cell, and why there are no bytes; a relative path is looked up beside the parquet file and
    never above it."""
    if isinstance(value, bytes):
        return value, "", ""
    path = value.get("path") if isinstance(value, dict) else value
    data = value.get("bytes") if isinstance(value, dict) else None
    if data:
        return bytes(data), str(path or ""), ""
    if not isinstance(path, str):
        return b"", "", ""
    target = (folder / path).resolve()
    if target.is_relative_to(folder.resolve()) and target.is_file():
        data, problem = read_picture_file(target)
        return data, path, problem
    return b"", path, f"no such file in {folder}"
