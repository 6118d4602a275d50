"""A picture with a hole: the picture as RGBA, transparent where something else is to come.

One picture says both, so it goes wherever the source of an edit goes, and into the record of what comes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from PIL import Image

WHITE = 128
"""From this brightness on a mask is white."""


def with_hole(picture: Image.Image, mask: Image.Image, edge: int) -> Image.Image:
    """The whole of `picture` as RGBA, its longer side `edge` pixels, transparent where `mask` is white: gray and
    transparent parts of a mask stay.

    Raises: BowerbirdError for a mask of another form, or one without white.
    """
    width, height = picture.size
    if abs(mask.width * height - mask.height * width) > max(width, height) * max(mask.size) / 64:
        raise BowerbirdError(
            f"`mask` is {mask.width} x {mask.height} pixels and the picture {width} x {height}; give a mask of the same"
            " form, white where something else is to come"
        )
    whole = images.fitted(images.on_background(picture), edge)
    white = np.asarray(images.on_background(mask, "black").convert("L").resize(whole.size)) >= WHITE
    if not white.any():
        raise BowerbirdError("nothing of the `mask` is white, so there is nothing to fill in")
    made = whole.convert("RGBA")
    made.putalpha(_picture(np.where(white, 0, 255)))
    return made


def _picture(values: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(values.astype(np.uint8))


def framed(source: Image.Image, edge: int) -> Image.Image:
    """`source` in the middle of a square of `edge` pixels, as `images.framed`; its hole stays where it is in it.

    Raises: BowerbirdError for a picture without transparency.
    """
    if source.mode != "RGBA":
        raise BowerbirdError("a picture to fill in has a transparent part; make one with filling.with_hole")
    made = images.framed(source.convert("RGB"), edge).convert("RGBA")
    alpha = np.full((edge, edge), 255)
    left, top, right, bottom = images.frame_of(source.size, edge)
    alpha[top:bottom, left:right] = images.fitted(source, edge).getchannel("A")
    made.putalpha(_picture(alpha))
    return made


def parts_of(source: Image.Image, side: int) -> tuple[Image.Image, np.ndarray]:
    """A square RGBA picture without its hole, RGB, and the cells of a grid of `side` that the hole touches, boolean
    `(side, side)`. Raises: BowerbirdError where nothing is transparent."""
    factor = source.width // side
    alpha = np.asarray(source.getchannel("A"))[: side * factor, : side * factor]
    holes = alpha.reshape(side, factor, side, factor).min((1, 3)) < WHITE
    if not holes.any():
        raise BowerbirdError("nothing of the picture is transparent, so there is nothing to fill in")
    return source.convert("RGB"), holes


def one_hole(holes: Sequence[np.ndarray]) -> np.ndarray:
    """The hole of several pictures, boolean `(side, side)` as each of `holes`. Raises: BowerbirdError where they have
    not the same."""
    if any(not np.array_equal(holes[0], each) for each in holes):
        raise BowerbirdError("pictures that are filled in together have the same `mask`; fill them in one by one")
    return holes[0]
