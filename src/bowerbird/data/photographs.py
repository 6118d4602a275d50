"""Whether pictures are photographs or drawings, by how much of each has one color.

A drawing or icon stands on one color, or is filled with it; in a photograph no color has much. Measured at 64 pixels
(`docs/log.md`): the median share is 0.06 for CIFAR photographs, 0.03 for noise of a photograph's spectrum, and 0.31 to
0.89 for seventeen styles of emoji and icons, also after JPEG at quality 75.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import images

if TYPE_CHECKING:
    from PIL import Image

EDGE, BITS = 64, 3
THRESHOLD = 0.15
FEWEST = 8
"""Of fewer pictures nothing is said."""


def color_share(picture: Image.Image) -> float:
    """The share of the commonest color, in steps of 8 levels, of a picture's middle square at up to 64 pixels."""
    small = images.square(picture.convert("RGB"), min(EDGE, *picture.size))
    colors = (np.asarray(small, np.int64) >> BITS).reshape(-1, 3) @ (1, 32, 1024)
    return float(np.bincount(colors).max() / len(colors))


def are_photographs(shares: Sequence[float]) -> bool:
    """`looks_like_photographs` of pictures with these `color_share`s."""
    return len(shares) >= FEWEST and float(np.median(shares)) < THRESHOLD


def looks_like_photographs(pictures: Sequence[Image.Image]) -> bool:
    """Whether most of these pictures are photographs; False for fewer than `FEWEST`."""
    return are_photographs([color_share(picture) for picture in pictures])
