"""Which of a row's columns is the caption: the same choice for folders, tables and archives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json

CAPTION_COLUMNS = (
    "caption",
    "text",
    "captions",
    "sentences",
    "prompt",
    "description",
    "name",
    "title",
    "label",
)
"""Columns taken for the caption when none is named, in small letters; the first that is there wins."""
KEPT = ("label",)
"""Of these, metadata as well: they are asked for by conditions."""
EVERY = "captions"
"""The metadata column with all captions of a picture that has several."""


def caption_column(names: Iterable[str], asked: str | None = None) -> str | None:
    """The column of captions: the one `asked` for, else the first usual one, whatever its case; None where there is
    none."""
    folded: dict[str, str] = {}
    for name in names:
        if name == asked:
            return name
        folded.setdefault(str(name).casefold(), name)
    wanted = CAPTION_COLUMNS if asked is None else (asked.casefold(),)
    return next((folded[name] for name in wanted if name in folded), None)


def check_asked(place: object, asked: str | None, columns: Iterable[str] | None) -> None:
    """Raises: BowerbirdError when a column was asked for and is none of `columns`; None where those are not known."""
    if asked is None or columns is None or asked.casefold() in {name.casefold() for name in columns}:
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
    value = row[column] if keep or column.casefold() in KEPT else row.pop(column)
    return texts_of(value)


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
        inner = next((value[key] for key in ("raw", "caption", "text") if key in value), None)
        return [] if inner is None else texts_of(inner)
    if isinstance(value, (list, tuple)):
        return [text for one in value if one is not None for text in texts_of(one)]
    return [str(value)]


def with_captions(captions: list[str] | None, metadata: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The caption that is shown, and metadata that holds all of them where there are several: every one is searched."""
    several = list(dict.fromkeys(text for text in captions or () if text))
    if len(several) > 1:
        metadata = {**metadata, EVERY: several}
    return (several[0] if several else ""), metadata
