"""The machine's color emoji font as a source: one picture a character, its Unicode name as caption.

Reads the PNG strikes (CBDT) of fonts such as Noto Color Emoji with fontTools; nothing is drawn by a system library.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.fonts import font_folders

if TYPE_CHECKING:
    from bowerbird.data.item import SourceItem

PATTERNS = ("*NotoColorEmoji*.ttf", "*Noto*Color*Emoji*.ttf", "*ColorEmoji*.ttf")


def find_emoji_font() -> Path | None:
    """The first color emoji font with PNG strikes in the usual places, or None."""
    for folder in font_folders():
        for pattern in PATTERNS:
            found = sorted(folder.rglob(pattern))
            if found:
                return found[0]
    return None


def read_emoji_font(path: Path | None = None) -> Iterator[SourceItem]:
    """One item for each single-character emoji of the font at `path` (the machine's when None).

    Raises: BowerbirdError when there is no such font, or it holds no PNG strikes.
    """
    from bowerbird.data.item import SourceItem

    path = path or find_emoji_font()
    if path is None:
        raise BowerbirdError(
            "emoji-font: this machine has no color emoji font; install one (Debian: apt install"
            " fonts-noto-color-emoji) or give a folder"
        )
    strikes, characters = _open(path)
    for code, glyph in sorted(characters.items()):
        bitmap = strikes.get(glyph)
        name = unicodedata.name(chr(code), "").lower()
        if bitmap is not None and name and code > 0x2000 and not 0x1F1E6 <= code <= 0x1F1FF:
            metadata: dict[str, Any] = {"hexcode": f"{code:x}", "font": path.name}
            yield SourceItem(bytes(bitmap.imageData), f"{path.name}/{code:x}", name, metadata)


def _open(path: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """Bitmaps by glyph name, and glyph names by character."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        font = TTFont(io.BytesIO(path.read_bytes()), lazy=True)
        if "CBDT" not in font:
            raise BowerbirdError(
                f"emoji-font: {path} holds no PNG pictures (CBDT); install fonts-noto-color-emoji, or give a folder"
            )
        strikes = max(font["CBDT"].strikeData, key=len)
        return dict(strikes), dict(font.getBestCmap())
    except (TTLibError, OSError) as error:
        raise BowerbirdError(f"emoji-font: {path} cannot be read ({error})") from error
