"""Every kind of source gives the captions and metadata it promises."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bowerbird.core.errors import BowerbirdError
from bowerbird.data import sources
from bowerbird.data.drawn import read_drawn
from bowerbird.data.filters import filter_rows
from bowerbird.data.item import SourceItem, content_id
from bowerbird.data.report import SourceReport

PICTURE = next(iter(read_drawn())).data


def test_folder_with_sidecars_and_classes(drawn_folder: Path) -> None:
    items = list(sources.read(drawn_folder))
    assert len(items) == 36
    assert {i.metadata["class"] for i in items} == {"flat", "ink"}
    assert all(i.caption.startswith("a") for i in items)
    assert [i.name for i in items] == sorted(i.name for i in items)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_folder_with_metadata_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    if kind == "jsonl":
        (tmp_path / "metadata.jsonl").write_text(
            json.dumps({"file_name": "a.png", "text": "an apple", "year": 1999}) + "\n"
        )
    else:
        (tmp_path / "metadata.csv").write_text("file_name,text,year\na.png,an apple,1999\n")
    (item,) = sources.read(tmp_path)
    assert item.caption == "an apple"
    assert str(item.metadata["year"]) == "1999"


def test_class_folder_names_become_captions(tmp_path: Path) -> None:
    (tmp_path / "red_fox").mkdir()
    (tmp_path / "red_fox" / "1.png").write_bytes(PICTURE)
    (item,) = sources.read(tmp_path)
    assert (item.caption, item.metadata["class"]) == ("red fox", "red_fox")


def test_a_class_is_the_same_however_its_folder_is_spelled(tmp_path: Path) -> None:
    """macOS writes ä as two characters; ids and conditions must not depend on it."""
    for form in ("NFC", "NFD"):
        folder = tmp_path / form / unicodedata.normalize(form, "Bäume")
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(PICTURE)
    composed, decomposed = (next(iter(sources.read(tmp_path / form))) for form in ("NFC", "NFD"))
    assert composed.metadata["class"] == decomposed.metadata["class"] == "B\u00e4ume"
    assert content_id(composed) == content_id(decomposed)


def test_parquet_struct_bytes_and_paths(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(PICTURE)
    table = pa.table(
        {
            "image": [{"bytes": PICTURE, "path": "x.png"}, {"bytes": None, "path": "p.png"}],
            "name": ["one", "two"],
            "tags": [["t"], []],
            "id": ["a", "b"],
        }
    )
    pq.write_table(table, tmp_path / "d.parquet")
    first, second = sources.read(tmp_path / "d.parquet")
    assert (first.caption, first.metadata) == ("one", {"tags": ["t"], "source_id": "a"})
    assert second.data == PICTURE
    named = list(sources.read(tmp_path / "d.parquet", caption_column="id"))
    assert named[0].caption == "a"


def test_parquet_paths_do_not_leave_their_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.png").write_bytes(PICTURE)
    pq.write_table(
        pa.table({"image": ["../secret.png", str(tmp_path / "secret.png")]}), tmp_path / "inside" / "d.parquet"
    )
    assert [item.data for item in sources.read(tmp_path / "inside" / "d.parquet")] == [b"", b""]


def test_wrong_sources_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_text("no parquet")
    (tmp_path / "text.doc").write_text("x")
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "none.parquet")
    cases = {
        "missing": "no such file",
        "empty": "no pictures",
        "bad.parquet": "not a parquet",
        "text.doc": "not a source",
        "none.parquet": "no picture column",
    }
    for name, message in cases.items():
        with pytest.raises(BowerbirdError, match=message) as caught:
            list(sources.read(tmp_path / name))
        assert name in str(caught.value)


def test_content_id_depends_on_bytes_and_caption_only() -> None:
    item = SourceItem(b"abc", "x", "c", {"a": 1})
    assert content_id(item) == content_id(SourceItem(b"abc", "y", "c"))
    assert content_id(item) != content_id(SourceItem(b"abc", "x", "d"))
    assert 0 <= content_id(item) < 2**63


def test_where_filters_and_explains() -> None:
    rows = [{"style": "a", "n": 1}, {"style": "b"}, {}]
    assert filter_rows(rows, "style != 'a'") == [1]
    assert filter_rows(rows, None) == [0, 1, 2]
    with pytest.raises(BowerbirdError, match=r"nope.*columns: n, style"):
        filter_rows(rows, "nope = 3")


@pytest.mark.parametrize(
    ("key", "text", "caption"),
    [
        (
            "invokeai_metadata",
            json.dumps({"positive_prompt": "a red mug, 水彩", "negative_prompt": "ugly"}),
            "a red mug, 水彩",
        ),
        ("sd-metadata", json.dumps({"image": {"prompt": [{"prompt": "a red mug", "weight": 1}]}}), "a red mug"),
        ("parameters", "a red mug,\n(art:1.2)\nNegative prompt: ugly\nSteps: 20, Seed: 1", "a red mug,\n(art:1.2)"),
        ("parameters", "a red mug\nSteps: 20, Seed: 1", "a red mug"),
        ("parameters", json.dumps({"prompt": "a red mug", "steps": 30}), "a red mug"),
        ("parameters", "(unconditional)\nSteps: 20, Seed: 1", "mine"),
        ("parameters", "Negative prompt: ugly\nSteps: 20", "mine"),
        ("parameters", "my notes", "mine"),
        ("invokeai_metadata", '{"positive_prompt": [["deep"]]}', "mine"),
        ("invokeai_metadata", "{" * 5000, "mine"),
        ("prompt", '{"3": {"class_type": "KSampler"}}', "mine"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_prompt_in_a_png_is_its_caption(tmp_path: Path, key: str, text: str, caption: str, packed: bool) -> None:
    """Where neither a row nor a file beside it has one; else it would be its folder's name."""
    (tmp_path / "mine").mkdir()
    info = PngInfo()
    info.add_itxt(key, text, zip=packed)
    for name in ("3f2a-11ee.png", "other.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "mine" / name, pnginfo=info)
    (tmp_path / "mine" / "other.txt").write_text("what I say")
    report = SourceReport()
    assert [item.caption for item in sources.read(tmp_path, report=report)] == [caption, "what I say"]
    assert report.counts.get("prompts_taken", 0) == (caption != "mine")
