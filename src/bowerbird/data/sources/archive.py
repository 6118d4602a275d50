"""Pictures in archives: webdataset `.tar` shards and `.zip` files, read as streams. Nothing is unpacked, so no
member's name can lead anywhere.

A sample of a webdataset is what stands together under one name up to the first dot: a picture, `.txt` its caption,
`.json` its metadata.
"""

from __future__ import annotations

import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import SUFFIXES
from bowerbird.data.item import CAPTION_COLUMNS, SourceItem
from bowerbird.data.sources.base import SourceOptions

MOST_BYTES = 64 * 1024**2
"""A larger member is reported and not read: no picture of the size we take needs it."""
TAR, ZIP = (".tar", ".tar.gz", ".tgz"), (".zip",)


class Archive:
    """One `.tar` shard of a webdataset, or a `.zip`."""

    def matches(self, place: str) -> bool:
        return is_archive(Path(place)) and Path(place).is_file()

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        return read_archive(Path(place), options.caption_column)


def is_archive(path: Path) -> bool:
    """Whether the name says so."""
    return path.name.lower().endswith((*TAR, *ZIP))


def read_archive(path: Path, caption_column: str | None = None) -> Iterator[SourceItem]:
    """The pictures of one archive, in its order. Raises: BowerbirdError when it is no archive, or is cut short."""
    members = _zip(path) if path.suffix.lower() in ZIP else _tar(path)
    key = ""
    sample: dict[str, bytes] = {}
    for name, data in members:
        place = PurePosixPath(name)
        stem, _, suffix = place.name.partition(".")
        here = str(place.parent / stem)
        if here != key and sample:
            yield from _items(path, key, sample, caption_column)
            sample = {}
        key, sample[suffix.lower()] = here, data
    if sample:
        yield from _items(path, key, sample, caption_column)


def _items(path: Path, key: str, sample: dict[str, bytes], caption_column: str | None) -> Iterator[SourceItem]:
    """The item of one sample; none when it holds no picture."""
    pictures = [suffix for suffix in sample if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
    if not pictures:
        return
    metadata: dict[str, Any] = {}
    if "json" in sample:
        try:
            found = json.loads(sample["json"])
            metadata = {str(k): v for k, v in found.items() if v is not None} if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            pass  # a picture is not less for what is written beside it
    text = sample["txt"].decode("utf-8", "replace").strip() if "txt" in sample else ""
    named = [caption_column] if caption_column else [c for c in CAPTION_COLUMNS if not text and c in metadata]
    if named:
        text = str(metadata.pop(named[0], ""))
    kept = {("source_id" if k == "id" else k): v for k, v in metadata.items()}
    for suffix in pictures:
        yield SourceItem(sample[suffix], f"{path.name}/{key}.{suffix}", text, {"shard": path.name, "key": key, **kept})


def _tar(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and not member.issparse():
                    file = archive.extractfile(member) if member.size <= MOST_BYTES else None
                    yield member.name, file.read() if file is not None else b""
    except (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise BowerbirdError(
            f"{path}: this archive cannot be read ({str(error)[:100] or type(error).__name__}); is it whole?"
        ) from error


def _zip(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.infolist(), key=lambda m: m.filename):
                if not member.is_dir():
                    with archive.open(member) as file:
                        data = file.read(MOST_BYTES + 1)  # what a member says of its size may be a lie
                    yield member.filename, data if len(data) <= MOST_BYTES else b""
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise BowerbirdError(
            f"{path}: this archive cannot be read ({str(error)[:100] or type(error).__name__}); is it whole?"
        ) from error
