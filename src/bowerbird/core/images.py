"""Reading pictures that strangers made: the formats of `FORMATS`, to RGB, or a clear refusal by name.

Handles what collections really hold: EXIF rotation, palettes, CMYK, 12 and 16 bits, transparency, animation (first
frame), wrong extensions, long texts in PNGs. Decoding has a size cap, and a truncated file is an error here, not a
gray picture later.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError, PictureError
from bowerbird.core.files import atomic_path

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 50_000_000
"""Largest picture that is decoded, in pixels. A larger JPEG is decoded at a half, a quarter or an eighth."""
MOST_PIXELS = 178_956_970
"""What `max_pixels` may be at most, and what a JPEG may have before it is decoded smaller: Pillow's own limit."""

FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
    "JXL": (".jxl",),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "ICO": (".ico",),
    "ICNS": (".icns",),
    "DIB": (".dib",),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "PCX": (".pcx",),
    "PSD": (".psd",),
    "TGA": (".tga",),  # the last, as it has no signature to know it by
}
"""Pillow's names of the formats that are read, with their suffixes. No other is opened, whatever a file is called:
Pillow would start Ghostscript on PostScript."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
PLUG_INS = {"HEIF": ("pillow_heif", "pillow-heif"), "JXL": ("pillow_jxl", "pillow-jxl-plugin")}
"""Formats that Pillow has from another package: its module, and what pip calls it."""
_BRANDS = {b"heic": "HEIF", b"heix": "HEIF", b"hevc": "HEIF", b"heim": "HEIF", b"heis": "HEIF", b"mif1": "HEIF"}
_BRANDS |= {b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF"}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@cache
def readable_formats() -> tuple[str, ...]:
    """The names in `FORMATS` that Pillow can read on this machine; its plug-ins are loaded here."""
    from PIL import Image

    for name, (module, _) in PLUG_INS.items():
        try:
            plug_in = import_module(module)
        except ImportError:
            continue
        if name == "HEIF":
            plug_in.register_heif_opener(thumbnails=False)
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(source: IO[bytes] | str | Path, *, formats: Sequence[str] | None = None) -> Image.Image:
    """What `PIL.Image.open` gives, of no other formats than those of `FORMATS` (or of these `formats`).

    The one place that opens a picture file. Raises: what Pillow raises.
    """
    from PIL import Image

    return Image.open(source, formats=list(readable_formats() if formats is None else formats))


def check_max_pixels(max_pixels: int) -> int:
    """`max_pixels` as it is. Raises: BowerbirdError when it is not a size that Pillow decodes."""
    if not 1 <= max_pixels <= MOST_PIXELS:
        raise BowerbirdError(f"`max_pixels` {max_pixels}: give from 1 to {MOST_PIXELS}, as in 100000000")
    return max_pixels


def decode(
    data: bytes,
    name: str,
    background: str | None = "white",
    *,
    at_least: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The picture in `data` as RGB (transparency laid on `background`), or RGBA where `background` is None.

    `name` is only used to say which picture is wrong. With `at_least`, a large picture comes out at a whole fraction
    of its size, its shorter side still that many pixels: a JPEG is decoded so, in a fraction of the time, and no large
    picture stays in memory. A JPEG of more than `max_pixels` comes out at a half, a quarter or an eighth.
    Raises: PictureError when the bytes are no picture, are cut short, or decode to more than `max_pixels`.
    """
    try:
        return _decode(data, name, background, at_least, max_pixels)
    except PictureError:
        raise
    except (
        Exception
    ) as error:  # Pillow's plug-ins raise nearly anything on hostile bytes; the name is what the user needs
        bare = without_text(data)
        if len(bare) < len(data):  # Pillow refuses a PNG for its long texts, of which nothing is needed here
            return decode(bare, name, background, at_least=at_least, max_pixels=max_pixels)
        raise PictureError(f"{name}: {_reason(data, error)}".replace("\n", " ")) from error


