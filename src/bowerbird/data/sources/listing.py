"""What the tables beside pictures say of each: a table applies to what lies in its folder and below, and the nearest
one has the last word."""

from __future__ import annotations

import ntpath
import posixpath
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from bowerbird.data.captions import caption_column, take_captions
from bowerbird.data.columns import clean
from bowerbird.data.report import SourceReport
from bowerbird.data.sources.layout import NameIndex, fold, is_picture
from bowerbird.data.sources.rows import KEY, file_column, type_rows


class Listing:
    """Rows of tables by the pictures they name. `captions`: those of a picture, None where no row has one."""

    def __init__(self, pictures: Sequence[str], asked: str | None, report: SourceReport) -> None:
        self.report, self.asked = report, asked
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

    def add(self, table: str, rows: list[dict[str, Any]], folder: str) -> bool:
        """Take the rows of `table` for pictures in `folder` and below; False where nothing in it names pictures.
        Tables of outer folders come first."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        files, keys = file_column(columns), next((name for name in columns if name.lower() == KEY), None)
        if files is None and keys is None:
            return False
        captions = caption_column([name for name in columns if name != files], self.asked)
        type_rows(rows, table, [name for name in (files, keys, captions) if name])
        self.report.note_columns(name for name in columns if name != files)
        self._scopes.add(f"{folder}/" if folder else "")
        seen: set[str] = set()
        for number, row in enumerate(rows, 1):
            written = row.get(files) if files else None
            key = row.get(keys) if keys else None
            if not isinstance(written, str) and key is None and not isinstance(written, int):
                self.report.note("rows_left_out", f"{table}, row {number} (names no picture)")
                continue
            picture = self._find(folder, written) or self._by_key(folder, key)
            if picture is None:
                self.report.note("rows_without_picture", clean(str(written if written is not None else key))[:120])
                continue
            self._take(picture, {k: v for k, v in row.items() if k != files}, captions, again=picture in seen)
            seen.add(picture)
        return True

    def of(self, picture: str) -> tuple[dict[str, Any], list[str] | None]:
        """The metadata of a picture, and its captions, None where no row has any."""
        if picture not in self._rows and any(picture.startswith(scope) for scope in self._scopes):
            self.report.note("pictures_without_row", picture)
        return dict(self._rows.get(picture, {})), self._captions.get(picture)

    def _take(self, picture: str, row: dict[str, Any], captions: str | None, *, again: bool) -> None:
        """Join a row with what is known of the picture. A second row of one table is another caption of it."""
        found = take_captions(row, captions)
        if found is not None:
            self._captions[picture] = [*self._captions.get(picture, []), *found] if again else found
        kept = {name: value for name, value in row.items() if value is not None}
        before = self._rows.get(picture, {})
        self._rows[picture] = {**kept, **before} if again else {**before, **kept}

    def _find(self, folder: str, written: Any) -> str | None:
        """The picture that a row means, whose table is for `folder`. Of a path that is elsewhere the last part alone
        never stands for a picture further below: it may be another one."""
        if written is None:
            return None
        for name in _readings(str(written)):
            found = self._pictures.find(posixpath.join(folder, name)) or self._pictures.find(name)
            if found is None and "/" not in fold(str(written)):
                found = self._pictures.below(folder, name)
            if found is None and not is_picture(name):
                found = self._by_key(folder, name)
            if found is not None and (not folder or found.startswith(f"{folder}/")):
                return found
        return None

    def _by_key(self, folder: str, key: Any) -> str | None:
        """The picture whose name without its suffix is `key`."""
        if key is None or not (text := fold(str(key))):
            return None
        stem = self._stems.find(posixpath.join(folder, text)) or (
            self._stems.below(folder, text) if "/" not in text else None
        )
        return None if stem is None else self._of_stem[stem]


def _readings(written: str) -> Iterator[str]:
    """A name as it may be meant: as it is, and of a path from the root of another machine its ends, longest first."""
    name = fold(written)
    absolute = name.startswith("/") or bool(ntpath.splitdrive(name)[0])
    if not absolute:
        while name.startswith("../"):
            name = name[3:]
        yield posixpath.normpath(name) if ".." in name else name
        return
    parts = [part for part in ntpath.splitdrive(name)[1].split("/") if part]
    for start in range(len(parts)):
        yield "/".join(parts[start:])
