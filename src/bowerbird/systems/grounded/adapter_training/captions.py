"""What a person might ask for a picture with: by its name, or by a word that says nothing, so that the reference has
to say what it is."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from bowerbird.data.scenes.grammar import SHAPE, WHOLE, Scene, Thing, caption, renamed

PRONOUNS = ("it", "this", "this thing", "something")
NOUNS = ("thing", "object", "picture", "drawing")
PLACEHOLDER = "zzz"


def drawing(name: str, style: str) -> Scene:
    """One drawing as it is, called `name`."""
    return Scene((Thing(name, 0, size=WHOLE),), style=style)


def named_captions(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    """`count` captions that name every thing; the first says the name alone, as most prompts do."""
    first = caption(replace(scene, style=""))
    return [first, *(caption(scene, rng) for _ in range(count - 1))]


def nameless_captions(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    """`count` captions in which what is drawn is `it`, a `thing`, or has a name that nobody uses; shapes, colors, sides
    and sizes are said as they are."""
    return [_nameless(scene, rng) for _ in range(count)]


def _nameless(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() < 0.6:
        return caption(renamed(scene, rng), rng)
    things = [thing if thing.row == SHAPE else replace(thing, name=PLACEHOLDER) for thing in scene.things]
    text = caption(replace(scene, things=tuple(things)), rng)
    text = re.sub(rf"\ba {PLACEHOLDER}\b", lambda _: str(rng.choice(PRONOUNS)), text)
    return text.replace(PLACEHOLDER, str(rng.choice(NOUNS)))
