"""Fonts for text on pictures. Pillow's own has the letters of ASCII alone; what it lacks is drawn with Matplotlib's
DejaVu Sans (Latin, Greek, Cyrillic, Arabic, Hebrew, …), then with a font of this machine."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

PLACES = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
SUFFIXES = frozenset({".ttf", ".otf", ".ttc"})
LACKING = "\u25a1"
"""Drawn for a character that no font has: a white square."""
_JOINERS = "\u200c\u200d"


def font_folders() -> list[Path]:
    """The folders of this machine where fonts usually lie."""
    places = [Path(os.path.expanduser(place)) for place in PLACES]  # stays as it is where there is no home
    return [place for place in places if place.is_dir()]


def drawable(text: str) -> str:
    """`text` with only what can be drawn on one line: marks that turn the direction of writing go, other control
    characters are question marks, and what no font has is `LACKING`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_drawable, text))


def width_of(draw: ImageDraw.ImageDraw, text: str, size: int) -> float:
    """How many pixels wide `draw_line` draws `text`."""
    return sum(draw.textlength(run, font) for run, font in _runs(text, size))


def draw_line(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, color: str, size: int) -> None:
    """Draw one line of `drawable` text, its top left at `at`; letters of all fonts stand on one line."""
    x, y = at
    base = y + _opened(None, size).getmetrics()[0]
    for run, font in _runs(text, size):
        draw.text((x, base), run, color, font, anchor="ls")
        x += draw.textlength(run, font)


def line_height(draw: ImageDraw.ImageDraw, size: int) -> int:
    """Pixels from one line to the next, without any space between."""
    return int(draw.textbbox((0, 0), "A", _opened(None, size))[3])


def _drawable(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else " " if character.isspace() else "?"
    kind = unicodedata.category(character)
    if kind == "Cf":
        return character if character in _JOINERS else ""
    if kind.startswith("C"):
        return "?"
    if kind.startswith("Z"):
        return " "
    if kind.startswith("M"):
        return character
    return character if _path_of(character) is not None else LACKING


def _runs(text: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
    """Parts of a text that one font draws; marks and joiners stay with the letter before them."""
    path: Path | None = None
    of: list[Path | None] = []
    for character in text:
        joins = character in _JOINERS or unicodedata.combining(character) or unicodedata.category(character)[0] == "M"
        if not (joins and of):
            path = _path_of(character)
        of.append(path)
    at = 0
    for path, group in groupby(of):
        end = at + len(list(group))
        yield text[at:end], _opened(path, size)
        at = end


def _path_of(character: str) -> Path | None:
    """The font that draws a character: None for Pillow's own, and for one that no font has."""
    if character.isascii():
        return None
    shipped, codes = _shipped()
    return shipped if ord(character) in codes else _of_machine().get(ord(character))


@cache
def _opened(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    found = ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise BowerbirdError(
            "Pillow was built without FreeType, which draws text; install it again: pip install -U pillow"
        )
    return found


@cache
def _shipped() -> tuple[Path, frozenset[int]]:
    """Matplotlib's DejaVu Sans, and the characters it has."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return path, frozenset(FT2Font(path).get_charmap())


@cache
def _of_machine() -> dict[int, Path]:
    """Of each character the first font of this machine that has it; sans serifs first."""
    from matplotlib.ft2font import FT2Font

    files = chain.from_iterable(folder.rglob("*") for folder in font_folders())
    fonts = [path for path in files if path.suffix.lower() in SUFFIXES]
    found: dict[int, Path] = {}
    for path in sorted(fonts, key=lambda path: ("sans" not in path.name.lower(), path.name)):
        try:
            _opened(path, 11)  # fails for fonts of bitmaps, as emoji are
            codes = FT2Font(path).get_charmap()
        except (OSError, RuntimeError):
            continue
        for code in codes:
            found.setdefault(code, path)
    return found
