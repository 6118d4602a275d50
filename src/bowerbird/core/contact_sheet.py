"""Contact sheets: pictures in rows, words beside them. Knows pictures and text only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

INK, PALE = "#222222", "#8a8a8a"


def grid(rows: Sequence[Sequence[Image.Image | None]], *, size: int | None = None, gap: int = 4) -> Image.Image:
    """Pictures in a plain grid on white, each scaled to `size` (the first picture's edge when None); None leaves a
    cell empty."""
    from PIL import Image

    first = next(image for row in rows for image in row if image is not None)
    size = size or first.width
    width = max(len(row) for row in rows)
    canvas = Image.new("RGB", (gap + width * (size + gap), gap + len(rows) * (size + gap)), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            if image is not None:
                canvas.paste(_fit(image, size), (gap + c * (size + gap), gap + r * (size + gap)))
    return canvas


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """Where two pictures differ, dark on white, at the size of `after`: the largest difference of the three colors."""
    from PIL import ImageChops, ImageOps

    from bowerbird.core.images import square

    apart = ImageChops.difference(square(before.convert("RGB"), after.width), after.convert("RGB")).split()
    return ImageOps.invert(ImageChops.lighter(ImageChops.lighter(apart[0], apart[1]), apart[2])).convert("RGB")


def labeled_grid(
    rows: Sequence[tuple[str, Sequence[Image.Image | None], Sequence[str]]],
    *,
    title: str = "",
    size: int = 96,
    divide: int | None = None,
    notes: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Rows of (label, pictures, a word under each) with the label on the left.

    `divide`: a thin line before that column, between pictures that were generated and the neighbors they came from.
    `notes`: of each row a further text under each picture, two lines at most.
    """
    from PIL import Image, ImageDraw, ImageFont

    noted = any(note for row in notes for note in row)
    left, gap, under, top = 190, 8, 54 if noted else 30, 44 if title else 8
    small, large = ImageFont.load_default(11), ImageFont.load_default(15)
    width = left + max(len(images) for _, images, _ in rows) * (size + gap) + gap
    canvas = Image.new("RGB", (width, top + len(rows) * (size + under)), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((10, 12), title, INK, ImageFont.load_default(18))
    for r, (label, images, words) in enumerate(rows):
        y = top + r * (size + under)
        draw.multiline_text((10, y + 6), "\n".join(_wrap(draw, label, large, left - 20, 5)), INK, large, spacing=3)
        for c, image in enumerate(images):
            x = left + c * (size + gap)
            if image is not None:
                canvas.paste(_fit(image, size), (x, y))
            word = _wrap(draw, words[c], small, size, 2) if c < len(words) else []
            note = _wrap(draw, notes[r][c], small, size, 2) if r < len(notes) and c < len(notes[r]) else []
            draw.multiline_text((x, y + size + 2), "\n".join(word), PALE, small, spacing=1)
            draw.multiline_text((x, y + size + 2 + 12 * len(word)), "\n".join(note), INK, small, spacing=1)
        if divide is not None:
            x = left + divide * (size + gap) - gap // 2
            draw.line((x, y, x, y + size), "#cccccc")
    return canvas


def _fit(image: Image.Image, size: int) -> Image.Image:
    """`image` at `size`: small ones enlarged smoothly, large ones reduced; kept square by cropping."""
    from PIL import Image

    from bowerbird.core.images import square

    square_image = square(image, min(image.size))
    return square_image if square_image.width == size else square_image.resize((size, size), Image.Resampling.LANCZOS)


def _wrap(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int
) -> list[str]:
    """The first `most` lines of `text`, each of at most `width` pixels; control characters and what the font lacks
    become plain. No more of the text is looked at than could be shown."""
    start = text[: 4 * most * width].lstrip()[: most * width]  # no character is narrower than a pixel
    clean = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in start)
    lines: list[str] = []
    for word in clean.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(joined, font) <= width:
            lines[-1] = joined
        elif len(lines) == most:
            break
        else:
            lines.append(
                word
                if draw.textlength(word, font) <= width
                else word[: max(1, int(width / max(1.0, draw.textlength("n", font))))]
            )
    return lines
