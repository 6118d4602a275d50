"""A collection of files, in a folder or an archive, as items: what is a picture, and what lies beside it.

Names come first, all of them; then the tables beside the pictures are read, and then one picture after another, so
that no more than one is in memory here.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from unicodedata import normalize

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import SUFFIXES
from bowerbird.core.text import parse_json
from bowerbird.data.captions import caption_column, check_asked, take_captions, with_captions
from bowerbird.data.item import SourceItem
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import layout, rows, table
from bowerbird.data.sources.base import DamagedError, SourceOptions, WithoutPicturesError
from bowerbird.data.sources.embedded_prompt import prompt_in
from bowerbird.data.sources.listing import Listing, Table
from bowerbird.data.sources.sidecars import Sidecars
from bowerbird.data.text import read_text, spelled

MOST_TEXT = 1024**2
"""A caption file beside a picture is not longer; a longer one is not read."""
MOST_TABLE = 1024**3
MOST_UNNAMED = 100
"""Texts and JSON of no picture are looked at, in case they are tables, where there are no more of a suffix."""
LFS = b"version https://git-lfs.github.com/spec"
NOT_HERE = "a pointer of Git LFS in place of the file; fetch it with git lfs pull"


class Tree(Protocol):
    """Files by their names: paths below `place`, with forward slashes. `names`: in the order of reading. `label` stands
    before names in reports. `samples`: whether files belong together as in a webdataset."""

    @property
    def place(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def samples(self) -> bool: ...
    @property
    def names(self) -> Sequence[str]: ...

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one file. Raises: OSError for one that cannot be read, or has more than `most` bytes."""
        ...

    def path(self, name: str) -> Path | None:
        """Where the file lies by itself, None in an archive."""
        ...

    def facts(self, name: str) -> dict[str, Any]:
        """The metadata that says where a picture came from."""
        ...


@dataclass
class Sorted:
    """The files of a tree by what they are for."""

    pictures: list[str] = field(default_factory=list)
    sidecars: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)


def sort_names(tree: Tree, report: SourceReport) -> Sorted:
    """What each file is for; what is passed over is noted."""
    made = Sorted()
    names = {name for name in tree.names if name.endswith(layout.GENERATED)}
    for name in tree.names:
        suffix, picture = layout.suffix_of(name), layout.is_picture(name)
        if layout.is_system(name):
            if picture:
                report.note("hidden_files", f"{tree.label}{name}")
        elif picture:
            if name.rpartition("/")[2] == layout.SHEET and f"{name[: -len(layout.SHEET)]}{layout.GENERATED}" in names:
                report.note("further_pictures", f"{tree.label}{name}")
                continue
            made.pictures.append(name)
        elif layout.looks_like_picture(name):
            report.note("pictures_not_read", f"{tree.label}{name}")
        elif layout.is_archive(name):
            made.archives.append(name)
        elif not suffix and _starts_like_picture(tree, name):
            made.pictures.append(name)
        elif layout.is_about(name):
            continue
        elif rows.is_table(name) or suffix in layout.SIDECARS:
            made.tables += [name] if rows.is_table(name) else []
            made.sidecars += [name] if suffix in layout.SIDECARS else []
        else:
            report.note("other_files", f"{tree.label}{name}")
    made.pictures, further = layout.drop_further(made.pictures, samples=tree.samples)
    for name in further:
        report.note("further_pictures", f"{tree.label}{name}")
    return made


def _starts_like_picture(tree: Tree, name: str) -> bool:
    path = tree.path(name)
    try:
        if path is None:
            head = tree.read(name)[:16]
        else:
            with path.open("rb") as file:
                head = file.read(16)
    except OSError:
        return False
    return layout.starts_like_picture(head)


