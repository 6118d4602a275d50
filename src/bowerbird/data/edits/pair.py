"""An edit as data: which two pictures, and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.data.edits.wordings import invented_name, wordings
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.grammar import Scene
from bowerbird.data.scenes.render import render
from bowerbird.data.scenes.vocabulary import Vocabulary
from bowerbird.data.scenes.words import with_article

NONE = -1
ARTICLE = ("become", "person", "replace", "add")
"""The kinds of edits whose first word is a thing that comes in: a wolf, an owl, grapes."""
SAID = "said"
"""The kind of an edit whose one word is the whole instruction."""
CHANGES = ("", "mirror", "upside down", "gray", "negative", "darker", "lighter")
"""What can be done to a picture as a whole."""
LIGHT = 0.35
"""How far `darker` and `lighter` go towards black and white."""
PART = 256
"""Pictures that are drawn at once."""


@dataclass(frozen=True)
class Shown:
    """A picture: a scene, and one of `CHANGES` to all of it."""

    scene: Scene
    change: str = ""


@dataclass(frozen=True)
class Edit:
    """From one picture to another, by their numbers in a list: its `kind` (of `WORDINGS`, or `SAID`) and the `words`
    that fill a wording. `drawing`: the row of the vocabulary that the first word names, from which a reference can be
    chosen."""

    source: int
    target: int
    kind: str
    words: tuple[str, ...] = ()
    drawing: int = NONE


@dataclass
class Edits:
    """Edits with the pictures they are of, each held once. `groups`: the edits of each part of the data, by number."""

    shown: list[Shown] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    groups: dict[str, list[int]] = field(default_factory=dict)
    _known: dict[Shown, int] = field(default_factory=dict, repr=False, compare=False)

    def picture(self, shown: Shown) -> int:
        """The number of a picture, which joins where it is not there yet."""
        if shown not in self._known:
            self._known[shown] = len(self.shown)
            self.shown.append(shown)
        return self._known[shown]

    def add(
        self, group: str, source: Shown, target: Shown, kind: str, words: tuple[str, ...] = (), drawing: int = NONE
    ) -> None:
        """One more edit, in a part of the data."""
        self.groups.setdefault(group, []).append(len(self.edits))
        self.edits.append(Edit(self.picture(source), self.picture(target), kind, words, drawing))


def instruction(edit: Edit, rng: np.random.Generator, *, held_out: bool = False, invented: bool = False) -> str:
    """The edit in words, by one of the wordings that are trained on or `held_out`; `invented`: what it names is called
    by a word that means nothing."""
    if edit.kind == SAID:
        return edit.words[0]
    found = wordings(edit.kind, held_out=held_out)
    wording = found[int(rng.integers(len(found)))]
    words = list(edit.words)
    if invented:
        words[0] = invented_name(rng)
    if edit.kind in ARTICLE and (wording != "{0}" or rng.random() < 0.5):
        words[0] = with_article(words[0])
    return wording.format(*words)


def render_shown(shown: Sequence[Shown], vocabulary: Vocabulary, pictures: Pictures, size: int) -> Tensor:
    """Float `(n, 3, size, size)` in [-1, 1]."""
    drawn = render([each.scene for each in shown], vocabulary, pictures, size)
    for i, each in enumerate(shown):
        if each.change:
            drawn[i] = change_whole(drawn[i], each.change)
    return drawn


def change_whole(x: Tensor, change: str) -> Tensor:
    """A picture `(3, h, w)` in [-1, 1] under one of `CHANGES`."""
    if change == "mirror":
        return x.flip(-1)
    if change == "upside down":
        return x.flip(-2)
    if change == "gray":
        return (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True).expand_as(x)
    if change == "negative":
        return -x
    if change in ("darker", "lighter"):
        return x + LIGHT * ((-1.0 if change == "darker" else 1.0) - x)
    return x


def small_pictures(pictures: Pictures, edge: int) -> Tensor:
    """All pictures at a small edge, float in [0, 1] `(n, 3, edge, edge)`, to compare them."""
    stride = max(1, pictures.size // (2 * edge))
    parts = torch.split(pictures.pixels[:, :, ::stride, ::stride], 1024)
    return torch.cat([F.adaptive_avg_pool2d(part.float() / 255, edge) for part in parts])
