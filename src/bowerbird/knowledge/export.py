"""A knowledge base as files that others read: an image folder with `metadata.jsonl`, or parquet in the hub's layout.

What is exported can be built into a knowledge base again: the items have the same ids, as those say picture and
caption, the same names, and are found in the same order. Items without a picture have no place in an image folder and
are left out of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import SUFFIXES
from bowerbird.core.progress import Progress
from bowerbird.core.text import to_json
from bowerbird.data.item import OWN_COLUMNS, PACKED_COLUMNS
from bowerbird.data.sources import layout
from bowerbird.data.sources.table import ENCODER_KEY
from bowerbird.knowledge.storage.batches import read_in_batches

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

NOT_EXPORTED = ("image", "check", "added", "id", "name", "content_hash", *PACKED_COLUMNS)
BATCH = 256
FILE = "file"
MOST_NAME, MOST_PATH = 180, 900
"""Bytes of a part of a path, and of a path: file systems take 255 and some 1,000 (macOS), and an id may be added."""
_NO_NAME = re.compile(r'[\x00-\x1f\x7f<>:"\\|?*]')
_SIGNATURES = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\x00": "tif",
    b"MM\x00*": "tif",
}


def suffix_of(data: bytes) -> str:
    """The usual file suffix of a picture by its first bytes, without the dot."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((suffix for signature, suffix in _SIGNATURES.items() if data.startswith(signature)), "png")


def export(
    kb: KnowledgeBase,
    out: str | Path,
    *,
    form: str = "imagefolder",
    where: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the items, or those that satisfy `where`, as the folder `out`, whole or not at all; returns how many.

    `form`: `imagefolder` or `parquet`. Raises: BowerbirdError when `out` is taken, or nothing is there to write.
    """
    if form not in ("imagefolder", "parquet"):
        raise BowerbirdError(f"`form` {form!r} is not known; choose imagefolder or parquet")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BowerbirdError(f"{out}: this path is taken; give a new one")
    ids = kb.ids(where).tolist()
    if not ids:
        raise BowerbirdError(
            f"{kb.path}: no item satisfies {where!r}, so nothing was exported" if where else f"{kb.path}: holds nothing"
        )
    with files.atomic_directory(out) as folder:
        if form == "imagefolder":
            return _imagefolder(folder, _batches(kb, ids, progress))
        return _parquet(folder, _batches(kb, ids, progress), kb.encoder_fingerprint)


def _batches(kb: KnowledgeBase, ids: list[int], progress: Progress | None) -> Iterator[pa.Table]:
    done = 0
    for table in read_in_batches(ids, kb.store.whole, lambda found: int(found["image"].nbytes), BATCH):
        yield table
        done += len(table)
        if progress is not None:
            progress(done, len(ids))


def _imagefolder(folder: Path, batches: Iterator[pa.Table]) -> int:
    count, taken = 0, dict[str, str]()
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for table in batches:
            for row in table.drop_columns(["embedding", "check", "added"]).to_pylist():
                if not row["image"]:
                    continue
                name = _file_name(row, taken)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(row["image"])
                # the caption first, and under no name that another column has for whoever reads this
                metadata = {
                    f"{key}_" if key.casefold() in ("text", "caption") else key: value
                    for key, value in row.items()
                    if key not in (*OWN_COLUMNS, "file_name") and value is not None
                }
                lines.write(to_json({"file_name": name, "text": row["caption"], **metadata}) + "\n")
                count += 1
    return count


def _file_name(row: dict[str, Any], taken: dict[str, str]) -> str:
    """Where an item's picture goes: where its name says, if that was a file of a folder, else a file of that name; with
    its id where the name cannot be one, or is `taken` (what there is, by names as they are compared; this adds to
    it)."""
    name = str(row["name"] or "")
    parts = [_plain_part(part) for part in PurePosixPath(name).parts if part not in ("/", "..")]
    if row.get("file_name") != name:  # its folders would be taken for classes
        parts = ["_".join(parts)] if parts else []
    if not parts:
        parts = [f"{row['id']:019d}"]
    stem, dot, suffix = parts[-1].rpartition(".")
    if not dot or not stem or f".{suffix.lower()}" not in SUFFIXES:
        stem, suffix = parts[-1], suffix_of(row["image"])
    stem = stem.encode()[:MOST_NAME].decode(errors="ignore")
    made = PurePosixPath(*parts[:-1], f"{stem}.{suffix}")
    above = [_compared(str(folder)) for folder in made.parents][:-1]
    # a folder cannot have the name of a file, and what looks like a mask beside its picture is passed over
    clash = _compared(str(made)) in taken or any(taken.get(folder) == FILE for folder in above)
    if clash or layout.is_mask(str(made)) or len(str(made).encode()) > MOST_PATH:
        made, above = PurePosixPath(f"{stem}-{row['id']}.{suffix}"), []
    taken |= {_compared(str(made)): FILE} | dict.fromkeys(above, "folder")
    return str(made)


def _compared(name: str) -> str:
    """A name as a file system may compare it."""
    return unicodedata.normalize("NFC", name).casefold()


def _plain_part(part: str) -> str:
    """One part of a name as every file system takes it, hidden from no reader."""
    made = _NO_NAME.sub("_", part).rstrip(". ").encode()[:MOST_NAME].decode(errors="ignore")
    return f"_{made}" if not made or layout.is_system(made) else made


def _parquet(folder: Path, batches: Iterator[pa.Table], fingerprint: str) -> int:
    writer: pq.ParquetWriter | None = None
    count = 0
    try:
        for table in batches:
            pictures = [
                {"bytes": data, "path": name}
                for data, name in zip(table["image"].to_pylist(), table["name"].to_pylist(), strict=True)
            ]
            kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
            made = (
                table.drop_columns([name for name in NOT_EXPORTED if name in table.schema.names])
                .append_column("image", pa.array(pictures, kind))
                .replace_schema_metadata({ENCODER_KEY: fingerprint})
            )
            writer = writer or pq.ParquetWriter(folder / "data-00000.parquet", made.schema)
            writer.write_table(made)
            count += len(made)
    finally:
        if writer is not None:
            writer.close()
    return count