def read_tree(
    tree: Tree,
    options: SourceOptions,
    files: Sorted | None = None,
    *,
    outside: Sequence[Table] = (),
    collect: list[Table] | None = None,
    listed: bool = False,
) -> Iterator[SourceItem]:
    """The pictures of a tree with what its tables (and those from `outside`), the files beside them and their folders
    say of them, then the rows of tables that hold pictures. Nested archives are the caller's: with `collect` the tables
    are put there, and which of their rows are of no picture is the caller's to say. `listed`: only pictures with a
    row."""
    report = options.report
    files = files or sort_names(tree, report)
    inside = [tree.label.rstrip("/"), layout.stem_of_archive(tree.label.rstrip("/"))] if tree.label else []
    listing = Listing(files.pictures, options.caption_column, report, inside)
    sidecars = Sidecars(files.pictures, files.sidecars, samples=tree.samples)
    report.note_columns(())
    for one in outside:
        listing.add(one, "")
    data, tables = _read_tables(tree, files, sidecars, listing, options)
    if collect is None:
        for one in tables:
            one.note_missed(report)
    else:
        collect += tables
    if not (data or files.archives or ".json" in sidecars.kinds):  # else a column may still come
        check_asked(tree.place, options.caption_column, report.columns)
    places = layout.Layout(files.pictures)
    for name in files.pictures:
        if listed and not listing.has(name):
            continue
        yield _item(tree, name, listing, sidecars, places, options)
    parts = ((f"{tree.label}{name}", _table_items(tree, name, options)) for name in data)
    yield from read_parts(parts, report, came=bool(files.pictures or files.archives))


def read_parts(
    parts: Iterable[tuple[str, Iterator[SourceItem]]], report: SourceReport, *, came: bool
) -> Iterator[SourceItem]:
    """The items of several files, by their names. One that is damaged, or a table without pictures, is noted, and the
    others are read; where nothing `came` before and nothing comes of any, the first error is raised."""
    first: BowerbirdError | None = None
    for name, items in parts:
        try:
            for item in items:
                came = True
                yield item
        except (DamagedError, WithoutPicturesError) as error:
            first = first or error
            kind = "files_damaged" if isinstance(error, DamagedError) else "files_left_out"
            report.note(kind, f"{name} ({str(error).partition(': ')[2]})")
    if first is not None and not came:
        raise first


def _read_tables(
    tree: Tree, files: Sorted, sidecars: Sidecars, listing: Listing, options: SourceOptions
) -> tuple[list[str], list[Table]]:
    """Give the listing its tables, outer folders first; returns the parquet files that hold pictures themselves, and
    what was read."""
    data, read, alone = [], list[Table](), set(sidecars.without_picture)
    named = [name for name in files.tables if layout.suffix_of(name) not in layout.SIDECARS or name in alone]
    maybe = alone.difference(named)
    seldom = {suffix for suffix in (".txt", ".json") if sum(n.endswith(suffix) for n in maybe) <= MOST_UNNAMED}
    for name in sorted([*named, *maybe], key=lambda n: (n.count("/"), n)):
        label = f"{tree.label}{name}"
        if layout.suffix_of(name) in layout.PARQUET and _holds_pictures(tree, name, bool(files.pictures), options):
            data.append(name)
            continue
        if name in maybe and layout.suffix_of(name) not in seldom:
            options.report.note("texts_without_picture", label)
            continue
        if not (files.pictures or files.archives):
            options.report.note("files_left_out", f"{label} (a table or text, and its pictures are not here)")
            continue
        found = _read_table(tree, name, label, options, quiet=name in maybe)
        if found is None:
            continue
        scope = _scope(name, [*files.pictures, *files.archives])
        if listing.add(found, scope, tentative=name in maybe) or (files.archives and name not in maybe):
            read.append(found)
            found.folder = scope
        elif name in maybe:
            options.report.note("texts_without_picture", label)
        elif found.rows:
            options.report.note("files_left_out", f"{label} (no column names pictures, as file_name does)")
    return data, read


def _read_table(tree: Tree, name: str, label: str, options: SourceOptions, *, quiet: bool) -> Table | None:
    """The rows of a table; None where it cannot be read, which is noted. What a `quiet` one has wrong is not: it may
    be none."""
    try:
        source = tree.path(name) or tree.read(name, MOST_TABLE)
        if isinstance(source, Path) and source.stat().st_size > MOST_TABLE:
            raise OSError("larger than a table of captions is")
        return Table(label, rows.read_rows(source, label, SourceReport() if quiet else options.report))
    except OSError as error:
        options.report.note("files_left_out", f"{label} ({error.strerror or error})")
        return None


def _scope(table: str, files: Sequence[str]) -> str:
    """The folder whose pictures a table is about: its own, or the nearest around it that has pictures or archives."""
    folder = posixpath.dirname(table)
    while folder and not any(name.startswith(f"{folder}/") for name in files):
        folder = posixpath.dirname(folder)
    return folder


