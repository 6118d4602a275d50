"""How a picture becomes the input of a network: resized, its middle square, normalized; as `preprocessor_config.json`
of a directory says, with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.models import network_files

if TYPE_CHECKING:
    from PIL import Image

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BILINEAR, BICUBIC = 2, 3
"""Pillow's numbers."""
MOST_EDGE = 4096


@dataclass(frozen=True)
class PictureInput:
    """`size`: the side of the square that goes in. `shortest`: the shorter edge is resized to this first, and the
    middle square cut out; None squeezes the whole picture into the square."""

    size: int
    shortest: int | None = None
    resample: int = BICUBIC
    mean: tuple[float, ...] = IMAGENET[0]
    deviation: tuple[float, ...] = IMAGENET[1]

    def __str__(self) -> str:
        how = "the whole squeezed to" if self.shortest is None else f"shorter edge {self.shortest} px, middle square of"
        return f"{how} {self.size} px, {'bilinear' if self.resample == BILINEAR else 'bicubic'}"

    def array(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """RGB pictures of any size -> float32 `(n, 3, size, size)`."""
        mean, deviation = np.asarray(self.mean, np.float32), np.asarray(self.deviation, np.float32)
        made = np.stack([np.asarray(self._square(picture.convert("RGB")), np.float32) for picture in pictures])
        return np.ascontiguousarray(((made / 255 - mean) / deviation).transpose(0, 3, 1, 2), np.float32)

    def _square(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        resample, size = Image.Resampling(self.resample), self.size
        if self.shortest is None:
            return picture.resize((size, size), resample)
        short = min(picture.size)
        # no edge over 16 times the shorter one: a picture of one line is not blown up to gigabytes
        width, height = (min(int(self.shortest * edge / short), 16 * self.shortest) for edge in picture.size)
        left, top = (width - size) // 2, (height - size) // 2
        return picture.resize((width, height), resample).crop((left, top, left + size, top + size))


def read(folder: Path, usual: PictureInput) -> PictureInput:
    """What `preprocessor_config.json` of `folder` says, over what is `usual`. Raises: BowerbirdError for a size that is
    out of bounds."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return usual
    config = network_files.check_config(path)
    size, crop = config.get("size"), config.get("crop_size")
    shortest = size.get("shortest_edge") if isinstance(size, dict) else None
    cut = config.get("do_center_crop", shortest is not None)
    square = crop if cut and crop is not None else size
    made = PictureInput(
        _edge(path, square, usual.size),
        None if not cut else _edge(path, size, usual.shortest or usual.size),
        BILINEAR if config.get("resample") == BILINEAR else BICUBIC if "resample" in config else usual.resample,
        _three(path, config.get("image_mean"), usual.mean),
        _three(path, config.get("image_std"), usual.deviation),
    )
    if made.shortest is not None and made.shortest < made.size:
        raise BowerbirdError(f"{path}: cuts {made.size} pixels out of {made.shortest}; fetch the directory again")
    return made


def _edge(path: Path, value: Any, usual: int) -> int:
    if isinstance(value, dict):
        value = value.get("shortest_edge", value.get("height", usual))
    edge = usual if value is None else value
    if not isinstance(edge, int) or not 8 <= edge <= MOST_EDGE:
        raise BowerbirdError(f"{path}: pictures of {str(edge)[:40]} pixels, 8 to {MOST_EDGE} are possible")
    return edge


def _three(path: Path, value: Any, usual: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return usual
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise BowerbirdError(f"{path}: mean and deviation are three numbers each; fetch the directory again")
    return tuple(map(float, value))
