"""Odd pictures are read right or refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError, PictureError


def as_bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED_LEFT = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]] * 2, np.uint8)).resize(
    (40, 20), Image.Resampling.NEAREST
)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    turned = images.decode(as_bytes(RED_LEFT, "JPEG", exif=exif, quality=95), "turned.jpg")
    assert turned.size == (20, 40)
    top = turned.getpixel((10, 2))
    assert top[0] > 200 > 60 > top[2]


def test_palette_with_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert images.decode(as_bytes(clear.convert("P")), "p.png").mode == "RGB"
    assert images.decode(as_bytes(clear), "clear.png").getpixel((4, 4)) == (255, 255, 255)


def test_cmyk_16_bit_animation_and_wrong_extension() -> None:
    assert images.decode(as_bytes(RED_LEFT.convert("CMYK"), "JPEG", quality=95), "cmyk.png").getpixel((5, 10))[0] > 200
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert images.decode(as_bytes(deep), "deep.png").getpixel((0, 0)) == (127, 127, 127)
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    assert images.decode(as_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:]), "a.gif").getpixel(
        (0, 0)
    ) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_picture_is_refused_by_name(kind: str) -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = as_bytes(noisy, kind)
    with pytest.raises(PictureError, match="holiday"):
        images.decode(whole[: len(whole) // 2], "holiday")


def test_bomb_is_refused_before_it_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    with pytest.raises(PictureError, match=r"bomb\.png"):
        images.decode(bomb, "bomb.png")


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_picture_or_a_picture_error(data: bytes) -> None:
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF"):
        message = ""
        try:
            assert images.decode(start + data, "x").mode == "RGB"
        except PictureError as error:
            message = str(error)
        assert message == "" or message.startswith("x: ")


def test_square_takes_the_middle_and_keeps_mode() -> None:
    wide = Image.new("RGB", (30, 10), "white")
    wide.paste("black", (10, 0, 20, 10))
    assert np.asarray(images.square(wide, 10)).max() == 0
    assert images.square(wide.convert("RGBA"), 5).mode == "RGBA"


def test_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(BowerbirdError, match=r"nowhere\.png"):
        images.read(tmp_path / "nowhere.png")
