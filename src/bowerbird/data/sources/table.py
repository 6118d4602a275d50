"""Tables of pictures: parquet files and saved HF data sets. A picture column, a caption column, and metadata."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import portable
from bowerbird.data.captions import caption_column, note_texts, take_captions, with_captions
from bowerbird.data.columns import column_key
from bowerbird.data.item import SourceItem
from bowerbird.data.sources import urls
from bowerbird.data.sources.addresses import are_addresses, refuse_addresses, url_column
from bowerbird.data.sources.base import DamagedError, SourceOptions, WithoutPicturesError
from bowerbird.data.sources.edit_rows import PairColumns, pair_columns, split_pair
from bowerbird.data.sources.labels import label_names, with_labels
from bowerbird.data.sources.layout import FILE_COLUMNS, PARQUET, starts_like_picture

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH, BATCH_BYTES = 128, 32 * 1024**2
"""Rows read at once, and about how many bytes of them."""
ENCODER_KEY = b"bowerbird.encoder"
"""Schema metadata of a table whose `embedding` column is made by the encoder of this fingerprint."""
PICTURE_COLUMNS = (
    "image",
    "images",
    "img",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "picture",
    "photo",
    "image_bytes",
    "img_bytes",
    "bytes",
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")


class Parquet:
    """A parquet file in the hub's layout: an `image` struct {bytes, path} or a path column; other columns become
    metadata."""

    def matches(self, place: str) -> bool:
        return Path(place).suffix.lower() in PARQUET and Path(place).is_file()

    def count(self, place: str) -> int | None:
        import pyarrow.parquet as pq

        try:
            facts = pq.read_metadata(place)
            return int(facts.num_rows) * (1 if pair_columns(facts.schema.to_arrow_schema().names) is None else 2)
        except (OSError, ValueError):
            return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        return read_parquet(Path(place), options)


def read_parquet(source: Path | BytesIO, options: SourceOptions, *, name: str = "") -> Iterator[SourceItem]:
    """The rows of a parquet file, called `name` in reports. Raises: BowerbirdError when it is none, or has no
    pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = source if isinstance(source, Path) else Path(name)
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError) as error:
        pointer = isinstance(source, Path) and _starts(source, b"version https://git-lfs")
        reason = "a pointer of Git LFS; fetch the file with git lfs pull" if pointer else str(error).splitlines()[0]
        raise DamagedError(f"{path}: not a parquet file ({reason})") from error
    yield from read_batches(file.schema_arrow, _batches(file, path), path, options, name=name)


