"""Eight numbers that say how a picture is made, whatever it shows: how much of it has one color, how many colors there
are, and how its neighboring pixels differ.

At 32 pixels, so that a photograph of any size is as sharp as a small one. Drawings of very different styles agree in
them; photographs, noise and writing do not (`docs/log.md`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import images

if TYPE_CHECKING:
    from PIL import Image

EDGE, BITS = 32, 4
COUNT = 8
STEPS = (3.0, 24.0, 80.0)
"""Between differences of two pixels, in levels of 255, that count as none, small, middling and strong."""
LEAST = 0.01
"""Added to a share before its logarithm is taken: a hundredth and nothing are much the same."""


def picture_statistics(picture: Image.Image) -> np.ndarray:
    """Of a picture's middle square, float32 `(8,)`: logarithms of the shares of its commonest color and of its four
    commonest, in steps of 16 levels; the entropy of its colors in nats; logarithms of how many there are a pixel, and
    of the shares of neighboring pixels that differ by nothing, little, middling and much."""
    pixels = np.asarray(images.square(picture.convert("RGB"), EDGE), np.float32)
    colors = (pixels.astype(np.int64) >> BITS).reshape(-1, 3) @ (1, 16, 256)
    counts = np.unique(colors, return_counts=True)[1]
    shares = np.sort(counts)[::-1] / len(colors)
    steps = [np.abs(np.diff(pixels, axis=axis)).max(-1).ravel() for axis in (0, 1)]
    differences = np.histogram(np.concatenate(steps), (-1.0, *STEPS, 256.0))[0] / (2 * EDGE * (EDGE - 1))
    amounts = np.array([shares[0], shares[:4].sum(), len(shares) / len(colors), *differences]) + LEAST
    entropy = -(shares * np.log(shares)).sum()
    return np.insert(np.log(amounts), 2, entropy).astype(np.float32)
