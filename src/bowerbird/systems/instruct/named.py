"""Which thing an instruction names that the picture does not show yet: what is looked for in a knowledge base."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bowerbird.data.scenes.words import COLORS, SIZES, of_several

CLAUSE = re.compile(
    r"[,;!?]|(?<!\bst)(?<!\bdr)(?<!\bmr)(?<!\bmrs)\.(?!\d)"
    r"|\b(?:edits?|changes?|instructions?|notes?|please|this|that|these|things?)\s*:"
    r"|:(?=\s*(?:an?|the|some|its?|add|give|make|put|turn|change|draw|remove|delete|erase|replace|swap|keep|leave|no|not"
    r"|with|without)\b)"
    r"|\band\b|\bthen\b|\bbut(?=\s+(?:add|give|make|put|turn|change|draw|with|keep|leave|no|not)\b)"
)
"""Between clauses; a colon may stand in a name (`flag: Peru`), and so may a dot (`Mrs. Claus`)."""
GONE = re.compile(
    r"(?:please\s+)?(?:remove|delete|erase|drop|hide|no|keep|leave|get\s+rid|take\b(?=.*\b(?:away|out|off)\b))\b"
)
"""How a clause begins that says what leaves, or stays as it is."""
WITHOUT = re.compile(r"\bwithout\b.*")
CHANGED = re.compile(
    r"\b(?:replace|swap|exchange|trade)\b.*?\b(?:with|for|into|to|by)\s+(?!the\b)(?P<other>.+)"
    r"|\b(?:turn|change|transform|convert|make)\b.*?\b(?:into|to(?!\s+face\b))\s+(?P<new>.+)"
)
"""A change of one thing into another: what comes in stands behind, with an article or without. Only what takes its
place comes `with` it: a wolf with a hat is a wolf."""
MARKED = re.compile(r"\b(?:a|an|some|two|three|four|five|several|many)\s+(.+)")
BARE = re.compile(r"\b(?:add|with|draw|put|give it|give (?:him|her|them)|wearing|become|becomes)\s+(.+)")
SEVERAL = re.compile(r"\b(?:make|turn)\s+(?:it|this|that|them|him|her)\s+(.+)")
"""What it becomes, where that is in the plural; in the singular, without an article, it is an adjective."""
STYLE = re.compile(r"\b(?:in|of|to|into)?\s*the\s+style\s+of\b.*|\blooks?\s+like\b")
AMOUNT = re.compile(
    r"\b(?:half\s+)?an?\s+(?:bit|lot|touch|tad|hint|shade|quarter|third|half|size|degree)s?\b(?:\s+of\b)?"
    r"|\ba\s+little\b(?=\s+(?:more|less|to|\w+er)\b|\s*\Z)"
)
"""How much, which is no thing: `a bit darker`."""
COUNTED = re.compile(
    r"^(?:(?:an?|some|more|two|three|four|five|several|many|few|lots|pair|couple|bunch|group)\s+(?:of\s+)?)+"
)
AFTER = re.compile(
    r"\s+(?:to|on|in|into|at|of(?=\s+(?:an?|the|this|that|its|his|her|their|them)\b)|left|right|above|below|under|over"
    r"|beside|next|near|behind|between|around|from|by|for|with|instead|please|that|which|who|while|so|everywhere)\b.*"
)
"""What ends a name; `of` mostly belongs to one, as in `flag of Japan`."""
ONE = re.compile(r"an?\s+")
DEFINITE = re.compile(r"(?:the|it|its|this|that|him|his|her|their|them|all|no|both|every\w*|look(?:s|ing)?)\b")
NO_THING = frozenset({
    "background", "ground", "style", "color", "colour", "one", "ones", "light", "lights", "look", "tint", "tone", "hue",
    "shade", "size", "mood", "filter", "effect", "contrast", "brightness", "version", "scene", "side", "half", "way",
    "o'clock",
})  # fmt: skip
MEDIA = frozenset({
    "painting", "watercolor", "watercolour", "sketch", "drawing", "cartoon", "comic", "photo", "photograph", "picture",
    "negative",
})  # fmt: skip
"""What a picture is turned into, and no thing in it; to `add a painting` is to add a thing."""
PLAIN = frozenset({
    *(word for name in (*COLORS, *SIZES) for word in name.split()), "grey", "deep", "dark", "bright", "pale", "vivid",
    "darker", "brighter", "lighter", "bigger", "smaller", "larger",
})  # fmt: skip
BOTH, JOINED = "black and white", "black&white"


def named_thing(instruction: str) -> str | None:
    """The thing that comes in by an instruction in English, without its article: `wolf` of "replace the cat with a
    wolf". None where it names none: what has a definite article is there already, what is removed leaves, and colors,
    amounts, grounds and styles are no things."""
    text = " ".join(instruction.lower().replace("’", "'").split()).replace(BOTH, JOINED)
    text = AMOUNT.sub(" ", STYLE.sub(" ", text))
    for clause in CLAUSE.split(text):
        clause = WITHOUT.sub("", clause.strip())
        if GONE.match(clause):
            continue
        for words, media in _said(clause):
            name = _name(words)
            if name is not None and (media or name.split()[-1] not in MEDIA):
                return name.replace(JOINED, BOTH)
    return None


def _said(clause: str) -> Iterator[tuple[str, bool]]:
    """What may name the thing, the likeliest first, and whether a picture would be a thing there."""
    changed = CHANGED.search(clause)
    if changed is not None:
        words = changed["other"] or changed["new"]
        yield words, False
        if DEFINITE.match(words) is None or MARKED.search(clause) is None:
            return
    for pattern in (MARKED, BARE):
        for found in pattern.finditer(clause):
            yield found[1], clause.startswith(("add", "draw", "put", "give"))
    several = SEVERAL.search(clause)
    if several is not None and of_several(several[1].split()[-1]):
        yield several[1], False


def _name(words: str) -> str | None:
    if DEFINITE.match(words):
        return None
    name = AFTER.sub("", COUNTED.sub("", f"{words.strip()} ")).strip(" :")
    said = name.split()
    if not said or {said[-1], said[-1].removesuffix("s")} & NO_THING or DEFINITE.match(name):
        return None
    if set(said) <= PLAIN | {JOINED} and not (name in COLORS and ONE.match(words)):  # an orange is a fruit
        return None
    return name
