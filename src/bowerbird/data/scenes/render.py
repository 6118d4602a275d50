"""Scenes as pictures: every thing cut out of its drawing, or drawn by code, in its color, in its box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.grammar import GRID, SHAPE, WHOLE, Scene, Thing
from bowerbird.data.scenes.vocabulary import Vocabulary, median_color, straight_color
from bowerbird.data.scenes.words import COLORS

EDGE, ZOOM = 128, 4
"""Shapes are drawn at this edge, from so many samples a pixel along each axis."""


def render(scenes: Sequence[Scene], vocabulary: Vocabulary, pictures: Pictures, size: int) -> Tensor:
    """Float `(n, 3, size, size)` in [-1, 1]; `pictures` are those that the `vocabulary` is of, best larger than
    `size`."""
    drawings = pictures.pixels, pictures.opacity()
    return torch.stack([_picture(scene, vocabulary, drawings, size) for scene in scenes])


def pixel_box(box: tuple[int, int, int, int], size: int) -> tuple[int, int, int, int]:
    """A box of the grid in pixels of a picture of edge `size`."""
    x0, y0, x1, y1 = (round(edge * size / GRID) for edge in box)
    return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def color_of(name: str) -> Tensor:
    """A color by its name, or `#rrggbb`, `(3,)` in [0, 1]."""
    return torch.tensor(list(bytes.fromhex(name[1:])) if name.startswith("#") else COLORS[name]) / 255


@cache
def shape_mask(name: str) -> Tensor:
    """The shape called `name` filling its box, opacity `(EDGE, EDGE)` in [0, 1]."""
    count = EDGE * ZOOM
    at = (torch.arange(count) + 0.5) / count * 2 - 1
    x, y = at[None, :].expand(count, count), -at[:, None].expand(count, count)  # y upward
    inside = _INSIDE[name](x, y).float()
    return F.avg_pool2d(inside[None], ZOOM)[0]


def _heart(x: Tensor, y: Tensor) -> Tensor:
    x, y = x * 1.139, (y + 1) / 2 * 2.236 - 1  # its own width and height
    return (x * x + y * y - 1) ** 3 - x * x * y**3 <= 0


def _star(x: Tensor, y: Tensor) -> Tensor:
    """What is beyond one of the five lines at most."""
    x, y = x * math.sin(math.radians(72)), (y + 1) / 2 * (1 + math.cos(math.radians(36))) - math.cos(math.radians(36))
    turns = [math.radians(90 + 72 * i) for i in range(5)]
    beyond = [(x * math.cos(t + math.pi) + y * math.sin(t + math.pi)) > math.cos(math.radians(72)) for t in turns]
    return torch.stack(beyond).sum(0) <= 1


_INSIDE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "heart": _heart,
    "square": lambda x, y: torch.ones_like(x, dtype=torch.bool),
    "circle": lambda x, y: x * x + y * y <= 1,
    "star": _star,
    "triangle": lambda x, y: x.abs() <= (1 - y) / 2,
    "diamond": lambda x, y: x.abs() + y.abs() <= 1,
}


def _picture(scene: Scene, vocabulary: Vocabulary, drawings: tuple[Tensor, Tensor], size: int) -> Tensor:
    canvas = color_of(scene.ground)[:, None, None].expand(3, size, size).clone()
    for thing in scene.things:
        x0, y0, x1, y1 = pixel_box(thing.box, size)
        layer = _fit(_layer(thing, vocabulary, drawings), y1 - y0, x1 - x0)
        canvas[:, y0:y1, x0:x1] = layer[:3] + (1 - layer[3:]) * canvas[:, y0:y1, x0:x1]
    return canvas.clamp(0, 1) * 2 - 1


def _layer(thing: Thing, vocabulary: Vocabulary, drawings: tuple[Tensor, Tensor]) -> Tensor:
    """A thing as color times opacity, and opacity: `(4, h, w)`, cut to its edges but for a whole drawing."""
    if thing.row == SHAPE:
        opacity = shape_mask(thing.name)[None]
        straight = torch.zeros(3, 1, 1)
    else:
        row, (x0, y0, x1, y1) = vocabulary.rows[thing.row], vocabulary.boxes[thing.row]
        pixels, alpha = drawings[0][row], drawings[1][row]
        if thing.size != WHOLE:
            pixels, alpha = pixels[:, y0:y1, x0:x1], alpha[y0:y1, x0:x1]
        straight, opacity = straight_color(pixels, alpha)
    if thing.color is not None:
        # what is lighter or darker than the rest of the drawing stays so
        middle = median_color(straight, opacity) if thing.row != SHAPE else torch.zeros(3)
        straight = (straight + (color_of(thing.color) - middle)[:, None, None]).clamp(0, 1)
    return torch.cat([straight * opacity, opacity])


def _fit(layer: Tensor, height: int, width: int) -> Tensor:
    if tuple(layer.shape[1:]) != (height, width):
        layer = F.interpolate(layer[None], size=(height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)
    return torch.cat([torch.minimum(layer[:3], layer[3:]), layer[3:]])
