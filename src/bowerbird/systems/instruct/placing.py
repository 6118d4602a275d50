"""A reference brought to where a picture has something: an edit replaces a small cup in a corner, on blue, and what is
found shows a wolf that fills its picture, on white. Of several things in a picture the place is that of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bowerbird.core.ground import evened, ground_color, like_ground

SPECK = 0.02
"""What is smaller than this share of the largest part of a drawing does not count to where it lies."""
LEAST_GROUND, LEAST_DRAWN = 0.08, 0.01
"""A picture with less ground than this share has none: its border is a frame; and what is drawn on the ground of a
reference, but for this share of it, is too like the ground to stand out from it: it is taken whole."""
SOFT = 96
"""A pixel at the edge of a drawing is its own color wholly from this difference to the ground on, of 255."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""
NOWHERE = -1


@dataclass(frozen=True)
class Place:
    """Where in a picture something is drawn, in pixels, and the color that it stands on; None where the picture has no
    plain ground, and then it is drawn everywhere."""

    box: Box
    ground: tuple[int, int, int] | None

    def numbers(self) -> np.ndarray:
        """int16 `(7,)`, as it is kept."""
        return np.array([*self.box, *(self.ground or (NOWHERE,) * 3)], np.int16)

    @classmethod
    def of(cls, numbers: np.ndarray) -> Place:
        """The place that was kept as `numbers`."""
        x0, y0, x1, y1, *ground = (int(number) for number in numbers)
        return cls((x0, y0, x1, y1), None if ground[0] == NOWHERE else (ground[0], ground[1], ground[2]))


def find_place(rgb: np.ndarray, frame: Box | None = None) -> Place:
    """Where in a picture, uint8 `(h, w, 3)`, or in the part of it that is in `frame`, something is drawn; all of it
    where nothing is."""
    left, top, right, bottom = (0, 0, rgb.shape[1], rgb.shape[0]) if frame is None else frame
    color, outside = _ground(evened(rgb[top:bottom, left:right]))
    x0, y0, x1, y1 = _box(~outside)
    ground = None if color is None else (int(color[0]), int(color[1]), int(color[2]))
    return Place((x0 + left, y0 + top, x1 + left, y1 + top), ground)


def put(reference: np.ndarray, place: Place, edge: int) -> np.ndarray:
    """What `reference`, uint8 `(h, w, 3)`, shows in a picture of `edge` pixels at `place`: about its middle, with its
    longer edge, on its ground, uint8 `(edge, edge, 3)`. As it is where the picture has no plain ground."""
    if place.ground is None:
        return _scaled(reference.astype(np.float32), edge, edge).round().clip(0, 255).astype(np.uint8)
    reference = evened(reference)
    color, outside = _ground(reference)
    if outside.mean() > 1 - LEAST_DRAWN:
        color, outside = None, np.zeros_like(outside)
    left, top, right, bottom = _box(~outside)
    showing = np.zeros((*outside.shape, 1), np.float32) if color is None else _ground_showing(reference, color, outside)
    ground = np.zeros(3) if color is None else color
    own = (reference - showing * ground.astype(np.float32))[top:bottom, left:right]
    showing = showing[top:bottom, left:right]
    wide, high = right - left, bottom - top
    scale = max(place.box[2] - place.box[0], place.box[3] - place.box[1]) / max(wide, high)
    wide, high = (min(edge, max(1, round(side * scale))) for side in (wide, high))
    x, y = (
        min(max(0, round((first + last - side) / 2)), edge - side)
        for first, last, side in zip(place.box[:2], place.box[2:], (wide, high), strict=True)
    )
    made = np.tile(np.array(place.ground, np.float32), (edge, edge, 1))
    made[y : y + high, x : x + wide] *= _scaled(showing, wide, high).clip(0, 1)
    made[y : y + high, x : x + wide] += _scaled(own, wide, high)
    return made.round().clip(0, 255).astype(np.uint8)


def _ground(rgb: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The color of the ground, None where there is none, and where it is, boolean `(h, w)`: what is like it and hangs
    together with the border."""
    import cv2

    color, nowhere = ground_color(rgb), np.zeros(rgb.shape[:2], bool)
    if color is None:
        return None, nowhere
    alike = like_ground(rgb, color)
    _, parts = cv2.connectedComponents(alike.astype(np.uint8), connectivity=4)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    outside = alike & np.isin(parts, border[border > 0])
    return (color, outside) if outside.mean() >= LEAST_GROUND else (None, nowhere)


def _box(there: np.ndarray) -> Box:
    """The box about what is `there`, boolean `(h, w)`, less specks; all of it where nothing is."""
    import cv2

    count, _, found, _ = cv2.connectedComponentsWithStats(there.astype(np.uint8), connectivity=8)
    if count < 2:
        return 0, 0, there.shape[1], there.shape[0]
    parts = found[1:]
    x, y, wide, high, _ = parts[parts[:, cv2.CC_STAT_AREA] >= SPECK * parts[:, cv2.CC_STAT_AREA].max()].T
    return int(x.min()), int(y.min()), int((x + wide).max()), int((y + high).max())


def _ground_showing(rgb: np.ndarray, color: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """How much of the ground is seen at each pixel, 0..1 `(h, w, 1)`: all `outside`, and beside it what a soft edge
    leaves of it."""
    import cv2

    beside = cv2.dilate(outside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    near = (1 - np.abs(rgb.astype(np.int16) - color).max(-1) / SOFT).clip(0, 1)
    made: np.ndarray = np.where(outside, 1, near * beside)[..., None].astype(np.float32)
    return made


def _scaled(x: np.ndarray, wide: int, high: int) -> np.ndarray:
    """float32 `(h, w, C)` at another size."""
    import cv2

    smaller = wide < x.shape[1] or high < x.shape[0]
    made = cv2.resize(x, (wide, high), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return made.reshape(high, wide, -1)
