"""Tables of pictures: parquet files and saved HF data sets. A picture column, a caption column, and metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError
from bowerbird.knowledge.items import CAPTION_COLUMNS, SourceItem

if TYPE_CHECKING:
    import pyarrow as pa


def read_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path, caption_column: str | None) -> Iterator[SourceItem]:
    """Rows with an `image` struct {bytes, path} or a path column; other columns become metadata. `path` names the table, and paths lie beside it."""
    image_column = _image_column(schema, path)
    names = [n for n in schema.names if n != image_column]
    if caption_column is not None and caption_column not in names:
        raise BowerbirdError(f"{path}: no column {caption_column!r} for captions; there is {', '.join(names)}")
    caption = caption_column or next((c for c in CAPTION_COLUMNS if c in names), None)
    row_number = 0
    for batch in batches:
        for row in batch.to_pylist():
            data, name = _picture_bytes(row.pop(image_column), path.parent)
            text = row.pop(caption, None) if caption else None
            metadata = {("source_id" if k == "id" else k): v for k, v in row.items() if v is not None}
            yield SourceItem(data, name or f"{path.name}[{row_number}]", "" if text is None else str(text), metadata)
            row_number += 1


def _image_column(schema: pa.Schema, path: Path) -> str:
    """The column that holds the pictures: a struct or binary one called `image` or `img`, else a column of paths."""
    for name in ("image", "img", "jpg", "png", "webp", "image_path", "file_name", "path"):
        if name in schema.names:
            return name
    raise BowerbirdError(f"{path}: no picture column; name it image (struct of bytes and path, bytes, or a path); there is {', '.join(schema.names)}")


def _picture_bytes(value: Any, folder: Path) -> tuple[bytes, str]:
    """Bytes and name of one cell; a relative path is looked up beside the parquet file and never above it."""
    if isinstance(value, bytes):
        return value, ""
    path = value.get("path") if isinstance(value, dict) else value
    data = value.get("bytes") if isinstance(value, dict) else None
    if data:
        return bytes(data), str(path or "")
    if not isinstance(path, str):
        return b"", ""
    target = (folder / path).resolve()
    if target.is_relative_to(folder.resolve()) and target.is_file():
        return target.read_bytes(), path
    return b"", path
