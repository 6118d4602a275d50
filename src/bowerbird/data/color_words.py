"""What colors a text names and what colors a picture has, in the same eleven names.

A text's colors are the words of a list. A picture's are the shares of its pixels, without the ground it stands on; the
limits between hues are those of the emoji sets, whose red is a little blue and whose yellow a little orange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import images
from bowerbird.core.ground import evened, ground_color, like_ground

if TYPE_CHECKING:
    from PIL import Image

PLAIN = ("black", "gray", "white")
"""Colors without a hue: outlines and lights have them in pictures of any color."""
NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", *PLAIN)
OTHER_WORDS = {
    "red": "crimson scarlet maroon burgundy ruby vermilion",
    "yellow": "gold golden",
    "green": "emerald teal turquoise",
    "blue": "navy azure cobalt cyan teal turquoise indigo",
    "purple": "violet lavender lilac magenta indigo",
    "pink": "fuchsia magenta",
    "brown": "tan beige",
    "gray": "grey silver",
}
"""Further words for a color. Words that are a thing as well (olive, lime, salmon, coral, rose) are left out."""
COLORS_OF: dict[str, frozenset[str]] = {
    word: frozenset(name for name in NAMES if word == name or word in OTHER_WORDS.get(name, "").split())
    for word in {*NAMES, *" ".join(OTHER_WORDS.values()).split()}
}
"""Which colors a word can mean: teal is green or blue."""
NEAR: dict[str, tuple[str, ...]] = {
    "red": ("pink", "orange"),
    "pink": ("red", "purple"),
    "purple": ("pink", "blue"),
    "blue": ("purple",),
    "yellow": ("orange",),
    "orange": ("red", "yellow", "brown"),
    "brown": ("orange", "red"),
    "white": ("gray",),
    "gray": ("white", "black"),
    "black": ("gray",),
}
"""Colors that shading turns into each other: they speak neither for a picture nor against it."""
EDGE = 48
AGREES, CONTRADICTS = 0.5, 0.2
"""From which share of a color a picture has it, and below which it has not."""
FEWEST = 0.05
"""Of a picture's own pixels: with less of any hue, as a line drawing, it has no color to speak of."""


def colors_in(words: list[str]) -> frozenset[str]:
    """The colors that `words` (in small letters) name."""
    return frozenset(name for word in words for name in COLORS_OF.get(word, ()))


def color_shares(picture: Image.Image) -> dict[str, float]:
    """The share of each color in a picture, less the ground where its border has one; none where nothing else is on
    it."""
    rgb = np.asarray(images.square(picture.convert("RGB"), EDGE), np.int16)
    even = evened(rgb)
    color = ground_color(even)
    own = rgb.reshape(-1, 3) if color is None else rgb[~like_ground(even, color)]
    if not len(own):
        return {}
    counts = np.bincount(_classes(own), minlength=len(NAMES)) / len(own)
    return {name: float(share) for name, share in zip(NAMES, counts, strict=True) if share}


def has_color(shares: dict[str, float], asked: frozenset[str]) -> bool | None:
    """Whether a picture with these `shares` is of one of the colors `asked`; None where that cannot be said."""
    counted = set(NAMES) if asked & set(PLAIN) else set(NAMES) - set(PLAIN)
    whole = sum(share for name, share in shares.items() if name in counted)
    if whole < FEWEST:
        return None
    share = sum(shares.get(name, 0) for name in asked) / whole
    near = {other for name in asked for other in NEAR.get(name, ())} - asked
    close = sum(shares.get(name, 0) for name in near) / whole
    if share >= AGREES:
        return True
    return False if share + close < CONTRADICTS else None


def _classes(rgb: np.ndarray) -> np.ndarray:
    """The place in `NAMES` of each pixel's color."""
    high, low = rgb.max(1), rgb.min(1)
    chroma = (high - low).clip(min=1)
    red, green, blue = (rgb[:, c].astype(float) for c in range(3))
    hue = np.where(
        high == red,
        (green - blue) / chroma % 6,
        np.where(high == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    hue, saturation, value = hue * 60, (high - low) / high.clip(min=1), high / 255
    found = np.select(
        [
            value < 0.3,
            (saturation < 0.15) & (value > 0.87),
            saturation < 0.2,
            (hue >= 8) & (hue < 45) & ((value < 0.65) | ((value < 0.82) & (saturation < 0.65))),
            ((hue < 17) | (hue >= 345)) & (saturation < 0.45) & (value > 0.8),
            (hue < 17) | (hue >= 345),
            hue < 40,
            hue < 70,
            hue < 165,
            hue < 255,
            hue < 300,
        ],
        [
            NAMES.index(n)
            for n in ["black", "white", "gray", "brown", "pink", "red", "orange", "yellow", "green", "blue", "purple"]
        ],
        NAMES.index("pink"),
    )
    return np.asarray(found, np.int64)
