"""A folder of pictures, with their captions and metadata beside them, and a single picture."""

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
from bowerbird.data.sources import archive, table
from bowerbird.data.sources.base import SourceOptions
from bowerbird.data.sources.picture_file import read_picture_file


class Picture:
    """One picture file."""

    def matches(self, place: str) -> bool:
        return Path(place).suffix.lower() in SUFFIXES and Path(place).is_file()

    def count(self, place: str) -> int | None:
        return 1

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        path = Path(place)
        data, problem = read_picture_file(path)
        yield SourceItem(data, path.name, _sidecar(path), {"file_name": path.name}, problem=problem)


class Folder:
    """A folder of pictures, of parquet files where there are no pictures, and of archives."""

    def matches(self, place: str) -> bool:
        return Path(place).is_dir()

    def count(self, place: str) -> int | None:
        return sum(1 for p in Path(place).rglob("*") if p.suffix.lower() in SUFFIXES) or None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        path = Path(place)
        if (path / "embed.json").is_file() and not files.read_json(path / "embed.json", "list of parts").get("done"):
            raise BowerbirdError(f"{path}: its embedding did not end; the same bowerbird kb embed ends it")
        shards = sorted(p for p in path.iterdir() if p.is_file() and archive.is_archive(p))
        if not shards or any(p.suffix.lower() in (*SUFFIXES, ".parquet") for p in path.rglob("*")):
            yield from _read_folder(path, options)
        for shard in shards:
            yield from archive.read_archive(shard, options.caption_column)


def _read_folder(folder: Path, options: SourceOptions) -> Iterator[SourceItem]:
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
            yield from table.read_parquet(shard, options)
        return
    rows = _folder_metadata(folder)
    for path in paths:
        relative = path.relative_to(folder).as_posix()
        metadata: dict[str, Any] = {"file_name": relative}
        if path.parent != folder:
            metadata["class"] = path.relative_to(folder).parts[0]
        row = rows.get(relative, {})
        metadata.update(
            {k: v for k, v in row.items() if k not in ("file_name", "text", options.caption_column) and v is not None}
        )
        caption = row.get(options.caption_column or "text")
        if caption is None:  # one that is there and empty stays so
            caption = _sidecar(path) or str(metadata.get("class", "")).replace("_", " ")
        data, problem = read_picture_file(path)
        yield SourceItem(data, relative, str(caption), metadata, problem=problem)


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
