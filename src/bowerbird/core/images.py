"""Reading pictures that strangers made: any format Pillow knows, to RGB, or a clear refusal by name.

Handles what collections really hold: EXIF rotation, palettes, CMYK, 16-bit, transparency, animation (first frame),
wrong extensions. Decoding has a size cap, and a truncated file is an error here, not a gray picture later.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 40_000_000
"""Largest picture that is decoded, in pixels; Pillow's own limit is four times this."""

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".ico"}
)


def decode(data: bytes, name: str, background: str | None = "white", *, at_least: int | None = None) -> Image.Image:
    """The picture in `data` as RGB (transparency laid on `background`), or RGBA where `background` is None.

    `name` is only used to say which picture is wrong. With `at_least`, a large picture comes out at a whole fraction
    of its size, its shorter side still that many pixels: a JPEG is decoded so, in a fraction of the time, and no large
    picture stays in memory.
    Raises: PictureError when the bytes are no picture, are cut short, or decode to more than `MAX_PIXELS`.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(
                    f"{name}: {image.width} x {image.height} pixels is over the cap of {MAX_PIXELS:,}; scale it down"
                )
            image.seek(0)
            if at_least is not None and image.format == "JPEG" and min(image.size) >= 2 * at_least:
                scale = min(image.size) // at_least
                image.draft(None, (image.width // scale, image.height // scale))
            image.load()
            image = ImageOps.exif_transpose(image)
            if background is not None and image.mode in ("RGB", "L") and "transparency" not in image.info:
                return reduced(
                    image.convert("RGB"), at_least
                )  # nothing shows through, and laying it on a background takes as long as decoding it
            rgba = _to_rgba(image)
    except PictureError:
        raise
    except (
        Exception
    ) as error:  # Pillow's plug-ins raise nearly anything on hostile bytes; the name is what the user needs
        raise PictureError(
            f"{name}: not a readable picture ({type(error).__name__}: {error})".replace("\n", " ")
        ) from error
    return reduced(rgba if background is None else on_background(rgba, background), at_least)


def reduced(image: Image.Image, at_least: int | None) -> Image.Image:
    """The picture divided by the largest whole number that leaves its shorter side `at_least` pixels."""
    factor = 1 if at_least is None else min(image.size) // at_least
    return image.reduce(factor) if factor > 1 else image


def on_background(image: Image.Image, background: str = "white") -> Image.Image:
    """A picture of any mode as RGB, what is transparent laid on `background`."""
    from PIL import Image

    rgba = _to_rgba(image)
    canvas = Image.new("RGBA", rgba.size, background)
    canvas.alpha_composite(rgba)
    return canvas.convert("RGB")


def _to_rgba(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGBA; 16-bit and float grays are scaled by their own range, as Pillow would clip them to
    white."""
    import numpy as np
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        gray = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode != "F" and gray.max(initial=0) > 255 else max(1.0, float(gray.max(initial=0)))
        image = Image.fromarray((np.nan_to_num(gray).clip(0, top) * (255.0 / top)).astype(np.uint8))
    return image.convert("RGBA")


def read(path: str | Path) -> Image.Image:
    """The picture file at `path`, as RGB on white.

    Raises: PictureError when there is no such file or it is no picture.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path}: cannot be read ({error.strerror}); give the path of a picture file") from error
    return decode(data, str(path))


def square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of `image`, scaled to `size` x `size` with an antialiasing filter; keeps the mode."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))
    return (
        image
        if side == size
        else image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0 if side > 2 * size else None)
    )


def encode_png(image: Image.Image) -> bytes:
    """`image` as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
