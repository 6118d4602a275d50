"""Contact sheets: pictures in rows, words beside them. Knows pictures and text only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bowerbird.core import fonts

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

INK, PALE = "#222222", "#8a8a8a"
SMALL, LARGE, LARGEST = 11, 15, 18
"""Sizes of text in pixels: under a picture, beside a row, above all."""


def grid(rows: Sequence[Sequence[Image.Image | None]], *, size: int | None = None) -> Image.Image:
    """Pictures in a plain grid on white, each scaled to `size` pixels (the first picture's edge when None); None leaves
    a cell empty."""
    from PIL import Image

    size = size or next(image for row in rows for image in row if image is not None).width
    width, gap = max(len(row) for row in rows), 4
    canvas = Image.new("RGB", (gap + width * (size + gap), gap + len(rows) * (size + gap)), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            if image is not None:
                canvas.paste(_fit(image, size), (gap + c * (size + gap), gap + r * (size + gap)))
    return canvas


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """Where two pictures differ, dark on white, at the size of `after`: the largest difference of the three colors."""
    from PIL import ImageChops, ImageOps

    from bowerbird.core.images import fitted, square

    scaled = square if after.width == after.height else fitted
    apart = ImageChops.difference(scaled(before.convert("RGB"), max(after.size)), after.convert("RGB")).split()
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
    from PIL import Image, ImageDraw

    noted = any(note for row in notes for note in row)
    left, gap, under, top = 190, 8, 54 if noted else 30, 44 if title else 8
    width = left + max(len(images) for _, images, _ in rows) * (size + gap) + gap
    canvas = Image.new("RGB", (width, top + len(rows) * (size + under)), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        _write(draw, (10, 12), _wrap(draw, title, LARGEST, width - 20, 1), INK, LARGEST)
    for r, (label, images, words) in enumerate(rows):
        y = top + r * (size + under)
        _write(draw, (10, y + 6), _wrap(draw, label, LARGE, left - 20, 5), INK, LARGE, spacing=3)
        for c, image in enumerate(images):
            x = left + c * (size + gap)
            if image is not None:
                canvas.paste(_fit(image, size), (x, y))
            word = _wrap(draw, words[c], SMALL, size, 2) if c < len(words) else []
            note = _wrap(draw, notes[r][c], SMALL, size, 2) if r < len(notes) and c < len(notes[r]) else []
            _write(draw, (x, y + size + 2), word, PALE, SMALL)
            _write(draw, (x, y + size + 2 + 12 * len(word)), note, INK, SMALL)
        if divide is not None:
            x = left + divide * (size + gap) - gap // 2
            draw.line((x, y, x, y + size), "#cccccc")
    return canvas


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], color: str, size: int, *, spacing: int = 1
) -> None:
    for number, line in enumerate(lines):
        fonts.draw_line(draw, (at[0], at[1] + number * (fonts.line_height(draw, size) + spacing)), line, color, size)


def _fit(image: Image.Image, size: int) -> Image.Image:
    """`image` at `size`: small ones enlarged smoothly, large ones reduced; kept square by cropping."""
    from PIL import Image

    from bowerbird.core.images import square

    square_image = square(image, min(image.size))
    return square_image if square_image.width == size else square_image.resize((size, size), Image.Resampling.LANCZOS)


def _wrap(draw: ImageDraw.ImageDraw, text: str, size: int, width: int, most: int) -> list[str]:
    """The first `most` lines of `text`, each of at most `width` pixels, and three dots where there is more. Words that
    are wider than a line, and those of scripts without blanks, go on in the next. No more of the text is looked at than
    could be shown."""
    start = text[: 4 * most * width].lstrip()[: most * width]  # no character is narrower than a pixel
    words = fonts.drawable(start).split()
    lines: list[str] = []
    while words and len(lines) <= most:
        word = words.pop(0)
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and fonts.width_of(draw, joined, size) <= width:
            lines[-1] = joined
        elif fonts.width_of(draw, word, size) <= width:
            lines.append(word)
        else:
            fits = _fitting(draw, word, size, width)
            lines.append(word[:fits])
            words.insert(0, word[fits:])
    return lines if len(lines) <= most else [*lines[: most - 1], _dotted(draw, lines[most - 1], size, width)]


def _fitting(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> int:
    """How many characters of `text` are at most `width` pixels wide, one at least."""
    wide = 0.0
    for number, character in enumerate(text):
        wide += fonts.width_of(draw, character, size)
        if wide > width:
            return max(1, number)
    return len(text)


def _dotted(draw: ImageDraw.ImageDraw, line: str, size: int, width: int) -> str:
    """The start of a line, and three dots."""
    return line[: _fitting(draw, line, size, width - int(fonts.width_of(draw, "...", size)))].rstrip() + "..."
