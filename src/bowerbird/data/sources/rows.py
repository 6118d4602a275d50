"""Rows of the tables that lie beside pictures: JSON lines, CSV with any separator, JSON, parquet.

A row that cannot be read is noted and left out; a table is left out only where nothing in it names pictures. What is
called like a table, and no text of one picture, is read as one; any other text or JSON that belongs to no picture is
looked at, in case it is one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json
from bowerbird.data.columns import type_cells
from bowerbird.data.report import SourceReport
from bowerbird.data.sources.csv_rows import csv_rows
from bowerbird.data.sources.json_rows import json_rows
from bowerbird.data.sources.labels import label_names, with_labels
from bowerbird.data.sources.layout import GENERATED, PARQUET, TABLES, suffix_of
from bowerbird.data.text import lines_of, read_text

KEY = "key"
"""The column of img2dataset that names a picture by its stem."""
JSON_NAMES = ("metadata", "caption", "annotation", "label", "meta_")
"""What is in the name of a `.json` file that may be a table."""
TEXT_TABLES = ("captions.txt", "labels.txt", "metadata.txt")
MOST_JSON, MOST_VALUES = 256 * 2**20, 20_000_000
"""Characters and values of a JSON table: COCO's captions are about a third of it."""


def is_table(name: str) -> bool:
    """Whether a file may hold rows, by its name."""
    low = name.rpartition("/")[2].lower()
    return (
        low.endswith((*TABLES, *PARQUET))
        or low in TEXT_TABLES
        or (low.endswith(".json") and any(part in low for part in JSON_NAMES))
    )


def read_rows(source: Path | bytes, name: str, report: SourceReport) -> list[dict[str, Any]]:
    """The rows of one table, called `name`. Empty where it holds none: that is noted."""
    suffix = suffix_of(name)
    if suffix in PARQUET:
        return _parquet_rows(source, name, report)
    text = read_text(source.read_bytes() if isinstance(source, Path) else source, name, report)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(text, name, report)
    if suffix == ".json":
        return _document(text, name, report)
    return csv_rows(text, name, report)


def _json_lines(text: str, name: str, report: SourceReport) -> list[dict[str, Any]]:
    if text.lstrip().startswith("[") and "\n[" not in text.strip():  # one list, whatever the file is called
        found = _document(text, name, None)
        if found:
            return found
    rows = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, f"{name}:{number}", "row")
        except BowerbirdError as error:
            report.note("rows_left_out", str(error))
            continue
        if isinstance(row, dict):
            asked = row.get("request")
            if isinstance(asked, dict) and "prompt" in asked and name.endswith(GENERATED):
                row["prompt"] = asked["prompt"]
            rows.append(row)
        else:
            report.note("rows_left_out", f"{name}:{number} (no object with names)")
    return rows


def _document(text: str, name: str, report: SourceReport | None) -> list[dict[str, Any]]:
    """The rows of a JSON document; what is wrong with it goes to `report`, if there is one."""
    try:
        return json_rows(parse_json(text, name, "table", characters=MOST_JSON, values=MOST_VALUES))
    except BowerbirdError as error:
        if report is not None:
            report.note("files_left_out", str(error))
        return []


def type_rows(rows: list[dict[str, Any]], name: str, leave: Iterable[str]) -> None:
    """Make numbers of what CSV has as text, in place."""
    if suffix_of(name) not in (".jsonl", ".ndjson", ".json", *PARQUET):
        type_cells(rows, leave)


def _parquet_rows(source: Path | bytes, name: str, report: SourceReport) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(source if isinstance(source, Path) else io.BytesIO(source))
    except (OSError, pa.ArrowInvalid) as error:
        report.note("files_left_out", f"{name} (not a parquet file: {str(error).splitlines()[0][:60]})")
        return []
    labels = label_names(table.schema)
    return [with_labels(row, labels) for row in table.to_pylist()]
