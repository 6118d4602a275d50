"""What an edit is called: for each kind several wordings, of which the last is never trained on.

The words of an edit fill the places of a wording; `{0}` is what is named first. Held-out wordings and held-out names
are what a claim about new instructions is measured on.
"""

from __future__ import annotations

import numpy as np

from bowerbird.core import seeds

REPLACING = (
    "replace the {1} with {0}", "turn the {1} into {0}", "make the {1} {0}", "replace the {1} by {0}",
    "change the {1} to {0}", "change the {1} into {0}", "put {0} in place of the {1}", "{0} instead of the {1}",
)  # fmt: skip
"""One thing for another, alone in its picture or one of several."""
WORDINGS: dict[str, tuple[str, ...]] = {
    "style": (
        "in the style of {0}", "make it {0} style", "redraw it in {0} style", "{0} style", "draw it in {0} style",
        "make it look like {0}", "as {0} draws it", "convert it to {0} style",
        "draw it as {0} does",
    ),
    "color": (
        "make it {0}", "turn the {1} {0}", "make the {1} {0}", "change its color to {0}", "color it {0}",
        "paint it {0}", "turn it {0}", "make the color {0}", "{0}",
        "a {0} one",
    ),
    "detail": (
        "give it {0}", "make it with {0}", "change it to {0}", "with {0}", "add {0}", "the same with {0}",
        "now with {0}",
    ),
    "person": (
        "make it {0}", "turn it into {0}", "{0} instead", "change it to {0}", "make this {0}",
        "replace it with {0}", "change it into {0}",
        "let it be {0}",
    ),
    "clock": (
        "make it {0}", "set it to {0}", "the time is {0}", "change the time to {0}", "change it to {0}",
        "set the clock to {0}", "make the clock show {0}",
        "show {0}",
    ),
    "add part": (
        "add {0}", "give it {0}", "with {0}", "put {0} on it", "add a {0}", "put a {0} on it", "make it have {0}",
        "it should have {0}",
    ),
    "remove part": (
        "remove the {0}", "take the {0} away", "without the {0}", "no {0}", "take off the {0}", "delete the {0}",
        "erase the {0}", "remove {0}",
        "get rid of the {0}",
    ),
    "become": (
        "make it {0}", "turn it into {0}", "{0}", "change it to {0}", "replace it with {0}", "transform it into {0}",
        *REPLACING,
        "let it become {0}",
    ),
    "replace": (
        *REPLACING,
        "swap the {1} for {0}",
    ),
    "mirror": (
        "mirror it", "flip it left to right", "turn it to face the other way", "flip it", "mirror the picture",
        "mirror it horizontally", "flip the picture",
        "flip it horizontally",
    ),
    "upside down": (
        "turn it upside down", "flip it upside down", "upside down", "flip it vertically", "mirror it vertically",
        "turn the picture on its head",
        "put it on its head",
    ),
    "gray": (
        "make it gray", "take the colors away", "make it black and white", "make it grayscale", "remove the colors",
        "black and white", "no color",
        "remove all color",
    ),
    "negative": (
        "invert the colors", "make it a negative", "invert it", "reverse the colors", "invert all colors", "negative",
        "reverse all colors",
    ),
    "darker": (
        "make it darker", "darken it", "darker", "make it a bit darker", "make the picture darker", "with less light",
        "less light",
    ),
    "lighter": (
        "make it lighter", "brighten it", "lighter", "make it a bit lighter", "make it brighter", "with more light",
        "more light",
    ),
    "ground": (
        "make the background {0}", "on a {0} background", "put it on {0}", "change the background to {0}",
        "put it on a {0} background", "{0} background", "set the background to {0}", "give it {0} ground",
        "give it a {0} background",
    ),
    "add": (
        "add {0}", "add {0} {1}", "put {0} {1}", "draw {0} {1}", "place {0} {1}", "insert {0} {1}", "there is {0} {1}",
        "there should be {0} {1}",
    ),
    "remove": (
        "remove the {0}", "take the {0} away", "delete the {0}", "without the {0}", "take away the {0}",
        "erase the {0}", "no {0}", "rid it of the {0}",
        "get rid of the {0}",
    ),
    "recolor": (
        "make the {1} {0}", "turn the {1} {0}", "color the {1} {0}", "change the {1} to {0}", "paint the {1} {0}",
        "change the color of the {1} to {0}", "the {1} is {0}",
        "the {1} should be {0}",
    ),
    "move": (
        "move the {1} {0}", "move it {0}", "put the {1} further {0}", "push the {1} {0}", "slide the {1} {0}",
        "shift it {0}", "the {1} further {0}",
        "shift the {1} {0}",
    ),
    "exchange": (
        "swap the {0} and the {1}", "exchange the {0} and the {1}", "switch the {0} and the {1}",
        "let the {0} and the {1} swap places", "trade the {0} and the {1}",
        "let the {0} and the {1} trade places",
    ),
    "bigger": (
        "make the {0} bigger", "make it bigger", "enlarge the {0}", "make the {0} larger", "the {0} should be bigger",
        "make it larger", "grow the {0}",
        "the {0} should be larger",
    ),
    "smaller": (
        "make the {0} smaller", "make it smaller", "shrink the {0}", "make the {0} tiny", "the {0} should be smaller",
        "make it tiny", "reduce the {0}",
        "the {0} should be tiny",
    ),
}  # fmt: skip
"""Kinds of edits with their wordings, the last of each held out. Only `add` may leave the place `{1}` unsaid."""
NAMES_HELD_OUT = 16
"""One name in so many is held out: no edit that is trained on names or shows it."""
SYLLABLES = tuple(first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou")


def wordings(kind: str, *, held_out: bool = False) -> tuple[str, ...]:
    """The wordings of a kind that are trained on, or those that are held out."""
    return WORDINGS[kind][-1:] if held_out else WORDINGS[kind][:-1]


def is_held_out(name: str) -> bool:
    """Whether no edit that is trained on names or shows the thing called `name`."""
    return seeds.derive(0, "held-out name", name.lower()) % NAMES_HELD_OUT == 0


def invented_name(rng: np.random.Generator) -> str:
    """A word that means nothing, of two or three syllables."""
    return "".join(str(part) for part in rng.choice(SYLLABLES, size=int(rng.integers(2, 4))))
