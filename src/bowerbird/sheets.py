"""Contact sheets: pictures in rows, labels beside them. Knows pictures and text only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def grid(rows: Sequence[Sequence[Image.Image | None]], *, size: int | None = None, gap: int = 4) -> Image.Image:
    """Pictures in a plain grid on white, each scaled to `size` (the first picture's edge when None); None leaves a cell empty."""
    from PIL import Image

    first = next(image for row in rows for image in row if image is not None)
    size = size or first.width
    width = max(len(row) for row in rows)
    canvas = Image.new("RGB", (gap + width * (size + gap), gap + len(rows) * (size + gap)), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            if image is not None:
                cell = image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)
                canvas.paste(cell, (gap + c * (size + gap), gap + r * (size + gap)))
    return canvas
