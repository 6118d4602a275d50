"""`where` for Milvus: the part of SQL that Milvus has too, translated; the rest is left to the same engine as
everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:0|[1-9]\d*)(?:\.\d+)?(?![\w.]))|(?P<text>'(?:[^']|'')*')|(?P<word>[A-Za-z_]\w*)|(?P<sign><=|>=|<>|!=|=|<|>|\(|\)|,))",
    re.ASCII,
)
SIGNS = {"=": "==", "<>": "!=", "!=": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">="}
KEYWORDS = {"and", "or", "not", "in", "like", "is", "null", "between", "true", "false"}
OWN = {"caption", "name", "id"}


class Untranslatable(Exception):
    """What Milvus cannot be asked, or we do not know how."""


def translate(where: str, columns: Iterable[str]) -> str | None:
    """The same condition for Milvus, or None where there is none: comparisons of one of `columns` with a number or
    text, IN, AND, OR, parentheses.

    NOT, LIKE, NULL and comparisons of columns are not translated: what they mean for an item without the column
    differs.
    """
    try:
        tokens = _name_columns(_tokens(where), [*OWN, *columns])
        made, at = _any_of(tokens, 0)
        return made if at == len(tokens) else None
    except (Untranslatable, RecursionError):
        return None


def _tokens(where: str) -> list[tuple[str, str]]:
    found, at, text = [], 0, where.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise Untranslatable
        value = match[match.lastgroup]
        kind = "key" if match.lastgroup == "word" and value.lower() in KEYWORDS else match.lastgroup
        found.append((kind, value.lower() if kind == "key" else value))
        at = match.end()
    return found


def _name_columns(tokens: list[tuple[str, str]], columns: Iterable[str]) -> list[tuple[str, str]]:
    """The tokens with columns as they are written; SQL takes `Style` for `style`, Milvus does not."""
    named: dict[str, set[str]] = {}
    for column in columns:
        named.setdefault(column.lower(), set()).add(column)
    found = []
    for kind, value in tokens:
        meant = named.get(value.lower(), set()) if kind == "word" else {value}
        if len(meant) != 1:  # nobody has it, or it is not said which
            raise Untranslatable
        found.append((kind, next(iter(meant))))
    return found


def _any_of(tokens: list[tuple[str, str]], at: int) -> tuple[str, int]:
    return _join(tokens, at, "or", _all_of)


def _all_of(tokens: list[tuple[str, str]], at: int) -> tuple[str, int]:
    return _join(tokens, at, "and", _one)


def _join(tokens: list[tuple[str, str]], at: int, word: str, part: object) -> tuple[str, int]:
    parts = []
    while True:
        made, at = part(tokens, at)  # type: ignore[operator]
        parts.append(made)
        if tokens[at : at + 1] != [("key", word)]:
            return (parts[0] if len(parts) == 1 else "(" + f" {word} ".join(parts) + ")"), at
        at += 1


def _one(tokens: list[tuple[str, str]], at: int) -> tuple[str, int]:
    kinds = [kind for kind, _ in tokens[at : at + 3]]
    values = [value for _, value in tokens[at : at + 3]]
    if values[:1] == ["("] and kinds[:1] == ["sign"]:
        made, at = _any_of(tokens, at + 1)
        if tokens[at : at + 1] != [("sign", ")")]:
            raise Untranslatable
        return made, at + 1
    if kinds == ["word", "sign", "number"] or kinds == ["word", "sign", "text"]:
        if values[1] not in SIGNS:
            raise Untranslatable
        return f"{_column(values[0])} {SIGNS[values[1]]} {_literal(kinds[2], values[2])}", at + 3
    if kinds == ["word", "key", "sign"] and values[1:] == ["in", "("]:
        choices, at = [], at + 3
        while True:
            if at + 1 >= len(tokens) or tokens[at][0] not in ("number", "text"):
                raise Untranslatable
            choices.append(
                f"{_column(values[0])} == {_literal(*tokens[at])}"
            )  # Milvus has no IN for parts of a JSON value
            if tokens[at + 1] == ("sign", ")"):
                return "(" + " or ".join(choices) + ")", at + 2
            if tokens[at + 1] != ("sign", ","):
                raise Untranslatable
            at += 2
    raise Untranslatable


def _column(name: str) -> str:
    return name if name in OWN else f'metadata["{name}"]'


def _literal(kind: str, value: str) -> str:
    return value if kind == "number" else json.dumps(value[1:-1].replace("''", "'"), ensure_ascii=False)
