"""Texts that differ in case and accents alone, as a regular expression for the rows' own engine: `pena` is Peña."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import chain

from bowerbird.knowledge.search.words import ACCENTS, LETTERS

MOST_CHARACTERS = 200
"""Of a text that is compared so: a longer pattern would take the engine more memory than it allows."""
_ALPHABETS = ((0xC0, 0x250), (0x370, 0x530), (0x1E00, 0x2000), (0xFB00, 0xFB07))
"""Latin, Greek and Cyrillic, and ligatures."""
_MARKS = f"{ACCENTS.pattern}*"


def same_but_accents(value: str) -> str | None:
    """A regular expression (of Rust, as LanceDB reads it; to be used in any case) for the texts that are `value` but
    for case, accents, and letters typed without them (`ae` for æ); None for one without such letters, or too long."""
    units = list(chain.from_iterable(_units(character) for character in unicodedata.normalize("NFC", value)))
    written, at, variants = "", 0, _variants()
    if len(units) > MOST_CHARACTERS or variants.keys().isdisjoint(units):
        return None
    while at < len(units):
        pair = "".join(units[at : at + 2])
        each = [_one(unit, variants) for unit in units[at : at + 2]]
        both = len(each) == 2 and pair in variants
        written += f"(?:{each[0]}{each[1]}|[{variants[pair]}]{_MARKS})" if both else each[0]
        at += 2 if both else 1
    return written


def _units(character: str) -> list[str]:
    """A character as the letters that it is typed with."""
    if ACCENTS.fullmatch(character):
        return []
    plain = _plain(character)
    known = plain == character.casefold() or character in _variants().get(plain, "")
    return list(plain) if known else [character]


def _one(unit: str, variants: dict[str, str]) -> str:
    if unit in variants:
        return f"[{re.escape(unit)}{variants[unit]}]{_MARKS}"
    apart = unicodedata.normalize("NFD", unit)  # as macOS writes names
    escaped = re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", unit)
    return escaped if apart == unit else f"(?:{escaped}|{apart})"


def _plain(character: str) -> str:
    apart = ACCENTS.sub("", unicodedata.normalize("NFD", character.casefold()))
    return unicodedata.normalize("NFC", apart).translate(LETTERS)


@cache
def _variants() -> dict[str, str]:
    """The letters with accents by what they are typed as: one letter, or two."""
    made: dict[str, str] = {}
    for character in map(chr, chain(LETTERS, *(range(*ends) for ends in _ALPHABETS))):
        plain = _plain(character)
        if plain != character.casefold() or len(plain) == 2:
            made[plain] = made.get(plain, "") + character
    return {plain: "".join(dict.fromkeys(found)) for plain, found in made.items() if 1 <= len(plain) <= 2}
