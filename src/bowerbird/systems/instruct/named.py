"""Which thing an instruction names that the picture does not show yet: what is looked for in a knowledge base."""

from __future__ import annotations

import re

from bowerbird.data.scenes.words import COLORS, SIZES

ARTICLE = re.compile(r"\b(?:a|an)\s+(.+)")
BARE = re.compile(r"\b(?:add|with|draw|give it|give (?:him|her|them)|wearing)\s+(.+)")
AFTER = re.compile(
    r"\s+(?:to|on|in|into|at|of|left|right|above|below|under|over|beside|next|near|behind|between|and|for|with|instead"
    r"|please)\b.*|[,.;!?].*"
)
"""What ends a name."""
DEFINITE = ("the ", "it", "its ", "his ", "her ", "their ", "all ", "no ")
NO_THING = ("background", "style", "color", "colour", "one", "light", "look")
PLAIN = frozenset(word for name in (*COLORS, *SIZES) for word in name.split())


def named_thing(instruction: str) -> str | None:
    """The thing that comes in by an instruction, without its article: `wolf` of "replace the cat with a wolf". None
    where it names none: what has a definite article is there already, and colors, grounds and styles are no things."""
    text = " ".join(instruction.lower().split())
    for pattern in (ARTICLE, BARE):
        for found in pattern.finditer(text):
            name = AFTER.sub("", found.group(1)).strip()
            words = name.split()
            if not words or name.startswith(DEFINITE) or words[-1] in NO_THING or set(words) <= PLAIN:
                continue
            return name
    return None
