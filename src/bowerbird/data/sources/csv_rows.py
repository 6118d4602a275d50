"""Rows of tables of texts: CSV with any separator, as spreadsheets, scripts and data sets write it.

A quote that is not closed, or is closed before its cell ends, is a character like any other: it takes its own line with
it and no other.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from bowerbird.data.captions import caption_column
from bowerbird.data.report import SourceReport
from bowerbird.data.sources.layout import file_column, is_picture, without_number

SEPARATORS = ",;\t|"
LONGEST = 1_000
"""No row has more lines: a quote that nobody closed would take all that follow."""
_SAID = re.compile(r"sep=(.)", re.IGNORECASE)
_COMMA_NUMBER = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]+)?")


def csv_rows(text: str, name: str, report: SourceReport) -> list[dict[str, Any]]:
    """The rows by the names in the first line. Where that line names a picture in place of a column, the table has no
    names: the columns are `file_name` and `caption`, or more where tabs divide them. Raises: nothing."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    lines = io.StringIO(text, newline="").readlines()
    start = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    separator = _separator(lines[start]) if start < len(lines) else ","
    if start < len(lines) and _SAID.fullmatch(lines[start].strip()):  # for spreadsheets
        start += 1
    records = _records(lines, separator, start)
    first = next(records, None)
    if first is None:
        return []
    names = _unique([column.strip() for column in first[1]], name, report)
    if file_column(names) is None and (found := _without_names(first[1], separator)):
        names, records = found, _records(lines, separator, start)
    rows = []
    for number, cells in records:
        if len(cells) > len(names):
            cells = _join_last(lines[number - 1], cells, names, separator)
        if not any(cells):
            continue
        if len(cells) > len(names):
            report.note("rows_left_out", f"{name}:{number} ({len(cells)} cells under {len(names)} names)")
            continue
        rows.append({column: cell for column, cell in zip(names, cells, strict=False) if column})
    if separator == ";":
        _point_numbers(rows)
    return rows


def _separator(head: str) -> str:
    said = _SAID.fullmatch(head.strip())
    return said[1] if said else "\t" if "\t" in head else max(SEPARATORS, key=head.count)


def _records(lines: Sequence[str], separator: str, start: int) -> Iterator[tuple[int, list[str]]]:
    """The number of each record's first line, and its cells."""
    begun = at = start

    def following() -> Iterator[str]:
        nonlocal at
        while at < len(lines) and at < begun + LONGEST:
            at += 1
            yield lines[at - 1]

    def reader() -> Iterator[list[str]]:
        return csv.reader(following(), delimiter=separator, strict=True, skipinitialspace=True)

    records = reader()
    while begun < len(lines):
        try:
            cells = next(records, [])
        except csv.Error:
            cells, at = _plain_cells(lines[begun].rstrip("\r\n"), separator), begun + 1
            records = reader()
        yield begun + 1, cells
        begun = at


def _plain_cells(line: str, separator: str) -> list[str]:
    """The cells of a line whose quotes are no CSV: those of programs that write `\\"`, else as they stand."""
    try:
        return next(csv.reader([line], delimiter=separator, escapechar="\\", strict=True, skipinitialspace=True))
    except csv.Error:
        return line.split(separator)


def _join_last(line: str, cells: list[str], names: Sequence[str], separator: str) -> list[str]:
    """Cells without empty ones at the end; and a caption without quotes that holds separators, where it comes last."""
    while len(cells) > len(names) and not cells[-1]:
        cells = cells[:-1]
    if len(cells) > len(names) and '"' not in line and caption_column(names[-1:]) is not None:
        return [cell.strip() for cell in line.split(separator, len(names) - 1)]
    return cells


def _without_names(cells: Sequence[str], separator: str) -> list[str] | None:
    """Columns for a table whose first line is a row already: its first cell is a picture's."""
    if len(cells) < 2 or not is_picture(without_number(cells[0].strip())):
        return None
    more = [f"column_{i}" for i in range(3, len(cells) + 1)] if separator == "\t" else []
    return ["file_name", "caption", *more]


def _unique(names: list[str], table: str, report: SourceReport) -> list[str]:
    """Column names of which no two are the same."""
    made: list[str] = []
    for name in names:
        new, number = name, 2
        while name and new in made:
            new, number = f"{name}_{number}", number + 1
        if new != name:
            report.note("columns_renamed", f"{table}: a further {name!r} is {new}")
        made.append(new)
    return made


def _point_numbers(rows: list[dict[str, Any]]) -> None:
    """Where semicolons divide, numbers are written with a comma: 1.234,50 becomes 1234.50, in columns of nothing
    else."""
    for column in {name for row in rows for name in row}:
        cells = [row[column].strip() for row in rows if row.get(column, "").strip()]
        if any("," in cell for cell in cells) and all(_COMMA_NUMBER.fullmatch(cell) for cell in cells):
            for row in rows:
                if column in row:
                    row[column] = row[column].replace(".", "").replace(",", ".")
