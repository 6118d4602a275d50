"""A scene's structure and its caption: which things, in which colors and sizes, where, on which ground.

Both are drawn from a generator alone, so that a scene is the same wherever it is composed; the structure stays beside
the picture, and a claim can look where the caption says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bowerbird.data.scenes.vocabulary import Vocabulary
from bowerbird.data.scenes.words import COLORS, FORMS, SHAPES, SIZES, are_distinct, invented_name, with_article

GRID = 64
"""Boxes are in parts of so many of the picture's edge."""
SHAPE = -1
"""The row of a thing that code draws."""
WHOLE = "whole"
"""The size of a drawing that is shown as it is: nothing is said of it."""
LENGTHS = {
    1: {"small": 0.34, "": 0.66, "big": 0.92},
    2: {"small": 0.2, "": 0.35, "big": 0.52},
    3: {"": 0.27},
}
"""The longer edge of a thing in parts of the picture's, by how many things there are."""
COUNTS = (0.25, 0.5, 0.25)
"""How often there are one, two or three things."""


@dataclass(frozen=True)
class Thing:
    """One thing: `row` of the vocabulary (`SHAPE`: a plain shape), its `color` (None: its own), its `size`, and its
    `box` (x0, y0, x1, y1) in parts of `GRID`."""

    name: str
    row: int
    color: str | None = None
    size: str = ""
    box: tuple[int, int, int, int] = (0, 0, GRID, GRID)


@dataclass(frozen=True)
class Scene:
    """`things` from the left, or from above, as `relation` says (`FORMS`); `ground`: a color's name, or `#rrggbb` where
    nothing is said of it; `style` of the drawings, empty where there is none."""

    things: tuple[Thing, ...]
    relation: str = ""
    ground: str = "white"
    style: str = ""


def whole_drawing(vocabulary: Vocabulary, row: int) -> Scene:
    """The drawing at `row` as it is, on white."""
    return Scene((Thing(vocabulary.names[row], row, size=WHOLE),), style=vocabulary.styles[row])


def renamed(scene: Scene, rng: np.random.Generator) -> Scene:
    """`scene` with names that nobody uses for its drawings; shapes keep theirs."""
    things = [thing if thing.row == SHAPE else replace(thing, name=invented_name(rng)) for thing in scene.things]
    return replace(scene, things=tuple(things))


def draw_scene(vocabulary: Vocabulary, rng: np.random.Generator) -> Scene:
    """One to three things on a ground: plain shapes in any color, and drawings of one style, in another color where
    they are of one color. What is named differs from the ground to the eye, and no two things have the same name and
    color."""
    count = 1 + int(rng.choice(3, p=COUNTS))
    ground = "white" if rng.random() < 0.45 else str(rng.choice(list(COLORS)))
    style = str(rng.choice(list(vocabulary.by_style))) if len(vocabulary) else ""
    sizes = _sizes(count, rng)
    things: list[Thing] = []
    while len(things) < count:
        thing = _draw_thing(vocabulary, style, ground, rng)
        if all((thing.name, thing.color) != (other.name, other.color) for other in things):
            things.append(replace(thing, size=sizes[len(things)]))
    style = style if any(thing.row != SHAPE for thing in things) else ""
    if count == 1:
        return Scene((_alone(vocabulary, things[0], rng),), "", ground, style)
    relation = str(rng.choice(["left", "above", "and"] if count == 2 else ["row", "between"]))
    upright = relation == "above" or (relation == "and" and rng.random() < 0.3)
    placed = _in_a_row(vocabulary, things, upright, rng)
    return Scene(tuple(placed), relation, ground, style)


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """A sentence that says what the scene is: the plainest without a generator, else one of many; the style and a
    white ground are then mostly left unsaid."""

    def choose(share: float) -> bool:
        return rng is not None and bool(rng.random() < share)

    forms = FORMS[scene.relation]
    form = forms[0] if rng is None else forms[int(rng.integers(len(forms)))]
    phrases = [_phrase(thing) for thing in scene.things]
    bare = len(phrases) == 1 and choose(0.3)
    text = form.format(*(phrases if bare else [with_article(phrase) for phrase in phrases]))
    if not bare and choose(0.15):
        text = f"a {'drawing' if choose(0.5) else 'picture'} of {text}"
    if scene.ground != "white" or (scene.things[0].size != WHOLE and choose(0.2)):
        text += f" on {with_article(scene.ground + ' background')}" if choose(0.5) else f" on {scene.ground}"
    if scene.style and choose(0.6 if scene.things[0].size == WHOLE else 0.4):
        text += f" in {scene.style} style" if choose(0.3) else f", {scene.style} style"
    return text


def _phrase(thing: Thing) -> str:
    words = ["" if thing.size == WHOLE else thing.size, thing.color or "", thing.name]
    return " ".join(word for word in words if word)


def _sizes(count: int, rng: np.random.Generator) -> list[str]:
    """A size for each thing; two big ones do not fit, and of three none is named."""
    if count == 3:
        return ["", "", ""]
    while True:
        sizes = [str(size) for size in rng.choice(SIZES, size=count, p=[0.25, 0.5, 0.25])]
        if sizes.count("big") < 2:
            return sizes


def _draw_thing(vocabulary: Vocabulary, style: str, ground: str, rng: np.random.Generator) -> Thing:
    colors = [name for name in COLORS if are_distinct(name, ground)]
    color = str(rng.choice(colors))
    if not len(vocabulary) or rng.random() < 0.45:
        return Thing(str(rng.choice(SHAPES)), SHAPE, color)
    row = int(rng.choice(vocabulary.by_style[style]))
    recolored = vocabulary.recolorable[row] and rng.random() < 0.5
    return Thing(vocabulary.names[row], row, color if recolored else None)


def _extent(vocabulary: Vocabulary, thing: Thing, count: int, rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of a thing on the grid, with the proportions of its drawing."""
    longest = GRID * LENGTHS[count][thing.size] * rng.uniform(0.94, 1.06)
    x0, y0, x1, y1 = (0, 0, 1, 1) if thing.row == SHAPE else vocabulary.boxes[thing.row]
    wide, high = x1 - x0, y1 - y0
    scale = longest / max(wide, high)
    return max(2, round(wide * scale)), max(2, round(high * scale))


def _alone(vocabulary: Vocabulary, thing: Thing, rng: np.random.Generator) -> Thing:
    wide, high = _extent(vocabulary, thing, 1, rng)
    x, y = (round((GRID - edge) * rng.uniform(0.3, 0.7)) for edge in (wide, high))
    return replace(thing, box=(x, y, x + wide, y + high))


def _in_a_row(vocabulary: Vocabulary, things: list[Thing], upright: bool, rng: np.random.Generator) -> list[Thing]:
    """The things from the left to the right, or from above down where `upright`, with room between them."""
    extents = [_extent(vocabulary, thing, len(things), rng) for thing in things]
    along = [extent[upright] for extent in extents]
    shares = rng.uniform(0.6, 1.4, len(things) + 1)
    gaps = (GRID - sum(along)) * shares / shares.sum()
    placed, at = [], 0.0
    for thing, (wide, high), gap, length in zip(things, extents, gaps, along, strict=False):
        at += float(gap)
        start = round(at)
        across = GRID - (wide if upright else high)
        side = round(across / 2 + rng.uniform(-1, 1) * min(6, across / 2))
        x, y = (side, start) if upright else (start, side)
        placed.append(replace(thing, box=(x, y, x + wide, y + high)))
        at += length
    return placed
