"""Grounds and places that nothing is said of: people draw on cream paper, and not up to its edges, and an edit has to
leave that as it is."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np

from bowerbird.core import seeds
from bowerbird.data.edits.pair import Edits, Shown
from bowerbird.data.scenes.grammar import GRID, WHOLE, Thing

PLAIN = "white"
PALEST, STRONGEST, DARKEST = 0.02, 0.4, 0.75
"""Saturation, from and to, and the least brightness of such a ground: what is drawn in strong colors stays visible."""
SMALLEST = 0.5
"""Edge of a drawing that does not fill the picture, in parts of the picture's."""
FULL = (0, 0, GRID, GRID)


def vary_surroundings(edits: Edits, grounds: float, placed: float, seed: int) -> Edits:
    """`edits`, of which a share of `grounds` has another light color where there is white, in both pictures, or where
    an edit changes the ground in the first alone; and of those of one whole drawing a share of `placed` has it smaller
    somewhere in both."""
    if grounds <= 0 and placed <= 0:
        return edits
    rng, varied = seeds.numpy_generator(seed, "surroundings"), Edits()
    for group, numbers in edits.groups.items():
        for number in numbers:
            edit = edits.edits[number]
            source, target = edits.shown[edit.source], edits.shown[edit.target]
            if source.scene.ground == PLAIN and rng.random() < grounds:
                ground = light_color(rng)
                source = _on(source, ground)
                target = _on(target, ground) if target.scene.ground == PLAIN and edit.kind != "ground" else target
            if _is_full(source) and _is_full(target) and rng.random() < placed:
                box = _somewhere(rng)
                source, target = _in(source, box), _in(target, box)
            varied.add(group, source, target, edit.kind, edit.words, edit.drawing)
    return varied


def light_color(rng: np.random.Generator) -> str:
    """A light color as `#rrggbb`, mostly a pale one."""
    hue, strength, light = rng.random(3)
    saturation = PALEST + (STRONGEST - PALEST) * strength**1.5
    parts = colorsys.hsv_to_rgb(hue, saturation, DARKEST + (1 - DARKEST) * light**0.5)
    return "#" + "".join(f"{round(part * 255):02x}" for part in parts)


def _on(shown: Shown, ground: str) -> Shown:
    return replace(shown, scene=replace(shown.scene, ground=ground))


def _is_full(shown: Shown) -> bool:
    things = shown.scene.things
    return len(things) == 1 and (things[0].size, things[0].box) == (WHOLE, FULL)


def _somewhere(rng: np.random.Generator) -> tuple[int, int, int, int]:
    edge = int(rng.integers(round(SMALLEST * GRID), GRID))
    x, y = (int(at) for at in rng.integers(GRID - edge + 1, size=2))
    return x, y, x + edge, y + edge


def _in(shown: Shown, box: tuple[int, int, int, int]) -> Shown:
    (thing,) = shown.scene.things
    moved: Thing = replace(thing, box=box)
    return replace(shown, scene=replace(shown.scene, things=(moved,)))
