"""Where in the picture a prompt puts its phrases: "left of", "above", "on the right", and no other way of saying it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bowerbird.systems.phrases.phrase import Phrase

Region = tuple[float, float, float, float]
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
X, Y = 0, 1

_FIRST_BEFORE = {
    X: re.compile(r"\s*,?\s*(?:[a-z]+ )?(?:to |on |at )?(?:the )?(left)(?: side)? of\s*"),
    Y: re.compile(r"\s*,?\s*(?:[a-z]+ )?(above|over|on top of|atop)\s*"),
}
_FIRST_AFTER = {
    X: re.compile(r"\s*,?\s*(?:[a-z]+ )?(?:to |on |at )?(?:the )?(right)(?: side)? of\s*"),
    Y: re.compile(r"\s*,?\s*(?:[a-z]+ )?(below|under|beneath|underneath)\s*"),
}
_HALF = re.compile(
    r"\s*,?\s*(?:is |are )?(?:on|at|in|to) the (left|right|top|bottom)(?: side| half)?(?![\w-])(?!\s+of\b)"
)
_HALF_BEFORE = re.compile(
    r"(?:^|[,;.]|\band)\s*(?:on|at|in) the (left|right|top|bottom)(?: side| half)?,?\s*(?:is |are )?$"
)
_SIDE: dict[str, tuple[int, int]] = {"left": (X, 0), "right": (X, 1), "top": (Y, 0), "bottom": (Y, 1)}


def regions_for(prompt: str, phrases: Sequence[Phrase]) -> list[Region]:
    """The part of the picture that each phrase is for, as shares of it (left, top, right, bottom): halves where two
    are put side by side, thirds where three are, the whole where the prompt does not say."""
    order: dict[int, list[tuple[int, int]]] = {X: [], Y: []}
    halves: dict[int, dict[int, int]] = {X: {}, Y: {}}
    text = prompt.casefold() if len(prompt.casefold()) == len(prompt) else prompt
    leads = bool(phrases) and _HALF_BEFORE.search(text[: phrases[0].start]) is not None  # "on the left, a fox"
    for at, phrase in enumerate(phrases):
        following = phrases[at + 1].start if at + 1 < len(phrases) else len(text)
        between = text[phrase.end : following]
        for axis in (X, Y):
            if at + 1 < len(phrases) and _FIRST_BEFORE[axis].fullmatch(between):
                order[axis].append((at, at + 1))
            elif at + 1 < len(phrases) and _FIRST_AFTER[axis].fullmatch(between):
                order[axis].append((at + 1, at))
        before = text[phrases[at - 1].end if at else 0 : phrase.start]
        said = _HALF_BEFORE.search(before) if leads else _HALF.match(between)
        if said is not None:
            axis, side = _SIDE[said[1]]
            halves[axis][at] = side
    columns, rows = (_shares(len(phrases), order[axis], halves[axis]) for axis in (X, Y))
    return [(x[0], y[0], x[1], y[1]) for x, y in zip(columns, rows, strict=True)]


def _shares(count: int, order: Sequence[tuple[int, int]], halves: dict[int, int]) -> list[tuple[float, float]]:
    """The share of one axis that each phrase has, from what is before what, and what is in which half."""
    ranks = dict.fromkeys({at for pair in order for at in pair}, 0)
    for _ in ranks:  # each is said of neighbors in the prompt, so there is no circle
        for first, second in order:
            ranks[second] = max(ranks[second], ranks[first] + 1)
    parts = max(ranks.values(), default=0) + 1
    shares: list[tuple[float, float]] = []
    for at in range(count):
        if at in ranks:
            shares.append((ranks[at] / parts, (ranks[at] + 1) / parts))
        elif at in halves:
            shares.append((halves[at] / 2, (halves[at] + 1) / 2))
        else:
            shares.append((0.0, 1.0))
    return shares
