"""The collection that travels with the package: whose it is, what it is of, and that its credit reaches a record."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.cli.demo import COLORS, EDITS, STYLES, THINGS
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.datasets.drawings import read_list
from bowerbird.data.datasets.starter import ARCHIVE, CREDIT, unpack
from bowerbird.knowledge.rerank.color import read_colors


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with zipfile.ZipFile(ARCHIVE) as archive:
        return list(csv.DictReader(io.StringIO(archive.read("metadata.csv").decode())))


def test_it_is_small_free_and_of_nothing_a_model_was_trained_on(rows: list[dict[str, str]]) -> None:
    assert ARCHIVE.stat().st_size <= 3_000_000
    splits = {entry.id: entry.split for entry in read_list()}
    assert {splits[row["drawing"]] for row in rows} == {"rare"}
    assert {row["license"] for row in rows} == {"MIT", "Apache-2.0"}
    assert all(row["author"] and row["source"].startswith("https://") for row in rows)
    with zipfile.ZipFile(ARCHIVE) as archive:
        said = archive.read("LICENSE").decode()
        assert sorted(archive.namelist()) == sorted(["metadata.csv", "LICENSE", *(row["file_name"] for row in rows)])
        for row in rows:
            with Image.open(io.BytesIO(archive.read(row["file_name"]))) as picture:
                assert (picture.format, picture.size) == ("PNG", (128, 128))
    assert "Copyright (c) Microsoft Corporation" in said
    assert "Apache License" in said
    assert all(author in said for author in {row["author"] for row in rows})


def test_it_has_what_the_demo_asks_for(rows: list[dict[str, str]]) -> None:
    things = {style: {row["text"] for row in rows if row["style"] == style} for style in {r["style"] for r in rows}}
    assert all(set(THINGS) <= things[style] for style in STYLES)
    asked = [read_colors(prompt) for prompt in COLORS]
    assert all(each is not None and len(each.colored) == 1 for each in asked)
    assert {shown for shown, _ in EDITS} | {"carrot", "honeybee"} <= things["noto"]


def test_its_credit_is_kept_by_a_knowledge_base_of_the_folder_and_of_the_name(tmp_path: Path) -> None:
    folder = unpack(tmp_path / "starter")
    with pytest.raises(BowerbirdError, match="there already"):
        unpack(folder)
    only = "style = 'icon-park' and file_name like '%/ca%'"
    for number, source in enumerate((str(folder), "starter")):
        kb, _ = KnowledgeBase.build(tmp_path / f"kb{number}", source, where=only, credit=CREDIT)
        assert sorted(kb.get(kb.ids().tolist()).captions[0]) == ["cake", "candy", "carrot"]
        credit = kb.credits(kb.search(text="carrot", k=1, mode="bm25").ids[0].tolist())[0]
        assert credit["name"] == "carrot.png"
        assert credit["credit"] == {
            "set": "IconPark",
            "author": "ByteDance",
            "license": "Apache-2.0",
            "source": "https://github.com/bytedance/IconPark",
        }
