"""Odd pictures are read right or refused by name."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

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


@pytest.mark.parametrize("size", [(90, 60), (40, 200), (64, 64), (63, 64), (1000, 2), (20, 30)])
def test_a_whole_picture_in_a_square_comes_out_again_in_its_shape(size: tuple[int, int]) -> None:
    picture = Image.effect_noise(size, 80).convert("RGB")
    whole = images.fitted(picture, 64)
    assert max(whole.size) == 64
    assert abs(whole.width / whole.height - size[0] / size[1]) <= 0.02 * size[0] / size[1] or min(whole.size) < 8
    shown = images.framed(picture, 64)
    assert shown.size == (64, 64)
    assert shown.crop(images.frame_of(size, 64)).tobytes() == whole.tobytes()
    assert images.framed(whole, 64).tobytes() == shown.tobytes(), "what a record keeps is framed as the picture was"
    assert images.frame_of(whole.size, 64) == images.frame_of(size, 64)
    if size[0] == size[1]:
        assert shown.tobytes() == images.square(picture, 64).tobytes()


def test_a_frame_has_the_color_of_the_border() -> None:
    picture = Image.new("RGB", (40, 20), "navy")
    picture.paste("yellow", (15, 5, 25, 15))
    assert images.framed(picture, 40).getpixel((20, 1)) == (0, 0, 128)
    assert images.framed(picture, 40, "white").getpixel((20, 1)) == (255, 255, 255)


def test_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(BowerbirdError, match=r"nowhere\.png"):
        images.read(tmp_path / "nowhere.png")


def test_no_other_place_opens_picture_files() -> None:
    source = Path(images.__file__).parents[1]
    found = [path.name for path in source.rglob("*.py") if "Image.open(" in path.read_text(encoding="utf-8")]
    assert found == ["images.py"]


def test_postscript_starts_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = tmp_path / "gs"
    ghost.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    ghost.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # as at the start of a process
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(PictureError, match=r"cat\.png: not a readable picture"):
        images.decode(program, "cat.png")
    assert not (tmp_path / "started").exists()


def test_png_with_a_long_text_is_read() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2_000_000, zip=True)
    found = images.decode(as_bytes(RED_LEFT, pnginfo=text), "comfy.png")
    assert np.array_equal(np.asarray(found), np.asarray(RED_LEFT))


def test_a_photograph_over_the_cap_is_read_at_a_half_and_a_png_is_refused() -> None:
    picture = Image.new("RGB", (200, 100), "teal")
    assert images.decode(as_bytes(picture, "JPEG"), "p.jpg", max_pixels=10_000).size == (100, 50)
    assert images.decode(as_bytes(picture, "JPEG"), "p.jpg", max_pixels=20_000).size == (200, 100)
    assert images.decode(as_bytes(picture, "JPEG"), "p.jpg", max_pixels=5_000, at_least=20).size == (50, 25)
    with pytest.raises(PictureError, match="over the cap of 19,999"):
        images.decode(as_bytes(picture), "p.png", max_pixels=19_999)


def test_grays_are_scaled_by_the_bits_they_use() -> None:
    ramp = np.linspace(0, 4095, 64).astype(np.uint16)[None].repeat(2, 0)
    found = np.asarray(images.decode(as_bytes(Image.fromarray(ramp), "TIFF"), "twelve.tif"))[0, :, 0]
    assert found[0] == 0
    assert found[-1] == 255
    assert abs(int(found[32]) - 130) <= 1
    sixteen = (ramp.astype(np.uint32) * 16).astype(np.uint16)
    found = np.asarray(images.decode(as_bytes(Image.fromarray(sixteen), "TIFF"), "sixteen.tif"))[0, :, 0]
    assert found[-1] == 65520 * 255 // 65535


def test_a_format_that_needs_a_plug_in_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    without = tuple(name for name in images.readable_formats() if name not in images.PLUG_INS)
    monkeypatch.setattr(images, "readable_formats", lambda: without)
    with pytest.raises(PictureError, match="pip install pillow-heif"):
        images.decode(b"\0\0\0\x18ftypheic" + b"\0" * 40, "phone.heic")
    with pytest.raises(PictureError, match="pip install pillow-jxl-plugin"):
        images.decode(b"\xff\x0a" + b"\0" * 40, "new.jxl")


@pytest.mark.parametrize(("kind", "module"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl"), ("AVIF", "PIL._avif")])
def test_pictures_of_telephones_are_read(kind: str, module: str) -> None:
    pytest.importorskip(module)
    images.readable_formats()
    big = RED_LEFT.resize((160, 80))
    top = images.decode(as_bytes(big, kind), "phone").getpixel((20, 40))
    assert top[0] > 180 > 60 > top[2]
