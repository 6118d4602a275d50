"""What the tables beside pictures say of each: a table applies to what lies in its folder and below, and the nearest
one has the last word."""

from __future__ import annotations

import ntpath
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

from bowerbird.data.captions import caption_column, note_texts, take_captions
from bowerbird.data.columns import clean, column_key
from bowerbird.data.report import SourceReport
from bowerbird.data.sources.layout import NameIndex, file_column, fold, is_picture, without_number
from bowerbird.data.sources.rows import KEY, type_rows

SOME = 200
"""So many rows say which column names pictures, where none is called so."""


@dataclass
class Table:
    """The rows of one table, the `folder` it is about, and which rows were met: it may be about the pictures of several
    archives."""

    name: str
    rows: list[dict[str, Any]]
    folder: str = ""
    met: set[int] = field(default_factory=set)
    missed: dict[int, str | None] = field(default_factory=dict)

    def note_missed(self, report: SourceReport) -> None:
        """Say which rows are of no picture anywhere."""
        for number, written in sorted(self.missed.items()):
            if number in self.met:
                continue
            if written is None:
                report.note("rows_left_out", f"{self.name}, row {number + 1} (names no picture)")
            else:
                report.note("rows_without_picture", written)


def _row_for_each(rows: list[dict[str, Any]], files: str | None) -> list[dict[str, Any]]:
    """Rows that name one picture each: HF's `file_names` are several, and a record of a picture has its path."""
    if files is None or not any(isinstance(row.get(files), (list, dict)) for row in rows):
        return rows
    made = []
    for row in rows:
        several = row.get(files)
        for one in several if isinstance(several, list) else [several]:
            made.append({**row, files: one.get("path", one.get("file_name")) if isinstance(one, dict) else one})
    return made


def _written(row: dict[str, Any], files: str | None, keys: str | None) -> str | None:
    """What a row says for a picture's name; None where it says nothing."""
    name, key = row.get(files) if files else None, row.get(keys) if keys else None
    if not isinstance(name, (str, int)) and key is None:
        return None
    return clean(str(name if name is not None else key))[:120]


