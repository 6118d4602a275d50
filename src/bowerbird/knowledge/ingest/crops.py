"""Patches as items: RDM's databases are crops of large pictures, so that one picture lends its parts (arXiv
2204.11824, section 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bowerbird.core import images, seeds
from bowerbird.core.errors import PictureError
from bowerbird.data.item import SourceItem, content_id, decode_item

SMALLEST = 0.5
"""A patch is a square of at least this share of the picture's shorter side."""


def cut(item: SourceItem, count: int, *, max_pixels: int = images.MAX_PIXELS) -> list[SourceItem]:
    """`count` random square patches of one picture as PNG, with `patch_of` and the corners `patch_x_tl` … `patch_y_br`
    in pixels.

    Where they lie depends on the picture alone, so cutting again gives the same items. A picture that cannot be read
    comes back as it is, to be reported when it is decoded. Raises: nothing.
    """
    try:
        picture = decode_item(item, max_pixels=max_pixels)
    except PictureError:
        return [replace(item, embedding=None)]
    draw = seeds.numpy_generator(0, "patches", content_id(replace(item, embedding=None)))
    shorter = min(picture.size)
    made = []
    for number in range(count):
        side = max(1, round(shorter * float(draw.uniform(SMALLEST, 1.0))))
        left, top = (int(draw.integers(0, length - side + 1)) for length in picture.size)
        corners = (left, top, left + side, top + side)
        where: dict[str, Any] = {
            f"patch_{name}": at for name, at in zip(("x_tl", "y_tl", "x_br", "y_br"), corners, strict=True)
        }
        data = images.encode_png(picture.crop(corners))
        made.append(
            replace(
                item,
                data=data,
                name=f"{item.name}#{number}",
                metadata=item.metadata | {"patch_of": item.name} | where,
                embedding=None,
            )
        )
    return made
