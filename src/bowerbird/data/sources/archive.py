"""Pictures in archives: `.tar` shards, as webdataset and img2dataset write them, and `.zip` files, each read as the
folder it was. Nothing is unpacked, so no member's name can lead anywhere.

In a tar a sample is what stands under one name up to the first dot: a picture, `.txt` its caption, `.json` its
metadata, `.cls` its class. A zip is a folder, where names may have dots.
"""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bowerbird.data.item import SourceItem
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import layout
from bowerbird.data.sources.base import DamagedError, SourceOptions
from bowerbird.data.sources.layout import MOST_BYTES
from bowerbird.data.sources.listing import Table
from bowerbird.data.sources.rows import is_table, read_rows
from bowerbird.data.sources.tree import read_tree, refuse_empty, sort_names
from bowerbird.data.text import guess, spelled

MOST_HEADER = 1024**2
"""A tar may say names and attributes of a member in a member of their own, up to so many bytes."""
MOST_MEMBERS = 10**8
"""More is not believed of a shard."""
TOO_LARGE = f"over {MOST_BYTES // 1024**2} MB, which no picture of the size we take needs"


class Archive:
    """One `.tar` shard of a webdataset, or a `.zip`."""

    def matches(self, place: str) -> bool:
        return layout.is_archive(place) and Path(place).is_file()

    def count(self, place: str) -> int | None:
        return count_of(Path(place))

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        path = Path(place)
        empty = True
        table = _table_of(path)
        tables = [table_at(table, options.report)] if table is not None else []
        for item in read_archive(path, options, tables=tables):
            empty = False
            yield item
        for one in tables:
            one.note_missed(options.report)
        if empty:
            raise refuse_empty(place, "archive", options.report)


