"""Copies made on purpose: a check that has never found one proves nothing, so it is tried on these first.

Each kind is what people do to a picture they take: keep it, mirror it, cut from it, change its colors, lay a part of
it or all of it into something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    Transform = Callable[[Image.Image, Image.Image, np.random.Generator], Image.Image]


def _cut(picture: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """A square window with edges `share` of the shorter one, anywhere in the picture."""
    side = max(1, int(min(picture.size) * share))
    x, y = int(rng.integers(0, picture.width - side + 1)), int(rng.integers(0, picture.height - side + 1))
    return picture.crop((x, y, x + side, y + side))


def _paste(part: Image.Image, host: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`host` with `part` somewhere on it."""
    made = host.copy()
    made.paste(
        part,
        (
            int(rng.integers(0, max(1, host.width - part.width + 1))),
            int(rng.integers(0, max(1, host.height - part.height + 1))),
        ),
    )
    return made


def copy(picture: Image.Image, host: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture itself."""
    return picture


def mirror(picture: Image.Image, host: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left and right exchanged."""
    from PIL import ImageOps

    return ImageOps.mirror(picture)


def crop(picture: Image.Image, host: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A window with edges of 50% to 85%, enlarged to the picture's size."""
    from PIL import Image

    return _cut(picture, rng.uniform(0.5, 0.85), rng).resize(picture.size, Image.Resampling.BICUBIC)


def tint(picture: Image.Image, host: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another hue, contrast and light."""
    from PIL import Image, ImageEnhance

    turned = np.asarray(picture.convert("HSV")) + np.array([rng.integers(30, 226), 0, 0], np.uint8)
    changed = ImageEnhance.Contrast(Image.fromarray(turned, "HSV").convert("RGB")).enhance(rng.uniform(0.7, 1.3))
    return ImageEnhance.Brightness(changed).enhance(rng.uniform(0.8, 1.2))


def paste_part(picture: Image.Image, host: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A window with edges of 45% to 60%, laid on a picture of something else."""
    return _paste(_cut(_at_size_of(picture, host), rng.uniform(0.45, 0.6), rng), host, rng)


def shrink(picture: Image.Image, host: Image.Image, rng: np.random.Generator) -> Image.Image:
    """All of it at 50% to 70% of its size, laid on a picture of something else."""
    from PIL import Image

    share = rng.uniform(0.5, 0.7)
    fitted = _at_size_of(picture, host)
    size = max(1, int(fitted.width * share)), max(1, int(fitted.height * share))
    return _paste(fitted.resize(size, Image.Resampling.BICUBIC), host, rng)


def _at_size_of(picture: Image.Image, host: Image.Image) -> Image.Image:
    from PIL import Image

    return picture if picture.size == host.size else picture.resize(host.size, Image.Resampling.BICUBIC)


KINDS: dict[str, Transform] = {
    "copy": copy,
    "mirrored": mirror,
    "crop": crop,
    "tinted": tint,
    "pasted part": paste_part,
    "shrunk and pasted": shrink,
}
