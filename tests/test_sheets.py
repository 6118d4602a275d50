"""Contact sheets show every picture in its place, and cost what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bowerbird import KnowledgeBase
from bowerbird.core.contact_sheet import labeled_grid
from bowerbird.systems import queries
from bowerbird.systems.base import Capabilities
from tests.faults.plain import PlainEncoder, source


def test_of_a_long_caption_no_more_is_measured_than_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    whole = ImageDraw.ImageDraw.textlength
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "textlength",
        lambda self, text, *a, **k: measured.append(len(text)) or whole(self, text, *a, **k),
    )
    picture = Image.new("RGB", (8, 8), "red")
    short = labeled_grid([("fox word " * 60, [picture], ["fox word " * 60])])
    before, measured[:] = sum(measured), []
    long = labeled_grid([("fox word " * 60_000, [picture], ["fox word " * 60_000 + "x" * 10**6])])
    assert np.array_equal(np.asarray(long), np.asarray(short))
    assert sum(measured) == before
    measured.clear()
    labeled_grid([("x" * 10**6, [picture], [" " * 10**6 + "x" * 10**6])])
    assert sum(measured) < 10_000


def test_the_picture_that_was_asked_with_is_on_the_sheet(tmp_path: Path) -> None:
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(5)), encoder=PlainEncoder())
    asked = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    hits = queries.by_images(kb, asked, 4).repeat(2)
    shown = hits.images()
    assert [[cell is None for cell in row] for row in shown] == [[False] * 4] * 2
    assert shown[1][0] is asked[0]
    assert shown[1][1] is asked[1]
    items = kb.pictures(hits.ids[:1, 2:])[0]
    assert np.array_equal(np.asarray(shown[0][2]), np.asarray(items[0]))
    only = hits.select([1, 3]).images()[0]
    assert only[0] is asked[1]
    assert np.array_equal(np.asarray(only[1]), np.asarray(items[1]))
    texts = queries.by_text(kb, ["red"], 3, text_mode="text+neighbors").images()[0]
    assert [cell is None for cell in texts] == [True, False, False]  # a text has no picture


def text_on(sheet: Image.Image) -> np.ndarray:
    """What is written beside the first row."""
    return np.asarray(sheet.crop((0, 0, 186, sheet.height)))


def test_letters_of_other_scripts_are_drawn_and_not_replaced() -> None:
    picture = Image.new("RGB", (8, 8), "red")
    sheets = [text_on(labeled_grid([(word, [picture], [""])])) for word in ("ü", "ß", "р", "ы", "λ", "ש", "?", "□")]
    for i, one in enumerate(sheets):
        assert (one < 128).any()
        assert not any(np.array_equal(one, other) for other in sheets[i + 1 :])
    joined = [text_on(labeled_grid([(word, [picture], [""])])) for word in ("a\u202eb", "ab", "a\x1bb", "a?b")]
    assert np.array_equal(joined[0], joined[1])  # a mark that turns the direction of writing
    assert np.array_equal(joined[2], joined[3])


def test_a_text_without_blanks_goes_on_in_the_next_line() -> None:
    picture = Image.new("RGB", (8, 8), "red")
    first = "abcdefghij" * 2
    whole, start = (text_on(labeled_grid([(word, [picture], [""])])) for word in (first + "klmno", first))
    assert (whole < 128).any(axis=(1, 2)).sum() > (start < 128).any(axis=(1, 2)).sum()
    cut, more = (labeled_grid([("", [picture], ["word " * count])]) for count in (200, 400))
    assert np.array_equal(np.asarray(cut), np.asarray(more))
    one, two = (labeled_grid([("", [picture], ["wide word " * count])]) for count in (2, 3))
    assert not np.array_equal(np.asarray(one), np.asarray(two))  # three dots: there is more


def test_a_size_far_from_the_trained_one_is_said() -> None:
    can = Capabilities(sizes=(64,))
    assert can.far_size(None, None) is None
    assert can.far_size(64, 96) is None
    assert "768 px is far from the 64 px" in str(can.far_size(64, 768))
    assert "16 px is far" in str(can.far_size(16, None))
    assert Capabilities(sizes=(32, 64)).far_size(256, None) is None  # a cascade refuses it, with its sizes