def _holds_pictures(tree: Tree, name: str, beside: bool, options: SourceOptions) -> bool:
    """Whether a parquet file has pictures of its own, not only names of those `beside` it; where there are none beside
    it, it is read in any case, and says what it lacks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        path = tree.path(name)
        schema = pq.read_schema(path if path is not None else io.BytesIO(tree.read(name)))
    except (OSError, pa.ArrowInvalid):
        return not beside
    return not beside or table.has_pictures(schema, fetch_urls=options.fetch_urls)


def _table_items(tree: Tree, name: str, options: SourceOptions) -> Iterator[SourceItem]:
    """The rows of one parquet file, with the split that its name or folder says."""
    path = tree.path(name)
    places = layout.Layout([name])
    split = places.split_of(name) or layout.split_of_file(name)
    found = table.read_parquet(path or io.BytesIO(tree.read(name)), options, name=f"{tree.label}{name}")
    for item in found:
        yield item if split is None else replace(item, metadata={"split": split} | item.metadata)


def _item(
    tree: Tree,
    name: str,
    listing: Listing,
    sidecars: Sidecars,
    places: layout.Layout,
    options: SourceOptions,
) -> SourceItem:
    """One picture with all that is said of it: its row before the files beside it, those before the prompt in it, and
    that before its folder."""
    metadata = tree.facts(name)
    split, kind = places.split_of(name), places.class_of(name)
    row, captions = listing.of(name)
    beside = {
        suffix: _text_beside(tree, sidecars.find(name, suffix), options.report) if suffix in sidecars.kinds else None
        for suffix in layout.SIDECARS
    }
    facts = _facts(beside[".json"], f"{tree.label}{name}", options.report)
    options.report.note_columns(facts)
    text = (beside[".txt"] or "").strip() or (beside[".caption"] or "").strip()
    column = caption_column(facts, options.caption_column)
    if captions is None and text and (options.caption_column is None or column is None):
        captions = [text]
    if captions is None:
        captions = take_captions(facts, column)
    elif column is not None and [str(facts[column]).strip()] == [one.strip() for one in captions]:
        facts.pop(column)  # the same once more, as img2dataset has it
    if (label := (beside[".cls"] or "").strip()) and "class" not in facts:
        kind = label
    if split is not None:
        metadata["split"] = split
    if kind is not None:
        metadata["class"] = normalize("NFC", spelled(kind))  # as macOS writes names, and others
    metadata |= facts | row
    data, problem = _bytes(tree, name)
    if captions is None and (prompt := prompt_in(data)):
        options.report.note("prompts_taken", f"{tree.label}{name}")
        captions = [prompt]
    if captions is None:
        captions = [str(metadata.get("class", "")).replace("_", " ")]
    caption, metadata = with_captions(captions, metadata)
    return SourceItem(data, f"{tree.label}{name}", caption, metadata, problem=problem)


def _bytes(tree: Tree, name: str) -> tuple[bytes, str]:
    """A picture's bytes, or why there are none."""
    try:
        data = tree.read(name)
    except OSError as error:
        return b"", error.strerror or str(error)
    return (b"", NOT_HERE) if data.startswith(LFS) else (data, "" if data else "the file is empty")


def _text_beside(tree: Tree, name: str | None, report: SourceReport) -> str | None:
    """The text of a file beside a picture."""
    if name is None:
        return None
    try:
        return read_text(tree.read(name, MOST_TEXT), f"{tree.label}{name}", report)
    except OSError as error:
        report.note("files_left_out", f"{tree.label}{name} ({error.strerror or error})")
        return None


def _facts(text: str | None, name: str, report: SourceReport) -> dict[str, Any]:
    """The JSON beside a picture, without what is empty: an object, or its captions alone. A picture is not less for
    what is written beside it."""
    if not text:
        return {}
    try:
        found = parse_json(text, name, "JSON beside a picture")
    except BowerbirdError as error:
        report.note("files_left_out", str(error))
        return {}
    if isinstance(found, (str, list)):
        return {"caption": found}
    return {str(k): v for k, v in found.items() if v is not None} if isinstance(found, dict) else {}


def refuse_empty(place: str, what: str, report: SourceReport) -> BowerbirdError:
    """What to say of a collection without pictures, and what was passed over in it."""
    over = "; ".join(report.lines())
    return BowerbirdError(
        f"{place}: no pictures in this {what}; it should hold .png, .jpg, .webp or any of"
        f" {len(SUFFIXES)} suffixes of pictures, or .parquet files" + (f" ({over})" if over else "")
    )