def _batches(file: pq.ParquetFile, path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of an open file. Raises: DamagedError where its bytes are not what was written."""
    import pyarrow as pa

    try:
        yield from file.iter_batches(batch_size=_rows_at_once(file.metadata))
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{path}: this table is damaged ({str(error).splitlines()[0][:100]})") from error


def _rows_at_once(facts: pq.FileMetaData) -> int:
    """So many rows as hold some `BATCH_BYTES`, going by what the file says of its row groups."""
    groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
    row = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    return max(1, min(BATCH, int(BATCH_BYTES / max(1.0, row))))


def read_batches(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path, options: SourceOptions, *, name: str = ""
) -> Iterator[SourceItem]:
    """Rows with an `image` struct {bytes, path}, bytes, base64 or a path; other columns become metadata, class labels
    by their names. `path` names the table, and paths lie beside it; `name` tells it from others of a source.

    Embeddings of a table that says whose they are come along. With `fetch_urls`, pictures may be had from the addresses
    in a column `url`. A row of a table of edits is two items (`edit_rows`). Raises: BowerbirdError where the
    `caption_column` asked for is not in the table.
    """
    pairs = pair_columns(schema.names)
    if pairs is not None:
        yield from _pair_items(schema, batches, path, pairs, options, name or path.name)
        return
    image_column, by_url = _image_column(schema, path, options.fetch_urls)
    fingerprint = (schema.metadata or {}).get(ENCODER_KEY, b"").decode("utf-8", "replace")
    names = [n for n in schema.names if n not in ((image_column, "embedding") if fingerprint else (image_column,))]
    caption = caption_column(names, options.caption_column)
    if options.caption_column is not None and caption is None:
        raise BowerbirdError(
            f"{path}: no column {options.caption_column!r} for captions (`caption_column`); there is {', '.join(names)}"
        )
    options.report.note_columns(names)
    dropped = [name for name in names if _is_bytes(schema.field(name).type)]
    for name in dropped:
        options.report.note("values_left_out", f"{path.name}, column {name} (bytes, and not the picture)")
    labels = label_names(schema)
    row_number = 0
    for batch in _slices(batches):
        vectors = iter(_vectors(batch, path)) if fingerprint and "embedding" in schema.names else None
        hidden = {"embedding", *dropped} if vectors is not None else set(dropped)
        rows = batch.select([n for n in batch.schema.names if n not in hidden]).to_pylist()
        if caption is None and row_number == 0:
            texts = [name for name in names if name not in hidden and _is_text(schema.field(name).type)]
            note_texts(path.name, rows, texts, options.report)
        if row_number == 0 and not by_url and are_addresses([row[image_column] for row in rows]):
            if not options.fetch_urls:
                raise refuse_addresses(path)
            by_url = True  # a column called as those of files are
        fetched = (
            iter(urls.fetch([row[image_column] for row in rows], private=options.private_urls)) if by_url else None
        )
        for row in rows:
            if fetched is not None:
                data, name, problem = next(fetched)
            else:
                cell = row.pop(image_column)
                data, name, problem = picture_bytes(cell, path.parent)
                if isinstance(cell, list) and len(cell) > 1:
                    options.report.note("further_pictures", f"{path.name}[{row_number}]", len(cell) - 1)
            row = with_labels(row, labels)
            text, metadata = with_captions(take_captions(row, caption), row)
            yield SourceItem(
                data,
                portable(name) or f"{path.name}[{row_number}]",
                text,
                metadata,
                next(vectors) if vectors is not None else None,
                fingerprint,
                problem,
            )
            row_number += 1


def _pair_items(
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    path: Path,
    columns: PairColumns,
    options: SourceOptions,
    table: str,
) -> Iterator[SourceItem]:
    """Two items for each row of a table of edits, called `table` among those of its source."""
    pictures = (columns.original, columns.edited)
    kept = [name for name in schema.names if name in pictures or not _is_bytes(schema.field(name).type)]
    options.report.note_columns([name for name in kept if name not in pictures])
    labels = label_names(schema)
    number = 0
    for batch in _slices(batches):
        for row in batch.select(kept).to_pylist():
            place = f"{table}[{number}]"
            for cell, caption, metadata in split_pair(with_labels(row, labels), columns, place):
                data, name, problem = picture_bytes(cell, path.parent)
                yield SourceItem(data, portable(name) or place, caption, metadata, problem=problem)
            number += 1


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


def has_pictures(schema: pa.Schema, *, fetch_urls: bool) -> bool:
    """Whether a table holds pictures as bytes, or addresses that may be asked."""
    pairs = pair_columns(schema.names)
    if pairs is not None:
        return _is_bytes(schema.field(pairs.original).type)
    column, by_url = _picture_column(schema, fetch_urls)
    return column is not None and (by_url or _is_bytes(schema.field(column).type))


def _picture_column(schema: pa.Schema, fetch_urls: bool) -> tuple[str | None, bool]:
    """The column of pictures, however it is written, or if allowed of addresses, which the second says."""
    keys: dict[str, str] = {}
    for name in schema.names:
        keys.setdefault(column_key(name), name)
    files = (name for name in FILE_COLUMNS if name != "image_id")
    for wanted in map(column_key, (*PICTURE_COLUMNS, *files)):
        if wanted in keys:
            return keys[wanted], False
    address = url_column(schema.names) if fetch_urls else None
    return address, address is not None


def _image_column(schema: pa.Schema, path: Path, fetch_urls: bool) -> tuple[str, bool]:
    """`_picture_column`. Raises: BowerbirdError where there is none."""
    column, by_url = _picture_column(schema, fetch_urls)
    if column is not None:
        return column, by_url
    if url_column(schema.names) is not None:
        raise refuse_addresses(path)
    raise WithoutPicturesError(
        f"{path}: no picture column; name it image (struct of bytes and path, bytes, or a path); there is"
        f" {', '.join(schema.names)}"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds files: bytes, a struct with bytes, or lists of such."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_is_bytes(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_bytes(kind.value_type)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def picture_bytes(value: Any, folder: Path) -> tuple[bytes, str, str]:
    """Bytes and name of one cell, and why there are no bytes; a relative path is looked up beside the table and never
    above it."""
    if isinstance(value, list):  # several pictures a row: the first
        value = value[0] if value else None
    if isinstance(value, bytes):
        return value, "", "" if value else "the cell is empty"
    path = value.get("path") if isinstance(value, dict) else value
    data = value.get("bytes") if isinstance(value, dict) else None
    if data:
        return bytes(data), str(path or ""), ""
    if not isinstance(path, str) or not path:
        return b"", "", "the cell is empty"
    if (found := _from_base64(path)) is not None:
        return found, "", "text that is no path, and no picture in base64"
    if path.lower().startswith(("http://", "https://")):
        return b"", path, "an address, and no path of a file"
    return _file_bytes(path, folder)


def _from_base64(text: str) -> bytes | None:
    """The picture in a text; empty for base64 of something else, None for a text that may be a path."""
    inline = text.startswith("data:")
    if inline:
        text = text.partition(",")[2]
    head = text[:200].strip()
    if not inline and not (len(text) > 200 and _BASE64.match(head)):
        return None
    packed = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b"" if inline else None
    return data if inline or starts_like_picture(data) else None


def _file_bytes(path: str, folder: Path) -> tuple[bytes, str, str]:
    """The file at `path` in `folder`, in one of the ways a path is written."""
    spellings = dict.fromkeys(
        form
        for text in (path, path.replace("\\", "/"))
        for form in (text, *(normalize(f, text) for f in ("NFC", "NFD")))
    )
    root = folder.resolve()
    for spelling in spellings:
        try:
            target = (folder / spelling).resolve()
            if target.is_relative_to(root) and target.is_file():
                return target.read_bytes(), path, ""
        except ValueError:  # a NUL in it
            return b"", path, "not a path"
        except OSError as error:
            return b"", path, error.strerror or "cannot be read"
    return b"", path, f"no such file in {folder}, where the table lies"


def _starts(path: Path, with_: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(with_)) == with_
    except OSError:
        return False
