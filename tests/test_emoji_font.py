"""The emoji font source, on a font that the test builds itself: two glyphs with PNG strikes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import BigGlyphMetrics, SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import BitmapSizeTable, SbitLineMetrics, Strike, eblc_index_sub_table_1

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.drawn import read_drawn
from bowerbird.data.emoji_font import read_emoji_font

GLYPHS = {0x1F431: "cat", 0x1F34E: "apple"}


def build_font(path: Path) -> None:
    """A TrueType font with a CBDT strike of drawn pictures."""
    builder = FontBuilder(1024)
    names = [".notdef", *GLYPHS.values()]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(GLYPHS))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1024, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-124)
    builder.setupNameTable({"familyName": "Test Emoji", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    font = builder.font
    drawn = {item.caption: item.data for item in read_drawn()}
    pictures = {"cat": drawn["an orange cat"], "apple": drawn["a red apple"]}
    strikes = {}
    for glyph, data in pictures.items():
        bitmap = cbdt_bitmap_format_17(b"", font)
        bitmap.metrics = SmallGlyphMetrics()
        for field in ("height", "width", "BearingX", "BearingY", "Advance"):
            setattr(bitmap.metrics, field, 100)
        bitmap.imageData = data
        strikes[glyph] = bitmap
    font["CBDT"] = newTable("CBDT")
    font["CBDT"].version, font["CBDT"].strikeData = 3.0, [strikes]
    strike = Strike()
    strike.bitmapSizeTable = BitmapSizeTable()
    for side in ("hori", "vert"):
        line = SbitLineMetrics()
        for field in (
            "ascender",
            "descender",
            "widthMax",
            "caretSlopeNumerator",
            "caretSlopeDenominator",
            "caretOffset",
        ):
            setattr(line, field, 0)
        for field in ("minOriginSB", "minAdvanceSB", "maxBeforeBL", "minAfterBL", "pad1", "pad2"):
            setattr(line, field, 0)
        setattr(strike.bitmapSizeTable, side, line)
    size = strike.bitmapSizeTable
    size.colorRef, size.startGlyphIndex, size.endGlyphIndex = 0, 1, 2
    size.ppemX = size.ppemY = 109
    size.bitDepth, size.flags = 32, 1
    index = eblc_index_sub_table_1(b"", font)
    index.indexFormat, index.imageFormat, index.names = 1, 17, list(pictures)
    index.firstGlyphIndex, index.lastGlyphIndex = 1, 2
    index.metrics = BigGlyphMetrics()
    strike.indexSubTables = [index]
    font["CBLC"] = newTable("CBLC")
    font["CBLC"].version, font["CBLC"].strikes = 3.0, [strike]
    font.save(path)


def test_font_becomes_captioned_pictures(tmp_path: Path) -> None:
    build_font(tmp_path / "emoji.ttf")
    items = {item.caption: item for item in read_emoji_font(tmp_path / "emoji.ttf")}
    assert set(items) == {"cat face", "red apple"}
    apple = images.decode(items["red apple"].data, "apple")
    red, green, _ = apple.getpixel((64, 80))
    assert red > 180 > green
    assert items["cat face"].metadata == {"hexcode": "1f431", "font": "emoji.ttf"}


def test_what_is_no_font_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.ttf").write_text("no font")
    with pytest.raises(BowerbirdError, match=r"no\.ttf"):
        list(read_emoji_font(tmp_path / "no.ttf"))
