"""Where pictures come from: every SOURCE a command accepts, read as one stream of `SourceItem`s.

A source knows files and columns; it does not decode pictures (`images.decode` does, so that one bad file is one report)
and knows nothing of encoders or databases. Auto-detection is by what lies at the path, never by guessing at content.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError
from bowerbird.images import SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa

CAPTION_COLUMNS = ("caption", "text", "name", "title", "label")
"""Columns taken for the caption when none is named, first match wins."""


@dataclass(frozen=True)
class SourceItem:
    """One picture before anybody looked at it: its bytes, a name for reports, a caption, and flat metadata."""

    data: bytes
    name: str
    caption: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def content_id(item: SourceItem) -> int:
    """63-bit hash of an item's bytes and caption: the same picture with the same caption has the same id everywhere."""
    digest = hashlib.sha256(len(item.data).to_bytes(8, "big") + item.data + item.caption.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def read(source: str | Path, *, caption_column: str | None = None) -> Iterator[SourceItem]:
    """All items of `source`: a picture, a folder of pictures, a parquet file, or one of the words `emoji-font` and `drawn`.

    Raises: BowerbirdError when there is nothing at `source`, or nothing in it that could be a picture.
    """
    if str(source) == "emoji-font":
        from bowerbird.knowledge.emoji_font import read_emoji_font

        yield from read_emoji_font()
        return
    if str(source) == "drawn":
        from bowerbird.knowledge.drawn import read_drawn

        yield from read_drawn()
        return
    path = Path(source)
    if path.is_dir():
        yield from _read_folder(path, caption_column)
    elif path.suffix.lower() in (".parquet", ".pq") and path.is_file():
        yield from _read_parquet(path, caption_column)
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        yield SourceItem(path.read_bytes(), path.name, _sidecar(path), {"file_name": path.name})
    elif path.exists():
        raise BowerbirdError(f"{path}: not a source; give a folder of pictures, a picture, a .parquet file, or emoji-font")
    else:
        raise BowerbirdError(f"{path}: no such file or folder; give a folder of pictures, a .parquet file, or emoji-font")


def _read_folder(folder: Path, caption_column: str | None) -> Iterator[SourceItem]:
    """Pictures below `folder` in name order, captions from `metadata.jsonl`/`.csv`, a same-name `.txt`, or the class sub-folder."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        shards = sorted(folder.rglob("*.parquet"))
        if not shards:
            raise BowerbirdError(f"{folder}: no pictures in this folder; it should hold {', '.join(sorted(SUFFIXES))} or .parquet files")
        for shard in shards:
            yield from _read_parquet(shard, caption_column)
        return
    table = _folder_metadata(folder)
    for path in files:
        relative = path.relative_to(folder).as_posix()
        metadata: dict[str, Any] = {"file_name": relative}
        if path.parent != folder:
            metadata["class"] = path.relative_to(folder).parts[0]
        row = table.get(relative, {})
        metadata.update({k: v for k, v in row.items() if k not in ("file_name", "text", caption_column) and v is not None})
        caption = row.get(caption_column or "text") or _sidecar(path) or str(metadata.get("class", "")).replace("_", " ")
        try:
            data = path.read_bytes()
        except OSError:
            data = b""  # reported by name when it fails to decode, like any other unreadable picture
        yield SourceItem(data, relative, str(caption), metadata)


def _sidecar(path: Path) -> str:
    """The caption in the `.txt` of the same name, or an empty one."""
    text = path.with_suffix(".txt")
    return text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""


def _folder_metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """`metadata.jsonl` or `metadata.csv` of an image folder, keyed by `file_name`."""
    lines, sheet = folder / "metadata.jsonl", folder / "metadata.csv"
    rows: list[dict[str, Any]] = []
    if lines.is_file():
        for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BowerbirdError(f"{lines}:{number}: not JSON ({error}); each line is one object with file_name and text") from error
            if isinstance(row, dict):
                rows.append(row)
    elif sheet.is_file():
        with sheet.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        return {}
    if any("file_name" not in row for row in rows):
        raise BowerbirdError(f"{lines if lines.is_file() else sheet}: a row without file_name; every row names its picture")
    return {str(row["file_name"]): row for row in rows}


def _read_parquet(path: Path, caption_column: str | None) -> Iterator[SourceItem]:
    """Rows of a parquet file with an `image` struct {bytes, path} or a path column; other columns become metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BowerbirdError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from error
    image_column = _image_column(file.schema_arrow, path)
    names = [n for n in file.schema_arrow.names if n != image_column]
    if caption_column is not None and caption_column not in names:
        raise BowerbirdError(f"{path}: no column {caption_column!r} for captions; there is {', '.join(names)}")
    caption = caption_column or next((c for c in CAPTION_COLUMNS if c in names), None)
    row_number = 0
    for batch in file.iter_batches(batch_size=256):
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
