"""What strangers wrote is harmless where it is shown, valid where it is written, and bounded where it is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json, printable, shorten, to_json, with_article

ACTS = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
ACTS |= {"\u2028", "\u2029", "\u200e", "\u200f", "\u061c"}


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_nothing_acts_and_nothing_is_lost(text: str) -> None:
    assert not ACTS & set(printable(text))
    printable(text).encode()  # no half of a pair
    coded = to_json({"text": text, "rows": [(text,)]})
    assert not ACTS & set(coded)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert json.loads(coded.encode()) == {"text": whole, "rows": [[whole]]}


@pytest.mark.parametrize(
    "said",
    [
        "an RDMPipeline",
        "an RACM3Pipeline",
        "an InstructPipeline",
        "an OmniGenPipeline",
        "a KNNDiffusionPipeline",
        "a ReImagenPipeline",
        "a StableDiffusionXLPipeline",
        "a UNet2DConditionModel",
        "a QwenImagePipeline",
    ],
)
def test_names_of_classes_have_the_article_they_are_spoken_with(said: str) -> None:
    assert with_article(said.split()[1]) == said


def test_what_is_shown_of_a_hostile_caption() -> None:
    assert printable("fox\n  0.999  1 \x1b]0;owned\x07 \u202egpj") == "fox   0.999  1 \\x1b]0;owned\\x07 \\u202egpj"
    assert printable("狐 🏴‍☠️ किताब é") == "狐 🏴‍☠️ किताब é"  # what joins letters stays
    assert to_json({"a": float("nan"), "b": [np.float32("inf"), np.int64(3)]}) == '{"a": null, "b": [null, 3]}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "deeper"),
        ('{"a":' * 70 + "1" + "}" * 70, "deeper"),
        ("[" + "[]," * 3_000_000 + "1]", "more than"),
        (b"\xff\xfe{", "utf-8"),
        ("1" * 5000, "digits"),
        ("", "damaged"),
    ],
)
def test_json_out_of_bounds_is_one_line(text: str | bytes, says: str) -> None:
    with pytest.raises(BowerbirdError, match=says) as caught:
        parse_json(text, "x.json", "list")
    assert str(caught.value).startswith("x.json: this list is damaged")
    assert "\n" not in str(caught.value)


def test_a_sealed_value_that_json_cannot_hold_is_read_as_it_was_written(tmp_path: Path) -> None:
    files.write_sealed(tmp_path / "a.json", {"mean": float("nan"), "names": ["\ud800x"]})
    assert files.read_sealed(tmp_path / "a.json", "facts", exactly=True) == {"mean": None, "names": ["\ufffdx"]}


def test_a_long_text_is_one_bounded_line_that_keeps_both_its_ends() -> None:
    assert shorten("a fox") == "a fox"
    long = shorten(f"begin\n{'x' * 1000} end", 60)
    assert len(long) == 60
    assert long.startswith("begin xxx")
    assert long.endswith("xxx end")
    assert len(shorten("\x1b" * 90, 60)) == 60
