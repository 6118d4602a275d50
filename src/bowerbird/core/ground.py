"""The ground that a drawing stands on: the color that most of its border has."""

from __future__ import annotations

import numpy as np

DISTANCE = 24
"""A pixel is like the ground where no channel is further from its color."""


def ground_color(rgb: np.ndarray) -> np.ndarray | None:
    """The commonest color, int16 `(3,)`, of the border of a picture, `(h, w, 3)` in 0..255; None where less than half
    of the border is like it, as in most photographs."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.int16)
    steps = (border >> 4) @ np.array([1, 16, 256], np.int16)
    commonest = np.rint(np.median(border[steps == np.bincount(steps).argmax()], axis=0)).astype(np.int16)
    return commonest if like_ground(border, commonest).mean() >= 0.5 else None


def like_ground(rgb: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Which pixels of `(..., 3)` are like the ground of this `color`, boolean `(...)`."""
    alike: np.ndarray = np.abs(rgb.astype(np.int16) - color).max(-1) <= DISTANCE
    return alike
