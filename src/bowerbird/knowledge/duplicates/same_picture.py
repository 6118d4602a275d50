"""Are two pictures one picture: saved again, scaled, turned, mirrored, or a window cut from the other?

Judged on pixels, every part of the picture: embeddings say what is alike, and two drawings of one thing are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

GRID = 32
"""Edge of the grid that two pictures are compared on, stretched to a square."""
ON_AVERAGE, ANYWHERE = 8.0, 40.0
"""The most that copies differ, in levels of 255: root mean square over the grid; and in the mean of any 2 x 2 cells of
it. What lossy formats and scaling do stays below half of that; another color of the smallest part does not."""
ASPECT = 0.04
"""Relative difference of aspect ratios that rounding to whole pixels makes."""
FLAT = 6.0
"""Standard deviation in levels below which a picture shows nothing that could be recognized."""
TURNS = (
    "",
    "rotated 90",
    "rotated 180",
    "rotated 270",
    "mirrored",
    "mirrored, rotated 90",
    "flipped",
    "mirrored, rotated 270",
)
"""What was done to the first to make the second, as `turned` does it: a quarter is counterclockwise."""
COARSE, FINE = 64, 160
"""Edges at which a window is looked for, and found exactly."""
SHARES = np.geomspace(0.97, 0.45, 24)
"""Widths of windows that are looked for, as shares of the picture's."""
LIKELY = 0.85
"""Correlation at `COARSE` from which a window is looked at closely."""


@dataclass(frozen=True)
class Relation:
    """What the second of two pictures is to the first: `turn` of `TURNS`, and `window`, the share of the first's width
    that the second shows (1: all)."""

    turn: str
    window: float = 1.0


def turned(grid: np.ndarray, turn: int) -> np.ndarray:
    """A picture `(h, w, 3)` turned by quarters, from `turn` 4 on mirrored left to right first."""
    plain = grid[:, ::-1] if turn >= 4 else grid
    return np.rot90(plain, turn % 4)


def on_grid(picture: Image.Image, size: int = GRID) -> np.ndarray:
    """The whole picture stretched to `size` x `size`, float32 `(size, size, 3)` in levels of 255."""
    from PIL import Image

    return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BOX, reducing_gap=3.0), np.float32)


def differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pairs of grids `(…, s, s, 3)` -> float32 `(…,)`: 1 and below is the same picture, as large as it may differ."""
    apart = one - other
    average = np.sqrt((apart**2).mean((-3, -2, -1)))
    s = apart.shape[-2]
    cells = np.abs(apart.reshape(*apart.shape[:-3], s // 2, 2, s // 2, 2, 3).mean((-4, -2))).max((-3, -2, -1))
    return np.maximum(average / ON_AVERAGE, cells / ANYWHERE)


def relation(one: Image.Image, other: Image.Image) -> Relation | None:
    """What `other` is to `one` as its copy: all of it, turned or not; None where neither that nor a window fits."""
    a, b = on_grid(one), on_grid(other)
    if max(a.std(), b.std()) < FLAT:
        return Relation("") if differ(a, b) <= 0.25 and _same_shape(one.size, other.size) else None
    for turn, name in enumerate(TURNS):
        size = one.size if turn % 2 == 0 else one.size[::-1]
        if _same_shape(size, other.size) and differ(turned(a, turn), b) <= 1:
            return Relation(name)
    share = window_of(one, other)
    return None if share is None else Relation("", share)


def window_of(whole: Image.Image, part: Image.Image) -> float | None:
    """The share of the width of `whole` that `part` shows, where it is a window of it; None where it is none."""
    import cv2

    b = on_grid(part)
    if b.std() < 4 * FLAT:  # a piece of a plain ground is a piece of every picture with that ground
        return None

    def best(edge: int, shares: np.ndarray) -> tuple[float, float, tuple[int, int, int, int]]:
        ground = _fitted(whole, edge)
        found = (-1.0, 0.0, (0, 0, 0, 0))
        for share in shares:
            width = round(float(share) * ground.shape[1])
            height = round(width * part.height / part.width)
            if not (4 <= width <= ground.shape[1] and 4 <= height <= ground.shape[0]):
                continue
            piece = np.asarray(part.convert("RGB").resize((width, height), resample=_area()), np.float32)
            table = cv2.matchTemplate(ground, piece, cv2.TM_CCOEFF_NORMED)
            table = np.nan_to_num(table, nan=-1.0, posinf=-1.0, neginf=-1.0)
            y, x = np.unravel_index(int(table.argmax()), table.shape)
            if table[y, x] > found[0]:
                found = (float(table[y, x]), float(share), (int(x), int(y), width, height))
        return found

    score, share, _ = best(COARSE, SHARES)
    if score < LIKELY:
        return None
    edge = min(FINE, max(whole.size))
    _, share, (x, y, width, height) = best(edge, share * np.linspace(0.96, 1.04, 9))
    if not width:
        return None
    scale = max(whole.size) / edge
    box = tuple(round(value * scale) for value in (x, y, x + width, y + height))
    return share if differ(on_grid(whole.crop(box)), b) <= 1 else None


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    ratio = one[0] * other[1] / (one[1] * other[0])
    slack = ASPECT + 1.0 / min(*one, *other)
    return 1 / (1 + slack) <= ratio <= 1 + slack


def _fitted(picture: Image.Image, edge: int) -> np.ndarray:
    scale = edge / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.convert("RGB").resize(size, resample=_area()), np.float32)


def _area() -> Image.Resampling:
    from PIL import Image

    return Image.Resampling.BOX
