"""Broken pictures in seven formats: each is in or is reported, once; none crashes the process or holds it up."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core import images
from bowerbird.core.errors import PictureError
from tests.faults.plain import FULL, PlainEncoder

MUTANTS = 10_000 if FULL else 420
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}
SECONDS = 2.0


def whole(rng: np.random.Generator, suffix: str) -> bytes:
    """A small picture of that format, now and then animated, gray, transparent or with a profile's worth of
    metadata."""
    mode = str(rng.choice(["RGB", "RGB", "L"] + (["RGBA", "P"] if suffix in ("png", "gif", "webp", "tif") else [])))
    height, width = (int(n) for n in rng.integers(1, 90, 2))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
    options: dict[str, object] = {}
    if suffix in ("gif", "webp", "tif") and rng.random() < 0.3:
        options = {"save_all": True, "append_images": [image.rotate(90 * n) for n in range(1, 4)]}
    if suffix == "tif" and not options and mode != "P":
        options = {"compression": str(rng.choice(["raw", "tiff_lzw", "tiff_deflate"]))}
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[suffix], **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def broken(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """One of what happens to files: flipped bits, a cut end, a hole, a repeated part, a foreign head or tail, numbers
    at their extremes."""
    mutant = bytearray(data)
    at = int(rng.integers(0, len(mutant)))
    kind = int(rng.integers(0, 7))
    if kind == 0:
        for position in rng.integers(0, len(mutant), rng.integers(1, 20)):
            mutant[position] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        del mutant[at:]
    elif kind == 2:
        del mutant[at : at + int(rng.integers(1, 64))]
    elif kind == 3:
        mutant[at:at] = mutant[max(0, at - 64) : at] * 8
    elif kind == 4:
        mutant = bytearray(other[: min(len(other), at)]) + mutant[at:]
    elif kind == 5:
        mutant[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"])
    else:  # the head is where sizes and counts stand
        for position in rng.integers(0, min(64, len(mutant)), 3):
            mutant[position] = int(rng.integers(0, 256))
    return bytes(mutant)


def test_broken_pictures(tmp_path: Path, count: Callable[[str], None]) -> None:
    rng = np.random.default_rng(0)
    suffixes = list(FORMATS)
    folder = tmp_path / "pictures"
    folder.mkdir()
    slowest, readable, reasons = 0.0, 0, []
    for number in range(MUTANTS):
        suffix, other = suffixes[number % len(suffixes)], suffixes[int(rng.integers(0, len(suffixes)))]
        data = broken(rng, whole(rng, suffix), whole(rng, other))
        start = time.process_time()  # however busy the machine is
        try:
            images.decode(data, "x")
            readable += 1
        except PictureError as error:
            reasons.append(str(error))
        slowest = max(slowest, time.process_time() - start)
        (folder / f"{number:05d}.{suffix}").write_bytes(data)
        (folder / f"{number:05d}.txt").write_text(str(number))  # no two are the same item
    assert slowest < SECONDS
    assert not any("\n" in reason for reason in reasons)
    kb, report = KnowledgeBase.build(tmp_path / "kb", folder, encoder=PlainEncoder())
    assert len(kb) == report.added == readable
    reported = Counter(line.split(":")[0] for line in report.unreadable)
    assert set(reported.values()) == {1}
    assert report.added + len(reported) == MUTANTS
    assert not {kb.name(item) for item in kb.ids().tolist()} & set(reported)
    count(
        f"{MUTANTS} broken pictures in {len(FORMATS)} formats: {readable} could still be read, the slowest took"
        f" {slowest:.2f} s"
    )
