"""The process that reads pictures strangers sent: without secrets, short of memory, and ended when one takes too long.

Run as `python -m bowerbird.serve.decoder`; speaks frames on stdin and stdout.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from bowerbird.core import images, provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import json_ready
from bowerbird.serve import frames
from bowerbird.serve.limits import LIMITS, limit_memory

EDGE = 4096
"""Longest edge at which an upload is kept."""


def picture(data: bytes, name: str) -> tuple[dict[str, Any], list[bytes]]:
    """A picture as PNG of plain RGB, without what else was in the file."""
    image = images.decode(data, name)
    if max(image.size) > EDGE:
        image.thumbnail((EDGE, EDGE))
    return {"width": image.width, "height": image.height}, [images.encode_png(image)]


def thumbnail(data: bytes, name: str, size: int) -> tuple[dict[str, Any], list[bytes]]:
    """A picture as WebP, its longer edge `size` or its own."""
    image = images.decode(data, name, at_least=size, max_pixels=images.MOST_PIXELS)
    image.thumbnail((size, size))
    return {"width": image.width, "height": image.height}, [_encode(image, "webp", 80)]


def convert(data: bytes, name: str, form: str, quality: int) -> tuple[dict[str, Any], list[bytes]]:
    """A picture in another format, without its record."""
    return {}, [_encode(images.decode(data, name), form, quality)]


def record(data: bytes, name: str) -> tuple[dict[str, Any], list[bytes]]:
    """The record in a PNG, without what only making it again needs; of an edit its source as PNG."""
    try:
        found = provenance.read_png(io.BytesIO(data))  # type: ignore[arg-type]
    except BowerbirdError as error:
        raise BowerbirdError(f"{name}: carries no bowerbird record; give a PNG that bowerbird made") from error
    source = found.get("edit", {}).get("source") if isinstance(found.get("edit"), dict) else None
    blobs = [base64.b64decode(source)] if isinstance(source, str) else []
    plain = {key: value for key, value in found.items() if key not in ("embeddings", "pictures")}
    if "edit" in plain and isinstance(plain["edit"], dict):
        plain["edit"] = {key: value for key, value in plain["edit"].items() if key != "source"}
    return {"record": json_ready(plain)}, blobs


def _encode(image: Any, form: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form.upper(), **({} if form == "png" else {"quality": quality}))
    return buffer.getvalue()


TASKS: dict[str, Callable[..., tuple[dict[str, Any], list[bytes]]]] = {
    "picture": picture,
    "thumbnail": thumbnail,
    "convert": convert,
    "record": record,
}


def main() -> None:
    """Answer until stdin ends."""
    limit_memory(LIMITS.decode_bytes)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while True:
        try:
            message, blobs = frames.read_from(sys.stdin.buffer)
        except frames.Broken:
            return
        try:
            facts, found = TASKS[message.pop("do")](blobs[0], **message)
        except BowerbirdError as error:
            facts, found = {"error": str(error)}, []
        except MemoryError:
            facts, found = {"error": f"{message.get('name', 'the picture')}: needs more memory than is allowed"}, []
        except Exception as error:  # hostile bytes: whatever it is, this one picture is not read
            facts, found = (
                {"error": f"{message.get('name', 'the picture')}: cannot be read ({type(error).__name__})"},
                [],
            )
        frames.write_to(answers, facts, found)


if __name__ == "__main__":
    main()
