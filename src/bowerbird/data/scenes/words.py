"""The words of scenes: colors, sizes, shapes, and how things lie to each other. A name that uses one of them is no name
for a drawing here, as a caption has to mean one thing."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Rgb = tuple[int, int, int]

COLORS: dict[str, Rgb] = {
    "red": (220, 40, 50),
    "orange": (245, 140, 20),
    "yellow": (255, 210, 50),
    "green": (60, 165, 75),
    "blue": (50, 105, 225),
    "light blue": (150, 205, 245),
    "purple": (140, 80, 190),
    "pink": (245, 140, 190),
    "brown": (130, 80, 50),
    "black": (25, 25, 25),
    "gray": (140, 145, 150),
    "white": (255, 255, 255),
}
"""Colors of things and of grounds."""
APART = 90
"""Two colors that are at least so far from each other (Euclidean, of 255) are different to the eye."""
SHAPES = ("heart", "square", "circle", "star", "triangle", "diamond")
SIZES = ("small", "", "big")
"""Nothing is said of a thing of middle size."""
FORMS: dict[str, tuple[str, ...]] = {
    "": ("{0}",),
    "left": ("{0} left of {1}", "{0} to the left of {1}", "{1} right of {0}", "{1} to the right of {0}"),
    "above": ("{0} above {1}", "{0} over {1}", "{1} below {0}", "{1} under {0}"),
    "and": ("{0} and {1}", "{1} and {0}"),
    "row": ("{0}, {1} and {2}",),
    "between": ("{1} between {0} and {2}",),
}
"""How things lie to each other, and the ways to say it. Things are counted from the left, or from above; of `and` only
that both are there is said, and a `row` goes from left to right."""
OTHERS = "a an the left right of to above over below under and between on in with style drawing picture background"
RESERVED = frozenset(" ".join((*COLORS, *SIZES, OTHERS)).split())
LONGEST = 16
KNOWN = "known.json"
"""The file beside a model's weights that lists what it was shown."""


def plain_name(caption: str) -> str | None:
    """What a drawing is called in captions: one or two words in small letters, without an article; None where the
    caption is not of that kind, or uses a word that scenes use."""
    name = re.sub(r"^(a|an|the) ", "", caption.strip().lower())
    if not re.fullmatch(r"[a-z]{3,}( [a-z]+)?", name) or len(name) > LONGEST:
        return None
    return None if RESERVED & set(name.split()) else name


def are_distinct(first: str, second: str) -> bool:
    """Whether two named colors are different to the eye."""
    squares = ((a - b) ** 2 for a, b in zip(COLORS[first], COLORS[second], strict=True))
    return float(sum(squares)) ** 0.5 >= APART


def nearest_color(rgb: Rgb) -> str:
    """The name of the color that is nearest to `rgb`."""
    return min(COLORS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLORS[name], rgb, strict=True)))


PLURAL = frozenset({"men", "women", "people", "children"})
"""Of several, without an s at the end."""


def of_several(word: str) -> bool:
    """Whether a noun is in the plural, by its spelling."""
    return word in PLURAL or (word.endswith("s") and not word.endswith(("ss", "us")))


def with_article(phrase: str) -> str:
    """`phrase` with `a` or `an`; several things (`glasses`, `paw prints`) have none."""
    if of_several(phrase.split()[-1]):
        return phrase
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def invented_name(rng: np.random.Generator) -> str:
    """A word nobody uses: 4 to 9 letters, vowels and consonants in turn."""
    vowels = "aeiou"
    consonants = [c for c in string.ascii_lowercase if c not in vowels]
    length, start = int(rng.integers(4, 10)), int(rng.integers(2))
    return "".join(str(rng.choice(consonants if (i + start) % 2 else list(vowels))) for i in range(length))
