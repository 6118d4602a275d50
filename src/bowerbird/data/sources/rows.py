"""Rows of the tables that lie beside pictures: JSON lines, CSV with any separator, JSON, parquet.

A row that cannot be read is noted and left out; a table is left out only where nothing in it names pictures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json
from bowerbird.data.columns import type_cells
from bowerbird.data.report import SourceReport
from bowerbird.data.sources.labels import label_names, with_labels
from bowerbird.data.sources.layout import FILE_COLUMNS, PARQUET, TABLES, suffix_of
from bowerbird.data.text import lines_of, read_text

KEY = "key"
"""The column of img2dataset that names a picture by its stem."""
JSON_NAMES = ("metadata", "caption", "annotation", "label", "meta_")
"""What is in the name of a `.json` file that may be a table."""
TEXT_TABLES = ("captions.txt", "labels.txt", "metadata.txt")
MOST_JSON, MOST_VALUES = 256 * 2**20, 20_000_000
"""Characters and values of a JSON table: COCO's captions are about a third of it."""
SEPARATORS = ",;\t|"


def is_table(name: str) -> bool:
    """Whether a file may hold rows, by its name."""
    low = name.rpartition("/")[2].lower()
    return (
        low.endswith((*TABLES, *PARQUET))
        or low in TEXT_TABLES
        or (low.endswith(".json") and any(part in low for part in JSON_NAMES))
    )


def file_column(names: Iterable[str]) -> str | None:
    """The column that names a row's picture, whatever its case: one of `FILE_COLUMNS`, or HF's `…_file_name`."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(str(name).strip().casefold(), name)
    found = next((folded[name] for name in FILE_COLUMNS if name in folded), None)
    return found or next((name for low, name in folded.items() if low.endswith("_file_name")), None)


def read_rows(source: Path | bytes, name: str, report: SourceReport) -> list[dict[str, Any]]:
    """The rows of one table, called `name`. Empty where it holds none: that is noted."""
    suffix = suffix_of(name)
    if suffix in PARQUET:
        return _parquet_rows(source, name, report)
    text = read_text(source.read_bytes() if isinstance(source, Path) else source, name, report)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(text, name, report)
    if suffix == ".json":
        return _json_rows(text, name, report)
    return _csv_rows(text, name, report)


def _json_lines(text: str, name: str, report: SourceReport) -> list[dict[str, Any]]:
    if text.lstrip().startswith("[") and "\n[" not in text.strip():  # one list, whatever the file is called
        found = _json_rows(text, name, None)
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
            rows.append(row)
        else:
            report.note("rows_left_out", f"{name}:{number} (no object with names)")
    return rows


def _json_rows(text: str, name: str, report: SourceReport | None) -> list[dict[str, Any]]:
    """The rows of a JSON document: a list of objects, one of objects or texts by file name, or COCO's captions."""
    try:
        found = parse_json(text, name, "table", characters=MOST_JSON, values=MOST_VALUES)
    except BowerbirdError as error:
        if report is not None:
            report.note("files_left_out", str(error))
        return []
    if isinstance(found, list):
        return [row for row in found if isinstance(row, dict)]
    if not isinstance(found, dict):
        return []
    if isinstance(found.get("images"), list):
        return _coco_rows(found)
    return [
        {"file_name": key, **value} if isinstance(value, dict) else {"file_name": key, "caption": value}
        for key, value in found.items()
        if isinstance(value, (dict, str))
    ]


def _coco_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Images with the captions of their annotations; boxes and the like are left alone."""
    captions: dict[Any, list[str]] = {}
    for one in found.get("annotations") or []:
        if isinstance(one, dict) and isinstance(one.get("caption"), str):
            captions.setdefault(one.get("image_id"), []).append(one["caption"])
    return [
        {
            "file_name": str(image["file_name"]),
            **({"caption": captions[image.get("id")]} if image.get("id") in captions else {}),
        }
        for image in found["images"]
        if isinstance(image, dict) and "file_name" in image
    ]


def _csv_rows(text: str, name: str, report: SourceReport) -> list[dict[str, Any]]:
    """The rows of a table of texts; numbers as such. Raises: nothing."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    head = text.split("\n", 1)[0]
    separator = max(SEPARATORS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[dict[str, Any]] = []
    try:
        names = [column.strip() for column in next(reader, [])]
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) > len(names):
                report.note("rows_left_out", f"{name}:{reader.line_num} ({len(cells)} cells under {len(names)} names)")
                continue
            rows.append({column: cell for column, cell in zip(names, cells, strict=False) if column})
    except csv.Error as error:
        report.note("rows_left_out", f"{name}:{reader.line_num} and all that follow ({error})")
    return rows


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