def _decode(data: bytes, name: str, background: str | None, at_least: int | None, max_pixels: int) -> Image.Image:
    from PIL import ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = open_image(io.BytesIO(data))
        image.seek(0)
        if image.format in ("JPEG", "MPO"):
            scale = 1
            while scale < 8 and image.width * image.height > max_pixels * scale * scale:
                scale *= 2
            scale = max(scale, 1 if at_least is None else min(image.size) // at_least)
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise PictureError(
                f"{name}: {image.width} x {image.height} pixels is over the cap of {max_pixels:,}; scale it down, or"
                " raise `max_pixels`"
            )
        with _DECODING.of(pixels):
            image.load()
            image = ImageOps.exif_transpose(image)
            if background is not None and image.mode in ("RGB", "L") and "transparency" not in image.info:
                # nothing shows through, and laying it on a background takes as long as decoding it
                return reduced(image.convert("RGB"), at_least)
            rgba = _to_rgba(image)
            return reduced(rgba if background is None else on_background(rgba, background), at_least)


def _reason(data: bytes, error: Exception) -> str:
    """Why `data` is not read, in words."""
    brand = "JXL" if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")) else None
    if data[4:8] == b"ftyp":
        brand = _BRANDS.get(data[8:12])
    if brand in PLUG_INS and brand not in readable_formats():
        return f"a {brand} picture, which Pillow reads with a plug-in: pip install {PLUG_INS[brand][1]}"
    if not data:
        return "the file is empty"
    if type(error).__name__ == "UnidentifiedImageError":
        return f"not a readable picture (of no format that is read; it begins with {data[:12]!r})"
    return f"not a readable picture ({type(error).__name__}: {error})"


def without_text(data: bytes) -> bytes:
    """A PNG without its texts and color profile; anything else as it is."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


class _Gate:
    """Lets pictures of up to `most` pixels in all be decoded at once, and a larger one alone: threads decode many, and
    memory is not to grow with the cores."""

    def __init__(self, most: int) -> None:
        self.most, self.inside, self.turn = most, 0, threading.Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        with self.turn:
            self.turn.wait_for(lambda: not self.inside or self.inside + pixels <= self.most)
            self.inside += pixels
        try:
            yield
        finally:
            with self.turn:
                self.inside -= pixels
                self.turn.notify_all()


_DECODING = _Gate(MAX_PIXELS)


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
    """Any Pillow mode to RGBA; grays of more than 8 bits are scaled by the range they use, as Pillow would clip them to
    white.

    The range is 8, 10, 12, 14 or 16 bits, the least that holds the picture: a microscope's 12 bits lie in 16, and
    nothing in the file says so."""
    import numpy as np
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        gray = np.asarray(image, dtype=np.float64)
        highest = float(np.nan_to_num(gray).max(initial=0))
        whole = [2.0**bits - 1 for bits in (8, 10, 12, 14, 16)]
        top = max(1.0, highest) if image.mode == "F" else next((t for t in whole if highest <= t), highest)
        image = Image.fromarray((np.nan_to_num(gray).clip(0, top) * (255.0 / top)).astype(np.uint8))
    return image.convert("RGBA")


def read(path: str | Path) -> Image.Image:
    """The picture file at `path`, as RGB on white.

    Raises: PictureError when there is no such file or it is no picture.
    """
    return _read(Path(path), "white")


def read_with_alpha(path: str | Path) -> Image.Image:
    """As `read`, as RGBA."""
    return _read(Path(path), None)


def _read(path: Path, background: str | None) -> Image.Image:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path}: cannot be read ({error.strerror}); give the path of a picture file") from error
    return decode(data, str(path), background)


def check_opened(images: Iterable[Any], parameter: str) -> None:
    """Raises: BowerbirdError for one of `images`, which a `parameter` was given, that is no opened picture."""
    from PIL import Image

    for image in images:
        if not isinstance(image, Image.Image):
            raise BowerbirdError(
                f"`{parameter}`: takes PIL images, and got {type(image).__name__}; open files with"
                " PIL.Image.open, arrays with PIL.Image.fromarray"
            )


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


def fitted(image: Image.Image, edge: int) -> Image.Image:
    """The whole of `image`, its longer side scaled to `edge` as `square` scales; keeps the mode."""
    from PIL import Image

    longer, size = max(image.size), _fitted_size(image.size, edge)
    if longer == edge:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0 if longer > 2 * edge else None)


def framed(image: Image.Image, edge: int, color: str | None = None) -> Image.Image:
    """The whole of an RGB `image` in the middle of a square of `edge` pixels, on `color`, or on the color of its
    border where that is None."""
    from PIL import Image

    whole = fitted(image, edge)
    if whole.size == (edge, edge):
        return whole
    canvas = Image.new("RGB", (edge, edge), _border_color(whole) if color is None else color)
    canvas.paste(whole, frame_of(whole.size, edge)[:2])
    return canvas


def frame_of(size: tuple[int, int], edge: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a picture of `size` where `framed` puts it."""
    width, height = _fitted_size(size, edge)
    left, top = (edge - width) // 2, (edge - height) // 2
    return left, top, left + width, top + height


def _fitted_size(size: tuple[int, int], edge: int) -> tuple[int, int]:
    width, height = (max(1, round(side * edge / max(size))) for side in size)
    return width, height


def _border_color(image: Image.Image) -> tuple[int, ...]:
    """The median of the pixels along the edges, channel by channel."""
    import numpy as np

    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(border, 0))


def write(image: Image.Image, path: str | Path) -> None:
    """Write a picture in the format that the ending of `path` names, whole or not at all. Raises: BowerbirdError for an
    ending that names none."""
    from PIL import Image

    form = Image.registered_extensions().get(Path(path).suffix.lower())
    if form not in Image.SAVE:
        raise BowerbirdError(f"{path}: its ending names no picture format; give a name such as sheet.png")
    with atomic_path(path) as temporary:
        image.save(temporary, form)


def encode_png(image: Image.Image) -> bytes:
    """`image` as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