def count_of(path: Path) -> int | None:
    """How many pictures a shard has by the `_stats.json` that img2dataset writes beside it; None where there is none
    that says it."""
    try:
        said = json.loads(path.with_name(path.name.partition(".")[0] + "_stats.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    count = said.get("successes") if isinstance(said, dict) else None
    return count if type(count) is int and 0 <= count <= MOST_MEMBERS else None


def _table_of(path: Path) -> Path | None:
    """The rows that img2dataset writes beside a shard."""
    table = path.with_name(path.name.partition(".")[0] + ".parquet")
    return table if table.is_file() and not path.name.lower().endswith(".zip") else None


def table_at(path: Path, report: SourceReport) -> Table:
    """The rows of a table beside an archive."""
    return Table(path.name, read_rows(path, path.name, report))


def read_archive(
    path: Path, options: SourceOptions, *, name: str = "", tables: Sequence[Table] = ()
) -> Iterator[SourceItem]:
    """The pictures of one archive, in its order; `name` stands before theirs in reports, `tables` outside it have rows
    about them. Raises: DamagedError when it is no archive, or is cut short."""
    name = name or path.name
    opened = ZipTree if path.suffix.lower() == ".zip" else TarTree
    with _readable(path), closing(opened(path, name)) as tree:
        files = sort_names(tree, options.report)
        for inner in files.archives:
            options.report.note("files_left_out", f"{name}/{inner} (an archive in an archive)")
        yield from read_tree(tree, options, files, outside=tables)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        zlib.error,
        lzma.LZMAError,
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
    ) as error:
        raise DamagedError(
            f"{path}: this archive cannot be read ({str(error)[:100] or type(error).__name__}); is it whole?"
        ) from error


def picture_spans(path: Path) -> Iterator[tuple[str, int, int]]:
    """Of each picture in a `.tar` its name, where in the file its bytes begin, and how many they are. Raises:
    DamagedError when it is none, is cut short, or is compressed."""
    with _readable(path), closing(TarTree(path, path.name)) as tree:
        if not tree.plain:
            raise ValueError("compressed, so nothing can be looked up in it; unpack it to a .tar")
        for name in tree.names:
            start, size = tree.span(name)
            if layout.is_picture(name) and size <= MOST_BYTES:
                yield name, start, size


class ZipTree:
    """The members of a `.zip` by name. One that cannot be read is reported, and the rest goes in."""

    samples = False

    def __init__(self, path: Path, name: str) -> None:
        self.place, self.label, self._shard = str(path), f"{name}/", name
        self._archive = zipfile.ZipFile(path)
        named = {_member_name(_zip_name(m)): m for m in self._archive.infolist() if not m.is_dir()}
        self._members = {name: m for name, m in named.items() if name and not name.endswith("/")}
        self.names = sorted(self._members)

    def read(self, name: str, most: int | None = None) -> bytes:
        limit = most or MOST_BYTES
        member = self._members[name]
        if member.flag_bits & 1:
            raise OSError("encrypted; give an archive without a password")
        try:
            with self._archive.open(member) as file:
                data = file.read(limit + 1)  # what a member says of its size may be a lie
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
            raise OSError(f"damaged in the archive ({str(error)[:80] or type(error).__name__})") from error
        if len(data) > limit:
            raise OSError(TOO_LARGE if most is None else f"over {limit:,} bytes")
        return data

    def path(self, name: str) -> Path | None:
        return None

    def facts(self, name: str) -> dict[str, Any]:
        return {"file_name": name, "shard": self._shard}

    def close(self) -> None:
        self._archive.close()


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


class TarTree:
    """The members of a `.tar` by name, in its order. A plain one is read where a member lies; of a compressed one the
    texts are kept when it is listed, and the pictures are met in a second pass, as nobody can go back in it."""

    samples = True

    def __init__(self, path: Path, name: str) -> None:
        self.place, self.label, self._shard, self._path = str(path), f"{name}/", name, path
        self.plain = _is_plain(path)
        self._number: dict[str, int] = {}  # lean: a shard may have millions of members
        self._starts, self._sizes = array("q"), array("q")
        self._kept: dict[str, bytes] = {}
        with tarfile.open(path, "r:" if self.plain else "r|*", tarinfo=_TarMember) as archive:
            for member in archive:
                if member.isfile() and not member.issparse() and (inner := _member_name(member.name)):
                    self._number[inner] = len(self._starts)
                    self._starts.append(member.offset_data)
                    self._sizes.append(member.size)
                    if not self.plain and _is_text(inner) and member.size <= MOST_BYTES:
                        file = archive.extractfile(member)
                        self._kept[inner] = file.read() if file is not None else b""
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every one
        self.names = list(self._number)
        self._file = path.open("rb") if self.plain else None
        self._pass = self._stream()

    def read(self, name: str, most: int | None = None) -> bytes:
        start, size = self.span(name)
        if size > (most or MOST_BYTES):
            raise OSError(TOO_LARGE if most is None else f"over {most:,} bytes")
        if self._file is not None:
            self._file.seek(start)
            data = self._file.read(size)
            if len(data) < size:
                raise tarfile.ReadError("unexpected end of data")
            return data
        if name in self._kept:
            return self._kept[name]
        for found, data in self._pass:
            if found == name:
                return data
        self._pass = self._stream()  # asked out of order
        return next((data for found, data in self._pass if found == name), b"")

    def span(self, name: str) -> tuple[int, int]:
        """Where a member's bytes begin, and how many they are."""
        number = self._number[name]
        return self._starts[number], self._sizes[number]

    def _stream(self) -> Generator[tuple[str, bytes], None, None]:
        """The members of a compressed archive from its start, those alone that are small enough."""
        with tarfile.open(self._path, "r|*", tarinfo=_TarMember) as archive:
            for member in archive:
                if member.isfile() and not member.issparse() and member.size <= MOST_BYTES:
                    file = archive.extractfile(member)
                    yield _member_name(member.name), file.read() if file is not None else b""
                archive.members.clear()  # type: ignore[attr-defined]

    def path(self, name: str) -> Path | None:
        return None

    def facts(self, name: str) -> dict[str, Any]:
        return {"shard": self._shard, "key": layout.sample_key(name)}

    def close(self) -> None:
        self._pass.close()
        if self._file is not None:
            self._file.close()


def _is_plain(path: Path) -> bool:
    """Whether a tar is not compressed."""
    with path.open("rb") as file:
        return not file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"))


def _is_text(name: str) -> bool:
    """Whether a member may be a caption, metadata or a table."""
    return layout.suffix_of(name) in layout.SIDECARS or is_table(name)


def _member_name(name: str) -> str:
    """A member's name as a path below the archive: Windows' separators and `./` are undone, and what leads upwards
    stays a name."""
    made = spelled(name).replace("\\", "/")
    while made.startswith("./"):
        made = made[2:]
    return made.lstrip("/")


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name; one that is not marked as UTF-8 is in the encoding of whoever made the archive."""
    if member.flag_bits & 0x800 or member.orig_filename.isascii():
        return member.orig_filename
    try:
        raw = member.orig_filename.encode("cp437")
    except UnicodeEncodeError:
        return member.orig_filename
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        encoding = guess(raw)
        return raw.decode("cp437" if encoding == "cp1252" else encoding, "replace")
