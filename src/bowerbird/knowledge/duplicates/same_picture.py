"""Are two pictures one picture: saved again, scaled, turned, mirrored, or a window cut from the other?

Judged on pixels, every part of the picture for itself: embeddings say what is alike, and two drawings of one thing are
alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bowerbird.core import images

if TYPE_CHECKING:
    from PIL import Image

EDGE = 128
"""Edge of the square that two pictures are compared on, or the shortest of their edges where that is less."""
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
ASPECT = 0.02
"""Relative difference of aspect ratios, beside what rounding to whole pixels makes."""
SHIFT = 12.0
"""Levels of 255 that the mean of a small part may differ by, beside `EDGES` of the range of values around it: what
lossy formats do to plain areas is under 10, and a color one could name apart is above."""
EDGES = 0.08
UNLIKE, NOISE, MOST_UNLIKE = 0.06, 16.0, 0.45
"""1 - SSIM that the least similar part may have: `UNLIKE`, and `NOISE` times what the upper quarter of the parts with
something in them has, up to `MOST_UNLIKE`. Saving and scaling differ everywhere a little, another hand of a clock in
one place much."""
SOFT = 1000.0
"""Variance, summed over channels, below which a part has too little in it for SSIM to matter."""
LEAST_SHARE, MOST_SHARE = 0.7, 0.965
"""Shares of width and height that a window shows to be looked for. One that shows more of both would have passed for
the whole, or is a drawing with a changed detail."""
SHEAR = 0.02
ROUGH_EDGE, ROUGH = 32, 0.96
"""A window is first aligned at this edge, and looked at closely from this correlation on (planted ones: 0.96 and
above)."""
FLAT = 12.0
"""Standard deviation in levels below which a window could lie anywhere."""

Place = tuple[float, float, float, float]
"""A window: left, top, width and height, in shares of the whole."""


@dataclass(frozen=True)
class View:
    """A picture as it is compared: `pixels` uint8 `(h, w, 3)`, laid on white, or with its opacity `(h, w, 4)` where
    something shows through it; of no more pixels than that takes."""

    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def view(data: bytes, name: str, *, at_least: int = 2 * EDGE) -> View:
    """Decode a picture to be compared. Raises: PictureError."""
    return view_of(images.decode(data, name, None, at_least=at_least, max_pixels=images.MOST_PIXELS))


def view_of(picture: Image.Image) -> View:
    """A picture in memory to be compared."""
    picture = images.reduced(picture, 2 * EDGE)
    if "A" not in picture.getbands() or picture.getchannel("A").getextrema() == (255, 255):
        return View(np.asarray(picture.convert("RGB")))
    laid = np.asarray(images.on_background(picture))
    return View(np.dstack([laid, np.asarray(picture.getchannel("A"))]))


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """A picture `(…, h, w, channels)` turned by quarters, from `turn` 4 on mirrored left to right first."""
    plain = pixels[..., ::-1, :] if turn >= 4 else pixels
    return np.rot90(plain, turn % 4, axes=(-3, -2))


def scaled(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """`pixels` as float32 at another size, each new pixel the mean of what it covers."""
    smaller = width <= pixels.shape[1] and height <= pixels.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    made: np.ndarray = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    return made.astype(np.float32)


def turn_between(one: View, other: View, turns: Iterable[int] = range(len(TURNS))) -> int | None:
    """The first of `turns` that makes `other` of `one`; None where none does."""
    for turn in turns:
        size = one.size if turn % 2 == 0 else one.size[::-1]
        if _same_shape(size, other.size) and same(turned(one.pixels, turn), other.pixels):
            return turn
    return None


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures `(h, w, channels)` of about one shape show the same in every part."""
    channels = min(one.shape[2], other.shape[2])  # what lies behind an opaque copy nobody knows
    edge = min(EDGE, *one.shape[:2], *other.shape[:2])
    a, b = (
        cv2.GaussianBlur(scaled(p[..., :channels], edge, edge), (0, 0), max(0.3, edge / EDGE)) for p in (one, other)
    )
    apart, spread = a - b, max(float(a.std((0, 1)).max()), float(b.std((0, 1)).max()))
    if np.sqrt((apart**2).mean()) > max(1.5, 0.25 * spread):
        return False
    part = max(3, edge // 10 | 1)

    def mean(pixels: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(pixels, -1, (part, part))

    around = np.ones((part, part), np.uint8)
    ranges = [cv2.dilate(p, around) - cv2.erode(p, around) for p in (a, b)]
    mean_a, mean_b = mean(a), mean(b)
    if (np.abs(mean_a - mean_b) - EDGES * np.maximum(*ranges)).max() > SHIFT:
        return False
    variance_a = (mean(a * a) - mean_a * mean_a).sum(-1).clip(0)
    variance_b = (mean(b * b) - mean_b * mean_b).sum(-1).clip(0)
    together = (mean(a * b) - mean_a * mean_b).sum(-1)
    unlike = 1 - (2 * together + SOFT) / (variance_a + variance_b + SOFT)
    filled = unlike[np.maximum(variance_a, variance_b) > 0.3 * SOFT]
    usual = float(np.quantile(filled, 0.75)) if len(filled) else 0.0
    return float(unlike.max()) <= min(MOST_UNLIKE, UNLIKE + NOISE * usual)


def window(whole: View, part: View, at: Place) -> float | None:
    """The share of the width of `whole` that `part` shows, where it is a window of it; None where it is none.

    `at`: where it may lie, to a few hundredths.
    """
    if part.pixels[..., :3].astype(np.float32).std((0, 1)).max() < FLAT:
        return None  # a piece of a plain ground is a piece of every picture with that ground
    rough = _Laid.of(whole, part, at, ROUGH_EDGE)
    if (near := _aligned(rough, least=ROUGH, rounds=30, soften=3)) is None:
        return None
    laid = _Laid.of(whole, part, rough.place(near), EDGE)
    warp = _aligned(laid, least=0.0, rounds=60, soften=5)
    if warp is not None and (share := _share(whole, part, laid, warp)) is not None:
        return share
    laid = _Laid.of(whole, part, at, EDGE)  # what varies in one direction only, as a striped flag, aligns badly
    warp = _slid(laid)
    return None if warp is None else _share(whole, part, laid, warp)


def _share(whole: View, part: View, laid: _Laid, warp: np.ndarray) -> float | None:
    """The share of the width that `part` shows where `warp` puts it; None where that is no window, or not the same."""
    _, _, across, down = laid.place(warp)
    shape = (down * whole.size[0], across * whole.size[1])
    sheared = max(abs(float(warp[0, 1])), abs(float(warp[1, 0]))) > SHEAR
    if sheared or min(across, down) < 0.95 * LEAST_SHARE or not _same_shape(shape, part.size, 0.02):
        return None
    if max(across, down) > 1.02 or min(across, down) > MOST_SHARE:
        return None
    edge, method = laid.part.shape[0], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(laid.whole, warp, (edge, edge), flags=method, borderMode=cv2.BORDER_REPLICATE)
    return min(1.0, across) if same(found, laid.part) else None


@dataclass(frozen=True)
class _Laid:
    """A picture and what may be a window of it, at about one scale, float32 `(…, …, 3)`, and the map `(2, 3)` from the
    square `part` into `whole` to begin with."""

    whole: np.ndarray
    part: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, whole: View, part: View, at: Place, most: int) -> _Laid:
        """Scaled so that the part has an edge of `most`, or what both have pixels for."""
        ground = whole.pixels[..., :3]
        height, width = ground.shape[:2]
        edge = max(16, min(most, *part.size, round(at[2] * width), round(at[3] * height)))
        factor = min(1.0, 1.5 * edge / min(at[2] * width, at[3] * height))
        height, width = max(8, round(height * factor)), max(8, round(width * factor))
        start = [[at[2] * width / edge, 0, at[0] * width], [0, at[3] * height / edge, at[1] * height]]
        template = scaled(part.pixels[..., :3], edge, edge)
        return cls(scaled(ground, width, height), template, np.array(start, np.float32))

    def place(self, warp: np.ndarray) -> Place:
        """Where a map puts the part."""
        (height, width), edge = self.whole.shape[:2], self.part.shape[0]
        left, top = float(warp[0, 2]) / width, float(warp[1, 2]) / height
        return left, top, float(warp[0, 0]) * edge / width, float(warp[1, 1]) * edge / height


def _aligned(laid: _Laid, *, least: float, rounds: int, soften: int) -> np.ndarray | None:
    """The affine map near the start that fits best; None where there is none, or it correlates by less than
    `least`."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, rounds, 1e-5)
    everywhere = np.full(laid.whole.shape[:2], 255, np.uint8)
    part, whole = _gray(laid.part), _gray(laid.whole)
    try:
        score, warp = cv2.findTransformECC(part, whole, laid.start.copy(), cv2.MOTION_AFFINE, stop, everywhere, soften)
    except cv2.error:  # nothing to converge to
        return None
    return np.asarray(warp) if score >= least else None


def _slid(laid: _Laid) -> np.ndarray | None:
    """The map without shear that fits best, at the scale of the start and a little more or less, anywhere in the
    whole."""
    part, whole, edge = _gray(laid.part), _gray(laid.whole), laid.part.shape[0]
    highest, best = 0.0, None
    for scale in np.linspace(0.96, 1.04, 9):
        width, height = round(laid.start[0, 0] * edge * scale), round(laid.start[1, 1] * edge * scale)
        if not (8 <= width <= whole.shape[1] and 8 <= height <= whole.shape[0]):
            continue
        scores = cv2.matchTemplate(whole, scaled(part, width, height), cv2.TM_CCOEFF_NORMED)
        _, score, _, (left, top) = cv2.minMaxLoc(scores)
        if score > highest:
            highest, best = score, np.array([[width / edge, 0, left], [0, height / edge, top]], np.float32)
    return best


def _gray(pixels: np.ndarray) -> np.ndarray:
    made: np.ndarray = cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2GRAY)
    return made


def _same_shape(one: tuple[float, float], other: tuple[float, float], more: float = 0.0) -> bool:
    ratio = one[0] * other[1] / (one[1] * other[0])
    slack = ASPECT + more + 1.0 / min(*one, *other)
    return 1 / (1 + slack) <= ratio <= 1 + slack
