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
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import SUFFIXES
from bowerbird.data.item import CAPTION_COLUMNS, SourceItem
from bowerbird.data.sources.base import SourceOptions

MOST_BYTES = 64 * 1024**2
"""A larger member, and all that stands under one name where it is more, is reported and not read: no picture of the
size we take needs it."""
MOST_HEADER = 1024**2
"""A tar may say names and attributes of a member in a member of their own, up to so many bytes."""
_TOO_LARGE = f"over {MOST_BYTES // 1024**2} MB, which no picture of the size we take needs"
Member = tuple[str, bytes, str]
"""Name, bytes, and why there are none."""
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
    for key, sample in _samples(members):
        yield from _items(path, key, sample, caption_column)


@dataclass
class _Sample:
    """What stands together under one name: bytes by suffix, and what is wrong with a suffix, or with all."""

    data: dict[str, bytes] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    held: int = 0

    def add(self, suffix: str, data: bytes, problem: str) -> None:
        self.held += len(data) + len(suffix) + 128
        if self.held > MOST_BYTES + 1024:
            self.data.clear()
            self.problems = {"": f"over {MOST_BYTES // 1024**2} MB under one name"}
            return
        self.data[suffix] = data
        if problem:
            self.problems[suffix] = problem


def _samples(members: Iterator[Member]) -> Iterator[tuple[str, _Sample]]:
    """Members that follow one another under one name up to the first dot."""
    here: tuple[str, _Sample] | None = None
    for name, data, problem in members:
        place = PurePosixPath(name)
        stem, _, suffix = place.name.partition(".")
        key = str(place.parent / stem)
        if here is None or here[0] != key:
            if here is not None:
                yield here
            here = (key, _Sample())
        here[1].add(suffix.lower(), data, problem)
    if here is not None:
        yield here


def _items(path: Path, key: str, found: _Sample, caption_column: str | None) -> Iterator[SourceItem]:
    """The items of one sample; none when it holds no picture."""
    if "" in found.problems:
        yield SourceItem(b"", f"{path.name}/{key}", problem=found.problems[""])
        return
    sample = found.data
    pictures = [suffix for suffix in sample if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
    if not pictures:
        return
    metadata: dict[str, Any] = {}
    if "json" in sample:
        try:
            facts = json.loads(sample["json"])
            metadata = {str(k): v for k, v in facts.items() if v is not None} if isinstance(facts, dict) else {}
        except (ValueError, RecursionError):
            pass  # a picture is not less for what is written beside it
    text = sample["txt"].decode("utf-8", "replace").strip() if "txt" in sample else ""
    named = [caption_column] if caption_column else [c for c in CAPTION_COLUMNS if not text and c in metadata]
    if named:
        text = str(metadata.pop(named[0], ""))
    kept = {("source_id" if k == "id" else k): v for k, v in metadata.items()}
    for suffix in pictures:
        yield SourceItem(
            sample[suffix],
            f"{path.name}/{key}.{suffix}",
            text,
            {"shard": path.name, "key": key, **kept},
            problem=found.problems.get(suffix, ""),
        )


class _TarMember(tarfile.TarInfo):
    """A member that is not believed when it says a gigabyte of attributes."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # tarfile reads these whole, whatever their size
        heads = (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if self.type in heads and self.size > MOST_HEADER:
            raise tarfile.ReadError(f"a member has {self.size:,} bytes of name and attributes")
        return super()._proc_member(archive)  # type: ignore[misc]


def _tar(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r|*", tarinfo=_TarMember) as archive:
            for member in archive:
                if member.isfile() and not member.issparse():
                    file = archive.extractfile(member) if member.size <= MOST_BYTES else None
                    yield member.name, b"" if file is None else file.read(), _TOO_LARGE if file is None else ""
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every one
    except (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise BowerbirdError(
            f"{path}: this archive cannot be read ({str(error)[:100] or type(error).__name__}); is it whole?"
        ) from error


def _zip(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.infolist(), key=lambda m: m.filename):
                if not member.is_dir():
                    with archive.open(member) as file:
                        data = file.read(MOST_BYTES + 1)  # what a member says of its size may be a lie
                    large = len(data) > MOST_BYTES
                    yield member.filename, b"" if large else data, _TOO_LARGE if large else ""
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
