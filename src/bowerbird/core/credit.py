"""Attribution: the file name of an item, and the values of the metadata columns that say who made it and what its
license is.

Names and values are strangers': each is one line of bounded length, and none says where a file lies on a machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bowerbird.core.files import last_part
from bowerbird.core.text import LONGEST, shorten

MOST_COLUMNS = 16
"""Columns that can be credited."""
RIGHTS = frozenset({"copyright", "licence", "license", "rights"})
"""Words in the names of columns that say what a picture may be used for."""
MAKERS = frozenset({"artist", "attribution", "author", "creator", "credit", "credits", "photographer"})
"""Words in the names of columns that say whom a picture is by."""
USUAL_COLUMNS = MAKERS | RIGHTS | {"sku", "source", "url"}
"""Words in the names of columns that often say who made a picture; nobody is credited for them unasked."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = re.compile(r"file:|~|/|\\\\|[A-Za-z]:[/\\]")

Value = str | int | float | bool


def source_name(name: str) -> str:
    """The file name at the end of an item's name, which may be a path or an address."""
    plain = re.split(r"[?#]", name)[0] if _ADDRESS.match(name) else name
    return shorten(last_part(plain) if plain else "")


def file_of(facts: Mapping[str, Any]) -> str:
    """The name of an item's file as its metadata have it, empty where there is none."""
    name = facts.get("file_name")
    return name if isinstance(name, str) else ""


def is_of_folder(caption: str, facts: Mapping[str, Any]) -> bool:
    """Whether a caption is empty, or but the name of the folder, as a source takes it that has no other."""
    return not caption or caption == str(facts.get("class", "")).replace("_", " ")


def shown_name(caption: str, facts: Mapping[str, Any]) -> str:
    """The caption of an item in quotation marks, or the name of its file where it has none but its folder's name."""
    file = source_name(file_of(facts))
    name = (file or caption) if is_of_folder(caption, facts) else caption
    return repr(shorten(name, 40)) if name else "(no caption)"


def credit_of(metadata: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Value]:
    """The values of `columns` that an item has, in that order; of a path the last part, of an address no password."""
    found: dict[str, Value] = {}
    for column in columns:
        value = metadata.get(column)
        if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            found[column] = value
        elif value is not None and not isinstance(value, float) and (text := _plain(str(value))):
            found[column] = text
    return found


def _plain(text: str) -> str:
    text = text[: 4 * LONGEST].strip()
    if _LOCAL.match(text):
        return shorten(last_part(text))
    return shorten(re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@", r"\1", text))


def is_address(value: Any) -> bool:
    """Whether a value is an address on the web."""
    return isinstance(value, str) and re.match(r"https?://\S+$", value) is not None


def values_of(neighbor: Mapping[str, Any], words: frozenset[str] | None = None) -> list[str]:
    """The credit of a record's neighbor as texts, of all columns or of those whose names have one of these `words`;
    nothing where the record holds none."""
    credit = neighbor.get("credit")
    pairs = list(credit.items())[:MOST_COLUMNS] if isinstance(credit, dict) else []
    return [shorten(str(value)) for column, value in pairs if words is None or has_word(str(column), words)]


def credit_line(neighbor: Mapping[str, Any]) -> str:
    """What a sheet says under a record's neighbor: its credit, its file name where it has none."""
    name = neighbor.get("name")
    return ", ".join(values_of(neighbor)) or (shorten(name) if isinstance(name, str) else "")


def neighbor_name(neighbor: Mapping[str, Any]) -> str:
    """What a sentence calls a record's neighbor: its caption and the name of its file, its id where it has neither."""
    caption, name = neighbor.get("caption"), neighbor.get("name")
    file = shorten(name, 40) if isinstance(name, str) else ""
    if isinstance(caption, str) and caption.strip():
        return repr(shorten(caption, 40)) + (f" ({file})" if file else "")
    return file or str(neighbor.get("id"))


def has_word(column: str, words: frozenset[str]) -> bool:
    """Whether a column's name has one of `words`, as `license_name`, `imageURL` and `Author` have."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", column)
    return any(part.lower() in words for part in parts)


def usual_columns(columns: Iterable[str]) -> list[str]:
    """Those of `columns` that often say who made a picture."""
    return [column for column in columns if has_word(column, USUAL_COLUMNS)]
