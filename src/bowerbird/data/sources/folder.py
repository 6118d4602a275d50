"""Where pictures come from: every SOURCE a command accepts, read as one stream of `SourceItem`s.

A source knows files and columns; it does not decode pictures (`images.decode` does, so that one bad file is one report)
and knows nothing of encoders or databases. Auto-detection is by what lies at the path, never by guessing at content.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import SUFFIXES
from bowerbird.data.item import SourceItem
from bowerbird.data.sources import archive, embeddings, huggingface, table


def count(source: str | Path) -> int | None:
    """How many items `source` has, where that is known without reading them, else None."""
    path = Path(source)
    if path.is_file() and path.suffix.lower() in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(path).num_rows)
        except (OSError, ValueError):
            return None
    if path.is_dir():
        return sum(1 for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) or None
    return None


KINDS = (
    "a folder of pictures, a picture, a .parquet file, .tar or .zip archives, a clip-retrieval folder, a saved HF data"
    " set, hf:NAME, or emoji-font"
)


def read(source: str | Path, *, caption_column: str | None = None, fetch_urls: bool = False) -> Iterator[SourceItem]:
    """All items of `source`, by what lies there: see `KINDS`; `drawn` are pictures that code draws. `fetch_urls` allows
    addresses to be asked.

    Raises: BowerbirdError when there is nothing at `source`, or nothing in it that could be a picture.
    """
    path = Path(source)
    if str(source) == "emoji-font":
        from bowerbird.data.emoji_font import read_emoji_font

        yield from read_emoji_font()
    elif str(source) == "drawn":
        from bowerbird.data.drawn import read_drawn

        yield from read_drawn()
    elif str(source).startswith("hf:"):
        yield from huggingface.read_hub(str(source)[3:], caption_column)
    elif path.is_dir():
        yield from _read_directory(path, caption_column, fetch_urls)
    elif path.suffix.lower() in (".parquet", ".pq") and path.is_file():
        yield from _read_parquet(path, caption_column, fetch_urls)
    elif path.is_file() and archive.is_archive(path):
        yield from archive.read_archive(path, caption_column)
    elif path.is_file() and path.suffix.lower() == ".npz":
        yield from embeddings.read_compvis([path])
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        yield SourceItem(path.read_bytes(), path.name, _sidecar(path), {"file_name": path.name})
    elif path.exists():
        raise BowerbirdError(f"{path}: not a source; give {KINDS}")
    else:
        raise BowerbirdError(f"{path}: no such file or folder; give {KINDS}")


def _read_directory(path: Path, caption_column: str | None, fetch_urls: bool) -> Iterator[SourceItem]:
    """A folder, by what is in it."""
    if (path / "embed.json").is_file() and not files.read_json(path / "embed.json", "list of parts").get("done"):
        raise BowerbirdError(f"{path}: its embedding did not end; the same bowerbird kb embed ends it")
    if embeddings.is_clip_retrieval(path):
        yield from embeddings.read_clip_retrieval(path, caption_column)
    elif huggingface.is_saved(path):
        yield from huggingface.read_saved(path, caption_column)
    elif parts := list(path.glob("*-part_*.npz")):
        yield from embeddings.read_compvis(parts)
    else:
        shards = sorted(p for p in path.iterdir() if p.is_file() and archive.is_archive(p))
        if not shards or any(p.suffix.lower() in (*SUFFIXES, ".parquet") for p in path.rglob("*")):
            yield from _read_folder(path, caption_column, fetch_urls)
        for shard in shards:
            yield from archive.read_archive(shard, caption_column)


def _read_folder(folder: Path, caption_column: str | None, fetch_urls: bool) -> Iterator[SourceItem]:
    """Pictures below `folder` in name order, captions from `metadata.jsonl`/`.csv`, a same-name `.txt`, or the class
    sub-folder."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        shards = sorted(folder.rglob("*.parquet"))
        if not shards:
            raise BowerbirdError(
                f"{folder}: no pictures in this folder; it should hold {', '.join(sorted(SUFFIXES))} or .parquet files"
            )
        for shard in shards:
            yield from _read_parquet(shard, caption_column, fetch_urls)
        return
    described = _folder_metadata(folder)
    for path in paths:
        relative = path.relative_to(folder).as_posix()
        metadata: dict[str, Any] = {"file_name": relative}
        if path.parent != folder:
            metadata["class"] = path.relative_to(folder).parts[0]
        row = described.get(relative, {})
        metadata.update(
            {k: v for k, v in row.items() if k not in ("file_name", "text", caption_column) and v is not None}
        )
        caption = row.get(caption_column or "text")
        if caption is None:  # one that is there and empty stays so
            caption = _sidecar(path) or str(metadata.get("class", "")).replace("_", " ")
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
                raise BowerbirdError(
                    f"{lines}:{number}: not JSON ({error}); each line is one object with file_name and text"
                ) from error
            if isinstance(row, dict):
                rows.append(row)
    elif sheet.is_file():
        with sheet.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        return {}
    if any("file_name" not in row for row in rows):
        raise BowerbirdError(
            f"{lines if lines.is_file() else sheet}: a row without file_name; every row names its picture"
        )
    return {str(row["file_name"]): row for row in rows}


def _read_parquet(path: Path, caption_column: str | None, fetch_urls: bool) -> Iterator[SourceItem]:
    """Rows of a parquet file with an `image` struct {bytes, path} or a path column; other columns become metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BowerbirdError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from error
    yield from table.read_batches(
        file.schema_arrow, file.iter_batches(batch_size=256), path, caption_column, fetch_urls
    )
