"""What a search says of the neighbors it found, as a person reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ITEM = re.compile(r"(?P<what>[^:]+: )\d+ (?P<caption>'.*|\".*)", re.DOTALL)


def readable(notes: Iterable[str]) -> list[str]:
    """Notes of a search, each once; of those that say the same of several items one line, without their numbers, which
    records have."""
    lines: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        found = _ITEM.fullmatch(note)
        if found is None:
            lines[note] = []
        else:
            lines.setdefault(found["what"], []).append(found["caption"])
    return [what + ", ".join(dict.fromkeys(captions)) for what, captions in lines.items()]
