"""Edits of a whole drawing that code makes: mirrored, turned, other colors, another ground, another thing in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bowerbird.core import seeds
from bowerbird.data.edits.pair import Edits, Shown
from bowerbird.data.edits.variants import whole
from bowerbird.data.scenes.vocabulary import Vocabulary
from bowerbird.data.scenes.words import COLORS, are_distinct

PLAIN = ("mirror", "upside down", "gray", "negative", "darker", "lighter")


def add_wholes(edits: Edits, vocabulary: Vocabulary, rows: Sequence[int], count: int, seed: int) -> None:
    """`count` edits of drawings, each thing called by its name, of the `rows` of the vocabulary alone."""
    rng = seeds.numpy_generator(seed, "wholes")
    by_style: dict[str, list[int]] = {}
    for row in rows:
        by_style.setdefault(vocabulary.styles[row], []).append(row)
    colors = list(COLORS)
    for _ in range(count):
        row = int(rng.choice(rows))
        name, kind = vocabulary.names[row], int(rng.integers(10))
        source = Shown(whole(row))
        if kind < 4:
            change = str(rng.choice(PLAIN))
            edits.add("whole", source, Shown(whole(row), change), change)
        elif kind < 6:
            other = int(rng.choice(by_style[vocabulary.styles[row]]))
            words = (vocabulary.names[other], name)
            edits.add("whole, become", source, Shown(whole(other)), "become", words, other)
        elif kind < 8 and vocabulary.recolorable[row]:
            _recolor(edits, row, name, colors, rng)
        else:
            first, second = (str(color) for color in rng.choice(colors, size=2, replace=False))
            ground = "white" if rng.random() < 0.5 and second != "white" else first
            edits.add("whole", Shown(whole(row, ground=ground)), Shown(whole(row, ground=second)), "ground", (second,))


def add_becoming(
    edits: Edits, names: Sequence[str], styles: Sequence[str], rows: Sequence[int], count: int, seed: int
) -> None:
    """At most `count` edits of a drawing into any other of its style, of these `rows` of the `names` and `styles`: what
    people ask for, where drawings that agree in most of the picture are of nearly the same colors. Each style is a
    group; names that agree are left out."""
    rng = seeds.numpy_generator(seed, "becoming")
    by_style: dict[str, list[int]] = {}
    for row in rows:
        by_style.setdefault(styles[row], []).append(row)
    several = sorted(style for style, drawn in by_style.items() if len(drawn) > 1)
    for _ in range(count if several else 0):
        style = str(rng.choice(several))
        row, other = (int(each) for each in rng.choice(by_style[style], size=2, replace=False))
        if names[row] != names[other]:
            words = (names[other], names[row])
            edits.add(f"becoming, {style}", Shown(whole(row)), Shown(whole(other)), "become", words, other)


def _recolor(edits: Edits, row: int, name: str, colors: list[str], rng: np.random.Generator) -> None:
    color, before = (str(each) for each in rng.choice(colors, size=2, replace=False))
    if not are_distinct(color, "white") or not are_distinct(color, before):
        return
    source = whole(row) if rng.random() < 0.5 or not are_distinct(before, "white") else whole(row, color=before)
    edits.add("whole", Shown(source), Shown(whole(row, color=color)), "color", (color, name))