class Listing:
    """Rows of tables by the pictures they name. `captions`: those of a picture, None where no row has one. `inside`:
    what may stand before names in tables from outside, the archive that the pictures lie in."""

    def __init__(
        self, pictures: Sequence[str], asked: str | None, report: SourceReport, inside: Sequence[str] = ()
    ) -> None:
        self.report, self.asked, self._inside = report, asked, [fold(name) for name in inside]
        self._scopes: set[str] = set()
        self._names = pictures
        self._rows: dict[str, dict[str, Any]] = {}
        self._captions: dict[str, list[str]] = {}

    @cached_property
    def _pictures(self) -> NameIndex:
        return NameIndex(self._names)

    @cached_property
    def _of_stem(self) -> dict[str, str]:
        return {posixpath.splitext(name)[0]: name for name in self._names}

    @cached_property
    def _stems(self) -> NameIndex:
        return NameIndex(list(self._of_stem))

    def add(self, table: Table, folder: str, *, tentative: bool = False) -> bool:
        """Take the rows of `table` for pictures in `folder` and below; False where nothing in it names pictures, which
        of a `tentative` one has to be a picture that is there. Tables of outer folders come first."""
        columns = list(dict.fromkeys(name for row in table.rows for name in row))
        files, keys = file_column(columns), next((name for name in columns if name.lower() == KEY), None)
        guessed = None
        if files is None and keys is None:
            files = guessed = self._column_of_names(table.rows, columns, folder)
        if files is None and keys is None:
            return False
        if guessed is not None:
            self.report.note("columns_taken", f"{table.name}: {clean(guessed)}")
        rows = table.rows = _row_for_each(table.rows, files)
        found = [
            None if number in table.met else self._picture_of(row, files, keys, folder)
            for number, row in enumerate(rows)
        ]
        if tentative and not any(found):
            return False
        captions = caption_column([name for name in columns if name != files], self.asked)
        if captions is None and self.asked is None:
            note_texts(table.name, rows[:SOME], [name for name in columns if name != files], self.report)
        type_rows(rows, table.name, [name for name in (files, keys, captions) if name])
        self.report.note_columns(name for name in columns if name != files)
        self._scopes.add(f"{folder}/" if folder else "")
        seen: set[str] = set()
        for number, (row, picture) in enumerate(zip(rows, found, strict=True)):
            if picture is None:
                table.missed.setdefault(number, _written(row, files, keys))
                continue
            table.met.add(number)
            kept = {k: v for k, v in row.items() if k != files or k == guessed}
            self._take(picture, kept, captions, again=picture in seen)
            seen.add(picture)
        return True

    def _column_of_names(self, rows: list[dict[str, Any]], columns: Sequence[str], folder: str) -> str | None:
        """The first column whose values are pictures' names, with their suffix or without: a catalog's `sku`."""
        some = rows[:SOME]
        for column in columns:
            said = [row[column] for row in some if row.get(column) not in (None, "")]
            counted = all(str(value).isdecimal() for value in said) and not column_key(column).endswith(("id", "sku"))
            if counted:  # numbers of anything
                continue
            found = [name for value in said if (name := self._find(folder, value)) is not None]
            files = all(is_picture(without_number(str(value))) for value in said)  # else a class may be called so
            if 2 * (len(found) if files else len(set(found))) > len(said):
                return column
        return None

    def _picture_of(self, row: dict[str, Any], files: str | None, keys: str | None, folder: str) -> str | None:
        """The picture that a row names."""
        return self._find(folder, row.get(files) if files else None) or self._by_key(
            folder, row.get(keys) if keys else None
        )

    def has(self, picture: str) -> bool:
        """Whether a row names this picture."""
        return picture in self._rows

    def of(self, picture: str) -> tuple[dict[str, Any], list[str] | None]:
        """The metadata of a picture, and its captions, None where no row has any."""
        if picture not in self._rows and any(picture.startswith(scope) for scope in self._scopes):
            self.report.note("pictures_without_row", picture)
        return dict(self._rows.get(picture, {})), self._captions.get(picture)

    def _take(self, picture: str, row: dict[str, Any], captions: str | None, *, again: bool) -> None:
        """Join a row with what is known of the picture. A second row of one table is another caption of it."""
        if self.asked is None and row.get(captions or "") is None:  # rows may say it under different names
            captions = caption_column(name for name, value in row.items() if value is not None)
        found = take_captions(row, captions)
        if found is not None:
            self._captions[picture] = [*self._captions.get(picture, []), *found] if again else found
        kept = {name: value for name, value in row.items() if value is not None}
        before = self._rows.get(picture, {})
        self._rows[picture] = {**kept, **before} if again else {**before, **kept}

    def _find(self, folder: str, written: Any) -> str | None:
        """The picture that a row means, whose table is for `folder`. Of a path that is elsewhere the last part alone
        never stands for a picture further below: it may be another one."""
        if not isinstance(written, (str, int)):
            return None
        for name in _readings(str(written), self._inside):
            found = self._pictures.find(posixpath.join(folder, name)) or self._pictures.find(name)
            if found is None and "/" not in fold(str(written)):
                found = self._pictures.below(folder, name)
            if found is None and not is_picture(name):
                found = self._by_key(folder, name)
            if found is not None and (not folder or found.startswith(f"{folder}/")):
                return found
        return self._by_number(folder, written) if isinstance(written, int) else None

    @cached_property
    def _numbers(self) -> dict[int, str | None]:
        """Pictures by the number at the end of their names, None where several have it."""
        found: dict[int, str | None] = {}
        for name in self._names:
            if digits := re.search(r"(?:^|[/_-])0*(\d{1,18})\.\w+$", name):
                found[int(digits[1])] = None if int(digits[1]) in found else name
        return found

    def _by_number(self, folder: str, number: int) -> str | None:
        """The picture of this number, as COCO's are called: `COCO_val2014_000000057870.jpg` is 57870."""
        found = self._numbers.get(number)
        return found if found is not None and (not folder or found.startswith(f"{folder}/")) else None

    def _by_key(self, folder: str, key: Any) -> str | None:
        """The picture whose name without its suffix is `key`."""
        if key is None or not (text := fold(str(key))):
            return None
        stem = self._stems.find(posixpath.join(folder, text)) or (
            self._stems.below(folder, text) if "/" not in text else None
        )
        return None if stem is None else self._of_stem[stem]


def _readings(written: str, inside: Sequence[str]) -> Iterator[str]:
    """A name as it may be meant: as it is, without the number of a caption, below one of `inside`, and of a path from
    the root of another machine its ends, longest first."""
    name = fold(written)
    if is_picture(short := without_number(name)):
        name = short
    if name.lower().startswith(("http://", "https://")):  # it was downloaded, and is called as it was
        name = unquote(urlsplit(name).path)
    absolute = name.startswith("/") or bool(ntpath.splitdrive(name)[0])
    if not absolute:
        while name.startswith("../"):
            name = name[3:]
        yield posixpath.normpath(name) if ".." in name else name
        yield from (name[len(above) + 1 :] for above in inside if name.startswith(f"{above}/"))
        return
    parts = [part for part in ntpath.splitdrive(name)[1].split("/") if part]
    for start in range(len(parts)):
        yield "/".join(parts[start:])
