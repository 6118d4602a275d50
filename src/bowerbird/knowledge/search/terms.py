"""What a query says besides words: `"red fox"`, words that must stand next to each other, and `sku:ABC-12`, the value
of a metadata column."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from unicodedata import normalize

from bowerbird.knowledge.search.accents import same_but_accents

_FIELD = re.compile(r'(?<!\S)(?P<name>[^\W\d][\w.-]*):(?:"(?P<quoted>[^"]+)"|(?P<bare>[^\s":/][^\s"]*))')
_PHRASE = re.compile('"([^"]*)"|“([^”]*)”|„([^“”]*)[“”]|«([^»]*)»|»([^«]*)«|「([^」]*)」|『([^』]*)』')
"""Words between quotation marks, as English, German, French and Japanese write them."""


@dataclass(frozen=True)
class Terms:
    """A query taken apart: `text`, its words without quotation marks and names of columns; `phrases`, what was quoted;
    `where`, the condition that its fields make; `words`, whether there is more in it than fields."""

    text: str
    phrases: tuple[str, ...] = ()
    where: str | None = None
    words: bool = True


def is_plain(text: str) -> bool:
    """Whether a query has neither quoted words nor what may be a field."""
    return _FIELD.search(text) is None and _PHRASE.search(text) is None


def words_of(text: str, columns: Mapping[str, str]) -> str:
    """The words of a query, without its quotation marks and fields."""
    return text if is_plain(text) else parse(text, columns).text


def parse(text: str, columns: Mapping[str, str]) -> Terms:
    """A query taken apart; `columns`: names of metadata columns with their types. A name that is no column's, or a
    value that the column cannot have, is words like any other."""
    conditions: list[str] = []
    values: list[str] = []

    def field(match: re.Match[str]) -> str:
        name = _column(match["name"], columns)
        value = match["quoted"] or match["bare"].rstrip(",;")
        condition = None if name is None else condition_of(name, columns[name], value)
        if condition is None:
            return match[0]
        conditions.append(condition)
        values.append(value)
        return " "

    rest = _FIELD.sub(field, text)
    phrases = [said for match in _PHRASE.finditer(rest) if (said := _inside(match).strip())]
    rest = " ".join(_PHRASE.sub(lambda match: f" {_inside(match)} ", rest).split())
    where = " AND ".join(conditions) or None
    return Terms(rest or " ".join(values) or text, tuple(phrases), where, bool(rest) or where is None)


def all_of(*conditions: str | None) -> str | None:
    """One condition for several, None where there is none."""
    return " AND ".join(f"({each})" for each in conditions if each is not None) or None


def _inside(quoted: re.Match[str]) -> str:
    """What stands between quotation marks."""
    return "".join(group for group in quoted.groups() if group)


def _column(name: str, columns: Mapping[str, str]) -> str | None:
    """The column that a name means, whatever its case; the one written so where several differ in that alone."""
    alike = [column for column in columns if column.casefold() == name.casefold()]
    return name if name in alike else alike[0] if len(alike) == 1 else None


def condition_of(column: str, kind: str, value: str) -> str | None:
    """The condition that a column of this type has a value, texts in any case and with any accents; None where it
    cannot."""
    text = value.replace("'", "''")
    pattern = (same_but_accents(value) or "").replace("'", "''")
    if "`" in column:
        return None
    if kind.startswith(("list", "large_list")):
        joined = f"array_to_string(`{column}`, chr(31))"
        if pattern:
            return f"regexp_like({joined}, '(?i)(?:^|\x1f){pattern}(?:\x1f|$)')"
        return f"array_has(string_to_array(lower({joined}), chr(31)), lower('{text}'))"
    if kind.startswith("bool"):
        return f"`{column}` = {value.lower()}" if value.lower() in ("true", "false") else None
    if kind.startswith(("int", "uint", "float", "double", "halffloat")):
        try:
            number = float(value)
        except ValueError:
            return None
        if not math.isfinite(number):
            return None
        if kind.startswith(("int", "uint")):  # a literal of another kind would be refused
            whole = int(value) if value.isdecimal() else int(number) if number.is_integer() else None
            return f"`{column}` = {whole}" if whole is not None and abs(whole) < 2**63 else None
        return f"`{column}` = {number!r}"
    if pattern:
        return f"regexp_like(`{column}`, '(?i)^{pattern}$')"
    forms = dict.fromkeys((normalize("NFC", text), normalize("NFD", text)))  # é as one character, and as two
    values = ", ".join(f"lower('{form}')" for form in forms)
    return f"lower(`{column}`) IN ({values})"
