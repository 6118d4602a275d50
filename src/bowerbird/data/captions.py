"""Which of a row's columns is the caption: the same choice for folders, tables and archives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json
from bowerbird.data.columns import clean, column_key
from bowerbird.data.report import SourceReport

CAPTION_COLUMNS = (
    "caption",
    "text",
    "txt",
    "captions",
    "sentences",
    "prompt",
    "description",
    "alt_text",
    "sentence",
    "name",
    "title",
    "label",
    "comment",
    "conversations",
)
"""Columns taken for the caption when none is named, written in any way (`Alt Text`); the first that is there wins."""
KEPT = ("label",)
"""Of these, metadata as well: they are asked for by conditions."""
EVERY = "captions"
"""The metadata column with all captions of a picture that has several."""


def caption_column(names: Iterable[str], asked: str | None = None) -> str | None:
    """The column of captions: the one `asked` for, else the first usual one, however it is written; None where there
    is none."""
    folded: dict[str, str] = {}
    for name in names:
        if name == asked:
            return name
        folded.setdefault(column_key(name), name)
    wanted = CAPTION_COLUMNS if asked is None else (asked,)
    return next((folded[key] for key in map(column_key, wanted) if key in folded), None)


def note_texts(table: str, rows: Sequence[dict[str, Any]], columns: Iterable[str], report: SourceReport) -> None:
    """Say which `columns` of a table without a usual one may be captions: those whose values, in these first rows, are
    mostly of several words."""
    half = len(rows) / 2
    texts = [name for name in columns if sum(" " in str(row.get(name) or "").strip() for row in rows) > half]
    if texts:
        report.note("tables_without_captions", f"{table} has {clean(', '.join(texts))}")


def check_asked(place: object, asked: str | None, columns: Iterable[str] | None) -> None:
    """Raises: BowerbirdError when a column was asked for and is none of `columns`; None where those are not known."""
    if asked is None or columns is None or column_key(asked) in set(map(column_key, columns)):
        return
    there = ", ".join(sorted(columns))
    raise BowerbirdError(
        f"{place}: no row has the `caption_column` {asked!r}; there "
        + (f"is {there}" if there else "are no rows and no JSON beside the pictures")
    )


def take_captions(row: dict[str, Any], column: str | None, *, keep: bool = False) -> list[str] | None:
    """The captions in `column`, which goes from the row (unless `keep`, or conditions ask for it); None where the row
    has none. One that is there and empty stays so."""
    if column is None or row.get(column) is None:
        return None
    value = row[column]
    texts = texts_of(value)
    if not texts and isinstance(value, (dict, list)) and value:  # no caption, as ComfyUI's `prompt`, a graph
        return None
    if not (keep or column.casefold() in KEPT):
        del row[column]
    return texts


def texts_of(value: Any) -> list[str]:
    """The texts of a cell: one, a list of them, the raw texts of a list of records, or a list as JSON."""
    if isinstance(value, str):
        if value.startswith(('["', "['")) and value.endswith("]"):
            try:
                found = parse_json(value, "a caption", "list")
            except BowerbirdError:
                return [value]
            return texts_of(found) if isinstance(found, list) else [value]
        return [value]
    if isinstance(value, dict):
        return _texts_of_record(value)
    if isinstance(value, (list, tuple)):
        return [text for one in value if one is not None for text in texts_of(one)]
    if isinstance(value, float) and math.isnan(value):  # an empty cell, as pandas writes it
        return []
    return [str(value)]


def _texts_of_record(value: dict[str, Any]) -> list[str]:
    """The texts of a record: its raw text, what a model answered in a conversation, or one text for each language."""
    inner = next((value[key] for key in ("raw", "caption", "text") if key in value), None)
    if inner is not None:
        return texts_of(inner)
    speaker = value.get("from", value.get("role"))
    if speaker is not None:
        said = value.get("value", value.get("content"))
        return texts_of(said) if speaker in ("gpt", "assistant") and isinstance(said, str) else []
    return [text for text in value.values() if isinstance(text, str)]


def with_captions(captions: list[str] | None, metadata: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The caption that is shown, and metadata that holds all of them where there are several: every one is searched."""
    several = list(dict.fromkeys(text for text in captions or () if text))
    if len(several) > 1:
        metadata = {**metadata, EVERY: several}
    return (several[0] if several else ""), metadata
