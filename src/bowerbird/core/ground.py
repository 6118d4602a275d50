"""The ground that a drawing stands on: the color that most of its border has."""

from __future__ import annotations

import numpy as np

DISTANCE = 24
"""A pixel is like the ground where no channel is further from its color."""

EVEN = 12
"""A slope of colors whose ends are no further than this from its middle counts as even."""
STEADY = 0.13
"""A slope is one where colors are off it by no more than this share of it, on average: two plain areas are no slope."""


def ground_color(rgb: np.ndarray) -> np.ndarray | None:
    """The commonest color, int16 `(3,)`, of the border of a picture, `(h, w, 3)` in 0..255; None where less than half
    of the border is like it, as in most photographs."""
    border = _border(rgb).astype(np.int16)
    steps = (border >> 4) @ np.array([1, 16, 256], np.int16)
    commonest = np.rint(np.median(border[steps == np.bincount(steps).argmax()], axis=0)).astype(np.int16)
    return commonest if like_ground(border, commonest).mean() >= 0.5 else None


def evened(rgb: np.ndarray) -> np.ndarray:
    """A picture, uint8 `(h, w, 3)`, without what light falls unevenly on its ground, as on paper that was photographed;
    as it is where half of its border is not like a slope of colors, linear along each edge, or is like an even one."""
    h, w = rgb.shape[:2]
    if min(h, w) < 2:
        return rgb
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in (h, w)), indexing="ij")
    terms = _border(np.stack([np.ones_like(x), x, y, x * y], -1))
    border = _border(rgb).astype(np.float32)
    slope = np.zeros((4, 3), np.float32)
    slope[0] = np.median(border, 0)
    for distance in (64, 48, 32, DISTANCE):  # what is drawn at the border drops out
        alike = np.abs(border - terms @ slope).max(-1) <= distance
        if alike.mean() < 0.5:
            return rgb
        slope = np.linalg.lstsq(terms[alike], border[alike], rcond=None)[0]
    uneven = x[..., None] * slope[1] + y[..., None] * slope[2] + (x * y)[..., None] * slope[3]
    highest = np.abs(uneven).max((0, 1))
    channel = int(highest.argmax())
    off = np.abs(border - terms @ slope)[alike, channel].mean()
    if highest[channel] < EVEN or off > STEADY * highest[channel]:
        return rgb
    made: np.ndarray = (rgb - uneven).round().clip(0, 255).astype(np.uint8)
    return made


def _border(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])


def like_ground(rgb: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Which pixels of `(..., 3)` are like the ground of this `color`, boolean `(...)`."""
    alike: np.ndarray = np.abs(rgb.astype(np.int16) - color).max(-1) <= DISTANCE
    return alike
