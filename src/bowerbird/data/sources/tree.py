"""A collection of files, in a folder or an archive, as items: what is a picture, and what lies beside it.

Names come first, all of them; then the tables beside the pictures are read, and then one picture after another, so
that no more than one is in memory here.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import SUFFIXES
from bowerbird.core.text import parse_json
from bowerbird.data.captions import caption_column, check_asked, take_captions, with_captions
from bowerbird.data.item import SourceItem
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import layout, rows, table
from bowerbird.data.sources.base import SourceOptions
from bowerbird.data.sources.listing import Listing
from bowerbird.data.text import read_text

MOST_TEXT = 1024**2
"""A caption file beside a picture is not longer; a longer one is not read."""
MOST_TABLE = 1024**3
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
    for name in tree.names:
        suffix, picture = layout.suffix_of(name), layout.is_picture(name)
        if layout.is_system(name):
            if picture:
                report.note("hidden_files", f"{tree.label}{name}")
        elif picture:
            made.pictures.append(name)
        elif layout.looks_like_picture(name):
            report.note("pictures_not_read", f"{tree.label}{name}")
        elif layout.is_archive(name):
            made.archives.append(name)
        elif not suffix and _starts_like_picture(tree, name):
            made.pictures.append(name)
        else:
            if rows.is_table(name):
                made.tables.append(name)
            if suffix in layout.SIDECARS:
                made.sidecars.append(name)
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
    tree: Tree, options: SourceOptions, files: Sorted | None = None, *, more: Path | None = None
) -> Iterator[SourceItem]:
    """The pictures of a tree with what its tables (and one `more`), the files beside them and their folders say of
    them, then the rows of tables that hold pictures. Nested archives are the caller's."""
    report = options.report
    files = files or sort_names(tree, report)
    listing = Listing(files.pictures, options.caption_column, report)
    sidecars = layout.NameIndex(files.sidecars)
    stems = {name.rpartition(".")[0] for name in files.pictures} if files.tables else set()
    report.note_columns(())
    sidecar_kinds = {layout.suffix_of(name) for name in files.sidecars}
    data = _read_tables(tree, files, [n for n in files.tables if n.rpartition(".")[0] not in stems], listing, options)
    if more is not None:
        listing.add(more.name, rows.read_rows(more, more.name, report), "")
    if not (data or files.archives or ".json" in sidecar_kinds):  # else a column may still come
        check_asked(tree.place, options.caption_column, report.columns)
    places = layout.Layout(files.pictures)
    for name in files.pictures:
        yield _item(tree, name, listing, (sidecars, sidecar_kinds), places, options)
    for name in data:
        yield from _table_items(tree, name, options)


def _read_tables(
    tree: Tree, files: Sorted, tables: Sequence[str], listing: Listing, options: SourceOptions
) -> list[str]:
    """Give the listing its tables, outer folders first; returns the parquet files that hold pictures themselves."""
    data = []
    for name in sorted(tables, key=lambda n: (n.count("/"), n)):
        label = f"{tree.label}{name}"
        if layout.suffix_of(name) in layout.PARQUET and _holds_pictures(tree, name, bool(files.pictures), options):
            data.append(name)
            continue
        if not files.pictures:
            continue
        try:
            source = tree.path(name) or tree.read(name, MOST_TABLE)
            if isinstance(source, Path) and source.stat().st_size > MOST_TABLE:
                raise OSError("larger than a table of captions is")
        except OSError as error:
            options.report.note("files_left_out", f"{label} ({error.strerror or error})")
            continue
        found = rows.read_rows(source, label, options.report)
        if found and not listing.add(label, found, _scope(name, files.pictures)):
            options.report.note("files_left_out", f"{label} (no column names pictures, as file_name does)")
    return data


def _scope(table: str, pictures: Sequence[str]) -> str:
    """The folder whose pictures a table is about: its own, or the nearest around it that has pictures."""
    folder = posixpath.dirname(table)
    while folder and not any(name.startswith(f"{folder}/") for name in pictures):
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
    sidecars: tuple[layout.NameIndex, set[str]],
    places: layout.Layout,
    options: SourceOptions,
) -> SourceItem:
    """One picture with all that is said of it: its row before the files beside it, and those before its folder."""
    metadata = tree.facts(name)
    split, kind = places.split_of(name), places.class_of(name)
    row, captions = listing.of(name)
    index, kinds = sidecars
    beside = {
        suffix: _sidecar(tree, name, suffix, index, options.report) if suffix in kinds else None
        for suffix in layout.SIDECARS
    }
    facts = _object(beside[".json"], f"{tree.label}{name}", options.report)
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
        metadata["class"] = kind
    metadata |= facts | row
    if captions is None:
        captions = [str(metadata.get("class", "")).replace("_", " ")]
    caption, metadata = with_captions(captions, metadata)
    data, problem = _bytes(tree, name)
    return SourceItem(data, f"{tree.label}{name}", caption, metadata, problem=problem)


def _bytes(tree: Tree, name: str) -> tuple[bytes, str]:
    """A picture's bytes, or why there are none."""
    try:
        data = tree.read(name)
    except OSError as error:
        return b"", error.strerror or str(error)
    return (b"", NOT_HERE) if data.startswith(LFS) else (data, "" if data else "the file is empty")


def _sidecar(tree: Tree, picture: str, suffix: str, sidecars: layout.NameIndex, report: SourceReport) -> str | None:
    """The text beside a picture: the same name with another suffix, or with one more, or the name of its sample."""
    stem = picture.rpartition(".")[0] if layout.suffix_of(picture) else picture
    bases = [stem, picture, *([layout.sample_key(picture)] if tree.samples else [])]
    name = next((found for base in bases if (found := sidecars.find(f"{base}{suffix}")) is not None), None)
    if name is None:
        return None
    try:
        return read_text(tree.read(name, MOST_TEXT), f"{tree.label}{name}", report)
    except OSError as error:
        report.note("files_left_out", f"{tree.label}{name} ({error.strerror or error})")
        return None


def _object(text: str | None, name: str, report: SourceReport) -> dict[str, Any]:
    """The JSON object beside a picture, without what is empty: a picture is not less for what is written beside it."""
    if not text:
        return {}
    try:
        found = parse_json(text, name, "JSON beside a picture")
    except BowerbirdError as error:
        report.note("files_left_out", str(error))
        return {}
    return {str(k): v for k, v in found.items() if v is not None} if isinstance(found, dict) else {}


def refuse_empty(place: str, what: str, report: SourceReport) -> BowerbirdError:
    """What to say of a collection without pictures, and what was passed over in it."""
    over = "; ".join(report.lines())
    return BowerbirdError(
        f"{place}: no pictures in this {what}; it should hold .png, .jpg, .webp or any of"
        f" {len(SUFFIXES)} suffixes of pictures, or .parquet files" + (f" ({over})" if over else "")
    )
