"""Where a picture came from, written into the PNG itself: for people (A1111 `parameters`), for machines (iTXt
`bowerbird`, JSON that reproduces it) and for the web (XMP, `xmp.py`)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import xmp
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import atomic_path
from bowerbird.core.images import open_image
from bowerbird.core.text import parse_json, printable, to_json

if TYPE_CHECKING:
    from PIL import Image

KEY = "bowerbird"
MOST_CHARACTERS = 2**24
"""Of a record that is read; one with four pictures of 1024 pixels has half as many."""

Sign = Callable[[bytes], bytes]


def parameters(record: dict[str, Any]) -> str:
    """The A1111 text form of a generation record: the request on the first line, settings on the second."""
    first = _asked(record) or "(unconditional)"
    settings = {
        "Steps": " + ".join(map(str, record["steps"])) if isinstance(record["steps"], list) else record["steps"],
        "Sampler": record["sampler"],
        "CFG scale": record["guidance_scale"],
        "Seed": record["seed"],
        "Size": f"{record['size'][0]}x{record['size'][1]}",
        "Model": record["model"]["name"],
        "Model hash": record["model"]["fingerprint"],
    }
    if "edit" in record:
        how = record["edit"]
        if "image_guidance" in how:
            settings["Image CFG scale"] = how["image_guidance"]
        elif not how.get("fills"):  # a hole is filled from nothing of what was there
            settings["Denoising strength"] = how["strength"]
    return printable(first) + "\n" + ", ".join(f"{key}: {printable(str(value))}" for key, value in settings.items())


def _asked(record: dict[str, Any]) -> str:
    """What a picture was asked for with, nothing where it was not."""
    asked = record["request"]
    return str(
        asked.get("prompt") or asked.get("class") or asked.get("reference") or ", ".join(asked.get("images", []))
    )


def encode_png(image: Image.Image, record: dict[str, Any]) -> bytes:
    """`image` as PNG with its `record` (see `systems/records.py`)."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("parameters", parameters(record))
    info.add_itxt(KEY, to_json(record))
    info.add_itxt(xmp.KEY, xmp.packet(record, _asked(record)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def save_png(image: Image.Image, path: str | Path, record: dict[str, Any], *, sign: Sign | None = None) -> None:
    """Write `image` with its `record` as PNG, atomically; `sign` makes of the file's bytes those that are written."""
    data = encode_png(image, record)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data if sign is None else sign(data))


def read_png(path: str | Path) -> dict[str, Any]:
    """The record in a PNG that `save_png` wrote, whoever wrote this one; no pixel is decoded.

    Raises: BowerbirdError when there is no such file, or it carries no record that can be read.
    """
    try:
        with open_image(path, formats=("PNG",)) as image:
            text = image.info.get(KEY)
    except OSError as error:
        raise BowerbirdError(f"{path}: cannot be read as a PNG ({error.strerror or error})") from error
    except Exception as error:  # Pillow raises nearly anything on hostile bytes
        raise BowerbirdError(f"{path}: cannot be read as a PNG ({type(error).__name__}: {error})") from error
    record = parse_json(text, str(path), "record", characters=MOST_CHARACTERS) if isinstance(text, str) else None
    if not isinstance(record, dict):
        raise BowerbirdError(f"{path}: carries no bowerbird record; give a PNG that bowerbird generate wrote")
    return record
