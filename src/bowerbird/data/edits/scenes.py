"""Edits of scenes: a thing added, removed, moved, in another color, another size or replaced, two exchanged, another
ground. Each is made both ways where the other way has words too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bowerbird.core import seeds
from bowerbird.data.edits.pair import NONE, Edits, Shown
from bowerbird.data.scenes.grammar import GRID, SHAPE, Scene, Thing, draw_scene
from bowerbird.data.scenes.vocabulary import Vocabulary
from bowerbird.data.scenes.words import COLORS, SHAPES, are_distinct

GROUP = "scene"
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
LEAST_MOVE, MARGIN = 8, 2
"""In parts of the grid: what a move moves at least, and what stays between a thing and the edge."""
ZOOM = 1.6
Box = tuple[int, int, int, int]
Make = Callable[[Edits, Vocabulary, Scene, np.random.Generator], None]


def add_scenes(edits: Edits, vocabulary: Vocabulary, count: int, each: int, seed: int) -> None:
    """`each` edits of `count` scenes of the things in `vocabulary`, whose rows in an edit are those of the pictures
    (`vocabulary.rows`)."""
    rng = seeds.numpy_generator(seed, "edited scenes")
    for _ in range(count):
        scene = draw_scene(vocabulary, rng)
        for number in rng.permutation(len(MAKES))[: each + 2]:
            MAKES[int(number)](edits, vocabulary, scene, rng)


def _shown(vocabulary: Vocabulary, scene: Scene) -> Shown:
    """The scene with rows of the pictures in place of rows of the vocabulary."""
    things = tuple(
        thing if thing.row == SHAPE else replace(thing, row=vocabulary.rows[thing.row]) for thing in scene.things
    )
    return Shown(replace(scene, things=things))


def _both(
    edits: Edits,
    vocabulary: Vocabulary,
    before: Scene,
    after: Scene,
    there: tuple[str, tuple[str, ...], int],
    back: tuple[str, tuple[str, ...], int] | None,
) -> None:
    first, second = _shown(vocabulary, before), _shown(vocabulary, after)
    edits.add(f"{GROUP}: {there[0]}", first, second, *there)
    if back is not None:
        edits.add(f"{GROUP}: {back[0]}", second, first, *back)


def _drawing(vocabulary: Vocabulary, thing: Thing) -> int:
    """The row of the pictures of a drawing in its own color, from which a reference can be chosen."""
    return NONE if thing.row == SHAPE or thing.color is not None else vocabulary.rows[thing.row]


def _called(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """What a thing is called in a scene: by its color too where its name is not enough, or at times."""
    alone = sum(other.name == thing.name for other in scene.things) == 1
    return thing.name if alone and (thing.color is None or rng.random() < 0.5) else _phrase(thing)


def _phrase(thing: Thing) -> str:
    return f"{thing.color} {thing.name}" if thing.color else thing.name


def _with(scene: Scene, number: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:number], thing, *scene.things[number + 1 :]))


def _place(thing: Thing, other: Thing) -> str:
    """Where a thing lies from another."""
    (ax, ay), (bx, by) = _center(thing.box), _center(other.box)
    if abs(ax - bx) >= abs(ay - by):
        return f"{'left' if ax < bx else 'right'} of the {other.name}"
    return f"{'above' if ay < by else 'below'} the {other.name}"


def _center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _add_and_remove(edits: Edits, vocabulary: Vocabulary, scene: Scene, rng: np.random.Generator) -> None:
    if len(scene.things) < 2:
        return
    number = int(rng.integers(len(scene.things)))
    thing = scene.things[number]
    others = (*scene.things[:number], *scene.things[number + 1 :])
    without = replace(scene, things=others)
    near = others[min(number, len(others) - 1)]
    added = ("add", (_phrase(thing), _place(thing, near)), _drawing(vocabulary, thing))
    _both(edits, vocabulary, scene, without, ("remove", (_called(scene, thing, rng),), NONE), added)


def _recolor(edits: Edits, vocabulary: Vocabulary, scene: Scene, rng: np.random.Generator) -> None:
    number = int(rng.integers(len(scene.things)))
    thing = scene.things[number]
    if thing.row != SHAPE and not vocabulary.recolorable[thing.row]:
        return
    color = str(rng.choice([each for each in COLORS if are_distinct(each, scene.ground) and each != thing.color]))
    if thing.color is not None and not are_distinct(color, thing.color):
        return
    other = replace(thing, color=color)
    after = _with(scene, number, other)
    back = None if thing.color is None else ("recolor", (thing.color, _called(after, other, rng)), NONE)
    _both(edits, vocabulary, scene, after, ("recolor", (color, _called(scene, thing, rng)), NONE), back)


def _replace(edits: Edits, vocabulary: Vocabulary, scene: Scene, rng: np.random.Generator) -> None:
    number = int(rng.integers(len(scene.things)))
    thing = scene.things[number]
    other = _another(vocabulary, scene, rng)
    if other is None or any((other.name, other.color) == (each.name, each.color) for each in scene.things):
        return
    other = replace(other, size=thing.size, box=_box_of(vocabulary, other, thing.box))
    after = _with(scene, number, other)
    there = ("replace", (_phrase(other), _called(scene, thing, rng)), _drawing(vocabulary, other))
    back = ("replace", (_phrase(thing), _called(after, other, rng)), _drawing(vocabulary, thing))
    _both(edits, vocabulary, scene, after, there, back)


def _another(vocabulary: Vocabulary, scene: Scene, rng: np.random.Generator) -> Thing | None:
    if len(vocabulary) and rng.random() < 0.75:
        style = scene.style or str(rng.choice(list(vocabulary.by_style)))
        row = int(rng.choice(vocabulary.by_style[style]))
        return Thing(vocabulary.names[row], row)
    colors = [color for color in COLORS if are_distinct(color, scene.ground)]
    return Thing(str(rng.choice(SHAPES)), SHAPE, str(rng.choice(colors)))


def _box_of(vocabulary: Vocabulary, thing: Thing, box: Box) -> Box:
    """A box for `thing` with the middle and the longer edge of `box`."""
    x0, y0, x1, y1 = (0, 0, 1, 1) if thing.row == SHAPE else vocabulary.boxes[thing.row]
    wide, high = x1 - x0, y1 - y0
    scale = max(box[2] - box[0], box[3] - box[1]) / max(wide, high)
    return _around(_center(box), max(2, round(wide * scale)), max(2, round(high * scale)))


def _around(center: tuple[float, float], wide: int, high: int) -> Box:
    """A box of this size as near to `center` as the picture allows."""
    x = min(max(0, round(center[0] - wide / 2)), max(0, GRID - wide))
    y = min(max(0, round(center[1] - high / 2)), max(0, GRID - high))
    return x, y, min(GRID, x + wide), min(GRID, y + high)


def _move(edits: Edits, vocabulary: Vocabulary, scene: Scene, rng: np.random.Generator) -> None:
    if len(scene.things) > 1:
        return
    thing, (word, (right, down)) = scene.things[0], list(DIRECTIONS.items())[int(rng.integers(4))]
    x0, y0, x1, y1 = thing.box
    room = (GRID - x1 if right > 0 else x0) if right else (GRID - y1 if down > 0 else y0)
    if room - MARGIN < LEAST_MOVE:
        return
    far = room - MARGIN
    after = _with(scene, 0, replace(thing, box=(x0 + right * far, y0 + down * far, x1 + right * far, y1 + down * far)))
    _both(edits, vocabulary, scene, after, ("move", (word, thing.name), NONE), None)


def _exchange(edits: Edits, vocabulary: Vocabulary, scene: Scene, rng: np.random.Generator) -> None:
    if len(scene.things) != 2:
        return
    a, b = scene.things
    first = replace(a, box=_around(_center(b.box), a.box[2] - a.box[0], a.box[3] - a.box[1]))
    second = replace(b, box=_around(_center(a.box), b.box[2] - b.box[0], b.box[3] - b.box[1]))
    words = (_called(scene, a, rng), _called(scene, b, rng))
    _both(edits, vocabulary, scene, replace(scene, things=(first, second)), ("exchange", words, NONE), None)


def _resize(edits: Edits, vocabulary: Vocabulary, scene: Scene, rng: np.random.Generator) -> None:
    if len(scene.things) > 1:
        return
    thing = scene.things[0]
    wide, high = thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]
    larger = max(wide, high) < GRID / 2
    factor = ZOOM if larger else 1 / ZOOM
    box = _around(_center(thing.box), round(wide * factor), round(high * factor))
    after = _with(scene, 0, replace(thing, box=box))
    names = ("bigger", "smaller") if larger else ("smaller", "bigger")
    _both(edits, vocabulary, scene, after, (names[0], (thing.name,), NONE), (names[1], (thing.name,), NONE))


def _ground(edits: Edits, vocabulary: Vocabulary, scene: Scene, rng: np.random.Generator) -> None:
    shown = [thing.color for thing in scene.things if thing.color is not None]
    colors = [
        color for color in COLORS if are_distinct(color, scene.ground) and all(are_distinct(color, c) for c in shown)
    ]
    ground = str(rng.choice(colors))
    after = replace(scene, ground=ground)
    _both(edits, vocabulary, scene, after, ("ground", (ground,), NONE), ("ground", (scene.ground,), NONE))


MAKES: tuple[Make, ...] = (_add_and_remove, _recolor, _replace, _move, _exchange, _resize, _ground)
