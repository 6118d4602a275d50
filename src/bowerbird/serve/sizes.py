"""What sizes a model may be asked for: as many times the pixels of its own as `Limits.own_pixels` says.

What a picture takes grows with its pixels, and faster where a network attends to all of them; and far from the size
that it was trained at a network draws no better for it (`Capabilities.far_size`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bowerbird.serve.errors import Refused
from bowerbird.serve.limits import Limits

SHAPES = ((1, 1), (3, 2), (2, 3))
"""Width to height of the sizes that are proposed."""


def check_size(name: str, can: Mapping[str, Any], limits: Limits, height: int | None, width: int | None) -> None:
    """Raises: Refused for a size that the model `name`, which has these capabilities, is not asked for."""
    if height is None and width is None:
        return
    own, step, other = can["sizes"][-1], can["multiple_of"], own_shape(can, height, width)
    wide, high = width or other, height or other
    if not can["any_size"]:
        fits = wide == high and wide in can["sizes"]
        said = f"{name} generates {', '.join(f'{size}x{size}' for size in can['sizes'])}"
    elif wide * high > most_pixels(can, limits):
        fits, said = False, f"{name} is made for {own}x{own} and generates up to {limits.own_pixels} times its pixels"
        said += f", as {proposed(can, limits)[-1]}"
    else:
        fits = not (wide % step or high % step)
        said = f"{name} takes edges that are multiples of {step}, as {_near(wide, step)}x{_near(high, step)}"
    if not fits:
        text = f"size {wide}x{high}: {said}; give such a size, or auto for its own ({own}x{own})"
        raise Refused(400, text, code="invalid_value", param="width" if height is None else "height")


def own_shape(can: Mapping[str, Any], height: int | None, width: int | None) -> int:
    """The edge that is not said: the model's own, or as long as the other where pictures are square."""
    return int(can["sizes"][-1] if can["any_size"] else height or width or can["sizes"][-1])


def most_pixels(can: Mapping[str, Any], limits: Limits) -> int:
    """Pixels that a picture of a model may have."""
    own = int(max(can["sizes"]) ** 2)
    return own * limits.own_pixels if can["any_size"] else own


def proposed(can: Mapping[str, Any], limits: Limits) -> list[str]:
    """Sizes to choose from, as `WxH`, from the smallest to the largest; others may be possible between them."""
    found = {(size, size) for size in can["sizes"]}
    if can["any_size"]:
        own, step = can["sizes"][-1], can["multiple_of"]
        for edge in (own, min(limits.edge, int(own * limits.own_pixels**0.5))):
            for shape in SHAPES:
                wide, high = (edge * side // max(shape) // step * step for side in shape)
                found |= {(wide, high)} if min(wide, high) >= limits.least_edge else set()
    return [f"{wide}x{high}" for wide, high in sorted(found, key=lambda pair: (pair[0] * pair[1], pair))]


def _near(edge: int, step: int) -> int:
    return max(step, round(edge / step) * step)
