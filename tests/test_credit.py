"""Attribution: what names the source of a neighbor is kept by the knowledge base and goes into every record, sheet and
XMP packet, whatever strangers wrote into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core import credit, provenance, xmp
from bowerbird.core.contact_sheet import labeled_grid
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems import regeneration
from tests.conftest import AUTHOR
from tests.faults.plain import PlainEncoder
from tests.test_cli import bowerbird, refused
from tests.test_records import RECORDS

SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}


def read_xmp(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        top = ElementTree.fromstring(image.text[xmp.KEY])  # type: ignore[attr-defined]
    about = top.find(".//rdf:Description", SPACES)
    assert about is not None
    lists = {name: [li.text for li in about.findall(f"dc:{name}//rdf:li", SPACES)] for name in ("source", "rights")}
    asked = about.findtext("dc:description//rdf:li", None, SPACES)
    kind = about.get(f"{{{SPACES['ext']}}}DigitalSourceType", "").rpartition("/")[2]
    return {**lists, "description": asked, "kind": kind, "tool": about.findtext("xmp:CreatorTool", None, SPACES)}


def test_columns_are_kept_and_known(tmp_path: Path, catalog: Path) -> None:
    refused("kb", "build", "kb", catalog, "--credit", "sku,auther", says="auther", cwd=tmp_path)
    assert not (tmp_path / "kb").exists()
    said = bowerbird("kb", "build", "kb", catalog, cwd=tmp_path).stderr
    assert "bowerbird kb credit kb author,license,sku" in said
    assert "credits the file name alone" in bowerbird("kb", "credit", "kb", cwd=tmp_path).stderr
    refused("kb", "credit", "kb", "sku,nope", says="'nope': kb has no such column; it has author,", cwd=tmp_path)
    bowerbird("kb", "credit", "kb", "Author,shot at,page", cwd=tmp_path)
    opened = KnowledgeBase.open(tmp_path / "kb")
    assert (opened.credit, opened.version) == (("author", "shot_at", "page"), 1)
    item = int(opened.ids("sku = 'B-001'")[0])
    known = {"author": AUTHOR, "shot_at": "a.raw", "page": "https://shop.test/1"}
    assert opened.credits([7, item]) == [{}, {"name": "001.png", "credit": known}]
    opened.remove(ids=[item])
    assert KnowledgeBase.open(tmp_path / "kb").credit == opened.credit  # a change keeps it
    assert opened.at_version(1).credits([item])[0]["name"] == "001.png"
    found = json.loads(bowerbird("search", "kb", "--text", "red", "--json", cwd=tmp_path).stdout)
    assert found["results"][0]["credit"]["author"] == AUTHOR
    text = bowerbird("search", "kb", "--text", "red", cwd=tmp_path).stdout
    assert AUTHOR in text
    assert "fruit/" in text
    assert json.loads(bowerbird("kb", "info", "kb", "--json", cwd=tmp_path).stdout)["credit"] == list(opened.credit)
    bowerbird("kb", "credit", "kb", "--none", cwd=tmp_path)
    assert KnowledgeBase.open(tmp_path / "kb").credit == ()


def test_records_sheets_and_xmp_name_the_sources(tmp_path: Path, catalog_kb: Path, random_rdm: Path) -> None:
    base = ("--kb", catalog_kb, "--prompt", "red <apple> & \x1b]0;x\x07", "-k", "2", "-n", "1", "--steps", "1")
    done = json.loads(bowerbird("generate", random_rdm, *base, "--out", "o", "--json", cwd=tmp_path).stdout)
    picture = tmp_path / "o" / "000.png"
    record = provenance.read_png(picture)
    kb = KnowledgeBase.open(catalog_kb)
    line = json.loads((tmp_path / "o" / "generation.jsonl").read_text())
    assert record["neighbors"] == line["neighbors"] == done["neighbors"][0]
    for near in record["neighbors"]:
        assert near["name"] == kb.name(near["id"]).rpartition("/")[2]
        assert near["credit"] == {"sku": f"B-{near['name'][:3]}", "license": "CC-BY-4.0", "author": AUTHOR}
    names = [near["name"] for near in record["neighbors"]]
    assert read_xmp(picture) == {
        "source": names,
        "rights": [f"CC-BY-4.0, {AUTHOR}: {', '.join(names)}"],
        "description": "red <apple> & ]0;x",
        "kind": "trainedAlgorithmicMedia",
        "tool": f"bowerbird {record['bowerbird']}",
    }
    with Image.open(tmp_path / "o" / "sheet.png") as sheet:
        under = np.asarray(sheet.convert("L"))[8 + 96 + 14 :, 190 + 104 :]
    assert (under < 100).any()  # the credit is written darker than a caption
    bowerbird("generate", random_rdm, "--from", picture, "--out", "again", cwd=tmp_path)
    assert picture.read_bytes() == (tmp_path / "again" / "000.png").read_bytes()


def test_pictures_of_a_list_are_generated_again_when_others_are_credited(
    tmp_path: Path, catalog_kb: Path, random_rdm: Path
) -> None:
    shutil.copytree(catalog_kb, tmp_path / "kb")
    (tmp_path / "p.txt").write_text("a red apple\n")
    command = ("generate", random_rdm, "--kb", "kb", "--prompts", "p.txt", "--steps", "1", "--out", "p")
    bowerbird("kb", "credit", "kb", "--none", cwd=tmp_path)
    bowerbird(*command, cwd=tmp_path)
    assert provenance.read_png(tmp_path / "p" / "000.png")["neighbors"][0]["credit"] == {}
    bowerbird("kb", "credit", "kb", "author", cwd=tmp_path)
    bowerbird(*command, cwd=tmp_path)
    bowerbird("kb", "verify", "kb", cwd=tmp_path)
    assert provenance.read_png(tmp_path / "p" / "000.png")["neighbors"][0]["credit"]["author"] == AUTHOR


def test_an_edit_names_the_picture_it_started_from(tmp_path: Path, catalog_kb: Path, tiny_knn: Path) -> None:
    for name in ("one.png", "two.png"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    own = ("--image", "one.png", "--image", tmp_path / "two.png", "-n", "2")
    command = ("edit", tiny_knn, "--kb", catalog_kb, *own, "--prompt", "star", "--steps", "1", "-k", "2", "--out", "o")
    bowerbird(*command, cwd=tmp_path)
    found = [provenance.read_png(tmp_path / "o" / f"00{i}.png") for i in range(4)]
    assert [record["edit"]["name"] for record in found] == ["one.png", "one.png", "two.png", "two.png"]
    named = read_xmp(tmp_path / "o" / "003.png")
    assert [near["id"] >= 0 for near in found[3]["neighbors"]] == [False, True, True]  # a text is no source
    assert named["kind"] == "compositeWithTrainedAlgorithmicMedia"
    assert named["source"] == ["two.png", *(near["name"] for near in found[3]["neighbors"] if near["id"] >= 0)]


def test_of_strangers_values_little_is_kept_and_nothing_of_a_machine() -> None:
    values = {"a": "x" * 10**6, "b": float("nan"), "c": None, "d": "two\nlines\x1b[2J", "e": r"C:\me\a.png", "f": 3.5}
    values |= {"g": "file:///home/me/b.png", "h": True, "i": "  "}
    found = credit.credit_of(values, [*values, "missing"])
    assert found.pop("a") == f"{'x' * 197} … {'x' * 100}"
    assert found == {"d": "two lines\\x1b[2J", "e": "a.png", "f": 3.5, "g": "b.png", "h": True}
    for name, kept in (
        ("/home/me/a.png", "a.png"),
        ("https://host/x/a.png?token=1#b", "a.png"),
        (r"sub\a.png", "a.png"),
        ("shard.parquet[3]", "shard.parquet[3]"),
        ("", ""),
    ):
        assert credit.source_name(name) == kept
    columns = ["License", "imageURL", "author_name", "curl", "unlicensed", "price", "SKU"]
    assert credit.usual_columns(columns) == ["License", "imageURL", "author_name", "SKU"]


def test_a_neighbor_is_called_by_what_a_person_knows_it_by() -> None:
    assert credit.neighbor_name({"id": 7, "caption": "red tent", "name": "001.jpg"}) == "'red tent' (001.jpg)"
    assert credit.neighbor_name({"id": 7, "caption": "red tent"}) == "'red tent'"
    assert credit.neighbor_name({"id": 7, "caption": " ", "name": "my tent.jpg"}) == "my tent.jpg"
    assert credit.neighbor_name({"id": 7, "caption": "", "name": "a\x1b[31m\nb.jpg"}).isprintable()
    assert credit.neighbor_name({"id": 7, "caption": "\x1b[31m\n" * 99}).isprintable()
    assert credit.neighbor_name({"id": 7}) == "7"


@settings(max_examples=150, deadline=None)
@given(st.text(), st.dictionaries(st.text(max_size=9), st.text() | st.integers() | st.none() | st.lists(st.text())))
def test_the_packet_is_well_formed_whatever_a_record_holds(text: str, values: Mapping[str, Any]) -> None:
    near = [{"name": text, "credit": values}, {"name": values, "credit": {"license": text}}, text]
    for record in ({"neighbors": near}, {"neighbors": near, "edit": {"name": text}}, {"neighbors": text}):
        packet = xmp.packet(record, text)
        ElementTree.fromstring(packet.encode("utf-8"))
        assert len(packet) < 30_000


def test_records_of_before_and_of_strangers_are_checked() -> None:
    record = RECORDS["rdm"]
    assert regeneration.parse_record(record).neighbors[0].credit == {}
    near = {**record["neighbors"][0], "name": "a.png", "credit": {"sku": 3, "author": "Ann", "by hand": True}}
    whole = {**record, "neighbors": [near, *record["neighbors"][1:]]}
    assert regeneration.parse_record(whole).neighbors[0].credit["author"] == "Ann"
    for entry in (
        {"name": "x" * 1001},
        {"name": 3},
        {"credit": {"a": ["b"]}},
        {"credit": {str(i): 1 for i in range(17)}},
    ):
        with pytest.raises(BowerbirdError, match=r"neighbors\.0"):
            regeneration.parse_record({**record, "neighbors": [{**near, **entry}, *record["neighbors"][1:]]})


def test_a_sheet_without_credit_is_as_it_was() -> None:
    picture = Image.new("RGB", (8, 8), "red")
    plain, empty, noted = (
        labeled_grid([("row", [picture], ["word"])], notes=notes) for notes in ((), [[""]], [["a" * 10**6 + " b"]])
    )
    assert np.array_equal(np.asarray(plain), np.asarray(empty))
    assert noted.height == plain.height + 24


def test_a_base_that_says_anything_of_credit_opens(tmp_path: Path, catalog: Path) -> None:
    kb, _ = KnowledgeBase.build(tmp_path / "kb", catalog, encoder=PlainEncoder())
    for kept in (None, "sku", [3, "sku", None], {"a": 1}, ["gone"] * 99):
        kb.store.manifest["credit"] = kept  # as somebody else's kb.json may say
        assert len(kb.credit) <= credit.MOST_COLUMNS
        assert kb.credits(kb.ids()[:1].tolist())[0]["name"].endswith(".png")
