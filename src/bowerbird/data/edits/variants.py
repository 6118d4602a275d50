"""Edits between drawings as the collections have them: one thing in another style or color, with and without a part, at
another hour; and two things of one kind that agree in most of the picture."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import seeds
from bowerbird.data.edits.pair import NONE, Edits, Shown, small_pictures
from bowerbird.data.edits.wordings import is_held_out
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.grammar import WHOLE, Scene, Thing
from bowerbird.data.scenes.words import COLORS

EDGE, APART, LEAST, MOST = 16, 0.15, 0.02, 0.4
"""Two drawings are nearly the same where, at this edge, a share from `LEAST` to `MOST` of the places differs in any
color by more than `APART`."""
STYLES = 8
"""Of how many styles a kind of edit is meant to be, where each is a group."""
PEOPLE = ("man", "woman", "person", "boy", "girl", "child", "men", "women", "people")
FACING = "facing right"
COLOR_WORDS = {**{color: color for color in COLORS}, "grey": "gray"}
Found = tuple[int, int, str, tuple[str, ...], int]
"""Rows of the source and of the target, the kind, its words, and the drawing that is named."""


def whole(row: int, name: str = "", color: str | None = None, ground: str = "white") -> Scene:
    """The drawing in this row as it is, or in a color, on a ground."""
    return Scene((Thing(name, row, color, WHOLE),), ground=ground)


def find_variants(pictures: Pictures, *, style_key: str | None, group_key: str | None) -> list[Found]:
    """Every edit between two drawings of `pictures`, by their rows."""
    names = [plain(caption) for caption in pictures.captions]
    styles = pictures.column(style_key) if style_key else [""] * len(pictures)
    groups = pictures.column(group_key) if group_key else [""] * len(pictures)
    return [*_by_name(names, styles), *_by_look(pictures, names, styles, groups)]


def add_variants(
    edits: Edits,
    found: Sequence[Found],
    pictures: Pictures,
    each: int,
    seed: int,
    *,
    style_key: str | None = None,
    held_out: bool,
) -> None:
    """At most `each` edits of each kind of those `found`: of names that may be trained on, or of those that are
    `held_out`. Rows of an edit are rows of `pictures`. What becomes another thing is a group of its own in each style,
    an eighth as large: else most of them would be of the few styles that draw things alike."""
    held = [is_held_out(plain(caption)) for caption in pictures.captions]
    styles = pictures.column(style_key) if style_key else [""] * len(pictures)
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for pair in found:
        source, target, kind = pair[:3]
        if held[target] == held_out and (held_out or not held[source]):
            groups[kind, styles[target] if kind == "become" else ""].append(pair)
    for (kind, style), pairs in sorted(groups.items()):
        most = max(1, each // STYLES) if style else each
        order = seeds.numpy_generator(seed, "variants", kind, style).permutation(len(pairs))[:most]
        name = f"variant: {kind}{style and ', '}{style}"
        for source, target, _, words, drawing in (pairs[i] for i in order):
            edits.add(name, Shown(whole(source)), Shown(whole(target)), kind, words, drawing)


def plain(caption: str) -> str:
    """A name as it is compared and said: small letters, plain apostrophes."""
    return caption.lower().replace("’", "'")


def _by_name(names: list[str], styles: list[str]) -> Iterator[Found]:
    rows: dict[tuple[str, str], int] = {}
    drawn: dict[str, list[int]] = defaultdict(list)
    for row, (style, name) in enumerate(zip(styles, names, strict=True)):
        rows.setdefault((style, name), row)
        drawn[name].append(row)
    for _, same in sorted(drawn.items()):
        yield from _styles(same, styles)
    alike: dict[tuple[str, str, str], list[tuple[int, str]]] = defaultdict(list)
    for (style, name), row in rows.items():
        for kind, stem, word in _parts(name):
            alike[kind, style, stem].append((row, word))
            plain = rows.get((style, stem)) if kind in ("detail", "add part", "mirror") else None
            if plain is not None:
                yield from _with_and_without(kind, plain, row, word)
    for (kind, _, stem), found in sorted(alike.items()):
        if kind in ("add part", "mirror"):
            continue
        for a, _ in found:
            for b, word in found:
                if a != b:
                    yield a, b, kind, (word, stem), NONE


def _styles(rows: list[int], styles: list[str]) -> Iterator[Found]:
    for a in rows:
        for b in rows:
            if styles[a] != styles[b] and styles[b]:
                yield a, b, "style", (styles[b].replace("-", " "),), NONE


def _with_and_without(kind: str, plain: int, row: int, word: str) -> Iterator[Found]:
    if kind == "mirror":
        yield plain, row, "mirror", (), NONE
        yield row, plain, "mirror", (), NONE
    else:
        yield plain, row, kind, (word,), NONE
        if kind == "add part":
            yield row, plain, "remove part", (word,), NONE


def _parts(name: str) -> Iterator[tuple[str, str, str]]:
    """(kind, what a name says without its variant, the variant) for each way to read the name."""
    first, _, rest = name.partition(" ")
    if first in COLOR_WORDS and rest:
        yield "color", rest, COLOR_WORDS[first]
    if first in PEOPLE:
        yield "person", rest, first
    stem, colon, detail = name.rpartition(": ")
    if detail == FACING:
        yield "mirror", stem, detail
    elif colon and first.rstrip(":") in PEOPLE:  # skin and hair, not the countries of flags
        yield "detail", stem, detail
    stem, with_, part = name.partition(" with ")
    if with_ and not colon:
        yield "add part", stem, part
    if re.fullmatch(r"[a-z]+(-thirty| o'clock)", name):
        yield "clock", "clock", name


def _by_look(pictures: Pictures, names: list[str], styles: list[str], groups: list[str]) -> Iterator[Found]:
    """Two things of one style and kind that agree in most of the picture, both ways."""
    small = small_pictures(pictures, EDGE)
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(styles, groups, strict=True)):
        alike[key].append(row)
    for _, rows in sorted(alike.items()):
        for target, source in _near(small, np.array(rows)):
            if names[source] != names[target]:
                yield source, target, "become", (names[target], names[source]), target


def _near(small: Tensor, rows: np.ndarray) -> Iterator[tuple[int, int]]:
    x = small[torch.from_numpy(rows)]
    for at in range(len(rows)):
        share = ((x - x[at]).abs().amax(1) > APART).float().mean((1, 2))
        for other in torch.nonzero((share > LEAST) & (share < MOST))[:, 0].tolist():
            yield int(rows[at]), int(rows[other])
