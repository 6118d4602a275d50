"""A folder of pictures, with their captions and metadata beside them, and a single picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import SourceItem
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import archive, layout
from bowerbird.data.sources.addresses import address_column, read_addresses
from bowerbird.data.sources.base import SourceOptions
from bowerbird.data.sources.listing import Table
from bowerbird.data.sources.picture_file import MOST_FILE_BYTES, read_picture_file
from bowerbird.data.sources.rows import read_rows
from bowerbird.data.sources.tree import Sorted, read_parts, read_tree, refuse_empty, sort_names
from bowerbird.data.text import spelled


class Picture:
    """One picture file, with the files of its name beside it."""

    def matches(self, place: str) -> bool:
        path = Path(place)
        return path.is_file() and (layout.is_picture(place) or (not path.suffix and _starts_like_picture(path)))

    def count(self, place: str) -> int | None:
        return 1

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        path = Path(place)
        beside = [path.name, *(f"{b}{s}" for b in (path.stem, path.name) for s in layout.SIDECARS)]
        tree = FolderTree(path.parent, [name for name in dict.fromkeys(beside) if (path.parent / name).is_file()])
        yield from read_tree(tree, options, Sorted(pictures=[path.name], sidecars=list(tree.names[1:])))


class Folder:
    """A folder of pictures, tables of them and archives, in folders as deep as they go."""

    def matches(self, place: str) -> bool:
        return Path(place).is_dir()

    def count(self, place: str) -> int | None:
        path = Path(place)
        names = [name for name in walk(path, SourceReport()) if not layout.is_system(name)]
        shards = [archive.count_of(path / name) for name in names if layout.is_archive(name)]
        if None in shards:
            return None
        return sum(map(layout.is_picture, names)) + sum(count or 0 for count in shards) or None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        path, report = Path(place), options.report
        if (path / "embed.json").is_file() and not files.read_json(path / "embed.json", "list of parts").get("done"):
            raise BowerbirdError(
                f"{path}: its embedding was interrupted; run the same bowerbird kb embed again to finish it"
            )
        tree = FolderTree(path, walk(path, report))
        found = sort_names(tree, report)
        parquet = [name for name in found.tables if layout.suffix_of(name) in layout.PARQUET]
        if not (found.pictures or found.archives or parquet):
            of_addresses = [n for n in found.tables if address_column(read_rows(path / n, n, SourceReport()))]
            for name in of_addresses:
                yield from read_addresses(path / name, options)
            if of_addresses:
                return
            for name in found.tables:
                report.note("files_left_out", f"{name} (a table, and its pictures are not here)")
            raise refuse_empty(place, "folder", report)
        shard_rows = {layout.stem_of_archive(name): name for name in parquet}
        beside = {name: rows for name in found.archives if (rows := shard_rows.get(layout.stem_of_archive(name)))}
        found.tables = [name for name in found.tables if name not in beside.values()]
        tables: list[Table] = []
        came = False
        for item in read_tree(tree, options, found, collect=tables):
            came = True
            yield item
        parts = ((name, _archive(path, name, beside.get(name), tables, options)) for name in found.archives)
        yield from read_parts(parts, report, came=came)
        for one in tables:
            one.note_missed(report)


def _archive(
    root: Path, name: str, rows: str | None, tables: list[Table], options: SourceOptions
) -> Iterator[SourceItem]:
    """The pictures of one archive in a folder, with what tables outside it say of them: those of its folder and above,
    and the one of its own name."""
    about = [one for one in tables if not one.folder or name.startswith(f"{one.folder}/")]
    own = [archive.table_at(root / rows, options.report)] if rows is not None else []
    yield from archive.read_archive(root / name, options, name=name, tables=[*about, *own])
    for one in own:
        one.note_missed(options.report)


class FolderTree:
    """The files of a folder, `names` below `root`."""

    label, samples = "", False

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names, self.place = root, names, str(root)

    def read(self, name: str, most: int | None = None) -> bytes:
        data, problem = read_picture_file(self.root / name, most=most or MOST_FILE_BYTES)
        if problem:
            raise OSError(problem)
        return data

    def path(self, name: str) -> Path | None:
        return self.root / name

    def facts(self, name: str) -> dict[str, Any]:
        return {"file_name": spelled(name)}


def walk(root: Path, report: SourceReport) -> list[str]:
    """The files below `root` in the order of their names, but for those of hidden and system folders. Links to folders
    are followed, but no folder is read twice: a real one comes before a link to it, and none leads out above `root`."""
    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    above = {_identity(str(folder)) for folder in root.resolve().parents}
    folders, links = [""], list[str]()
    while folders or links:
        where = folders.pop() if folders else links.pop(0)
        place = os.path.join(root, where)
        identity = _identity(place)
        if identity is None or identity in seen or identity in above:
            report.note("links_left_out", where)
            continue
        seen.add(identity)
        try:
            entries = list(os.scandir(place))
        except OSError as error:
            report.note("files_left_out", f"{where} ({error.strerror})")
            continue
        for entry in sorted(entries, key=lambda one: one.name):
            name = f"{where}/{entry.name}" if where else entry.name
            if not _is(entry.is_dir):
                if _is(entry.is_file):
                    names.append(name)
                elif entry.is_symlink() and layout.is_picture(name):
                    report.note("links_left_out", name)
            elif layout.is_system(entry.name):
                if entry.name != ".git":
                    report.note("hidden_files", f"{name}/")
            else:
                (links if entry.is_symlink() else folders).append(name)
    return sorted(names, key=lambda name: name.split("/"))


def _identity(folder: str) -> tuple[int, int] | None:
    """What tells a folder from every other, however it is reached; None where it cannot be reached."""
    try:
        facts = os.stat(folder)
    except OSError:
        return None
    return (facts.st_dev, facts.st_ino)


def _is(question: Callable[[], bool]) -> bool:
    """What a folder's entry answers, False where it cannot be reached."""
    try:
        return question()
    except OSError:
        return False


def _starts_like_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return layout.starts_like_picture(file.read(16))
    except OSError:
        return False
