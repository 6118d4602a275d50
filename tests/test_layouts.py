"""Folders, tables and archives as people have them: every caption arrives, and what is passed over is counted."""

from __future__ import annotations

import base64
import datetime
import decimal
import io
import json
import os
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from bowerbird import KnowledgeBase
from bowerbird.cli.common import print_json, print_line
from bowerbird.cli.main import app, main
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import SourceItem
from bowerbird.data.pictures import load_pictures
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import read
from bowerbird.data.text import guess
from bowerbird.evaluation.check import training_pictures
from bowerbird.knowledge.ingest.embed import embed
from bowerbird.knowledge.neighbors.export import write_neighbors
from bowerbird.knowledge.storage.verify import verify
from tests.faults.plain import PlainEncoder, picture


def put(folder: Path, **files: bytes | str) -> Path:
    """Files by their paths; `_` in a name given as keyword is left as it is."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def captions(place: Path, report: SourceReport | None = None, **options: Any) -> dict[str, str]:
    return {item.name: item.caption for item in read(place, report=report, **options)}


def metadata(place: Path) -> dict[str, dict[str, Any]]:
    return {item.name: item.metadata for item in read(place)}


def test_metadata_of_every_folder_applies_below(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{
            "train/cat/1.png": picture(1),
            "train/metadata.jsonl": lines([{"file_name": "cat/1.png", "text": "a cat", "n": 1}]),
            "val/2.png": picture(2),
            "val/metadata.csv": "file_name,text,n\n2.png,a dog,2\n",
            "metadata.jsonl": lines([{"file_name": "train/cat/1.png", "license": "CC0", "n": 9}]),
        },
    )
    assert captions(tmp_path) == {"train/cat/1.png": "a cat", "val/2.png": "a dog"}
    assert metadata(tmp_path) == {
        "train/cat/1.png": {"file_name": "train/cat/1.png", "split": "train", "class": "cat", "license": "CC0", "n": 1},
        "val/2.png": {"file_name": "val/2.png", "split": "validation", "n": 2},
    }


def test_the_class_is_the_folder_a_picture_lies_in(tmp_path: Path) -> None:
    names = ["img/10_sks dog/1.png", "train/red_fox/1.png", "test/red_fox/2.png", "n01/images/1.png"]
    put(tmp_path / "a", **{names[0]: picture(1)})
    put(tmp_path / "b", **{names[1]: picture(1), names[2]: picture(2)})
    put(tmp_path / "c", **{names[3]: picture(1)})
    numbered = ["001.Black_footed_Albatross/1.png", "002.5 inch/1.png"]
    put(tmp_path / "e", **{numbered[0]: picture(1), numbered[1]: picture(2), "Bilder/1.png": picture(3)})
    assert captions(tmp_path / "e") == {
        numbered[0]: "Black footed Albatross",
        numbered[1]: "002.5 inch",
        "Bilder/1.png": "",
    }
    put(tmp_path / "d", **{f"{name}/1.png": picture(i) for i, name in enumerate(("train", "bicycle", "ship"))})
    assert captions(tmp_path / "a") == {names[0]: "sks dog"}
    found = metadata(tmp_path / "b")
    assert [(m["class"], m["split"]) for m in found.values()] == [("red_fox", "test"), ("red_fox", "train")]
    assert captions(tmp_path / "c") == {names[3]: "n01"}
    assert {m["class"] for m in metadata(tmp_path / "d").values()} == {"train", "bicycle", "ship"}


@pytest.mark.parametrize(
    ("disk", "row"),
    [
        ("sub/1.png", "sub\\1.png"),
        ("sub/1.png", "./sub/1.png"),
        (unicodedata.normalize("NFD", "café.png"), unicodedata.normalize("NFC", "café.png")),
        ("0.png", "0.PNG"),
        ("images/1.png", "1.png"),
        ("images/1.png", "1"),
        ("images/1.png", "/data/set/images/1.png"),
        ("images/1.png", "C:\\set\\images\\1.png"),
    ],
)
def test_a_row_finds_its_picture_however_it_is_written(tmp_path: Path, disk: str, row: str) -> None:
    put(tmp_path, **{disk: picture(1), "metadata.jsonl": lines([{"file_name": row, "text": "a fox"}])})
    assert list(captions(tmp_path).values()) == ["a fox"]


def test_rows_and_pictures_without_each_other_are_counted(tmp_path: Path) -> None:
    rows = [{"file_name": "9.png", "text": "a"}, {"file_name": "a/2.png", "text": "b"}, {"text": "c"}, [1]]
    text = lines(rows) + "{broken\n" + '{"file_name": "A.png", "text": "either"}\n'
    put(tmp_path, **{"0.png": picture(0), "b/2.png": picture(2), "a.PNG": picture(3), "a.png": picture(4)})
    put(tmp_path, **{"metadata.jsonl": text})
    report = SourceReport()
    assert set(captions(tmp_path, report).values()) == {"", "b"}  # b is the folder's name
    assert report.facts()["rows_without_picture"] == {"count": 3, "first": ["9.png", "a/2.png", "A.png"]}
    assert report.counts["rows_left_out"] == 3
    assert report.counts["pictures_without_row"] == 4
    assert any(line.startswith("rows that name no picture here: 3 (9.png, a/2.png") for line in report.lines())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "filename,caption\n1.png,a fox\n"),
        ("labels.tsv", "image\tdescription\n1.png\ta fox\n"),
        ("list.csv", "Image_Path;Caption\r\nimages/1.png;a fox\r\n"),
        ("captions.txt", "image,caption\n1.png,a fox\n1.png,a red animal\n"),
        ("annotations/captions_val.json", json.dumps({"images": [{"id": 7, "file_name": "1.png"}], "annotations": [
            {"image_id": 7, "caption": "a fox"}, {"image_id": 7, "caption": "a red animal"}]})),
        ("meta_cap.json", json.dumps({"images/1.png": {"caption": "a fox", "tags": "fox, snow"}})),
        ("metadata.json", json.dumps([{"file_name": "images/1.png", "text": "a fox"}])),
    ],
)  # fmt: skip
def test_lists_that_are_not_called_metadata(tmp_path: Path, name: str, text: str) -> None:
    put(tmp_path, **{"images/1.png": picture(1), name: text})
    (item,) = read(tmp_path)
    assert item.caption == "a fox"
    assert item.metadata.get("captions") == (["a fox", "a red animal"] if "red" in text else None)


def test_metadata_parquet_with_names_of_classes(tmp_path: Path) -> None:
    hub = {"info": {"features": {"label": {"names": ["airplane", "cat"], "_type": "ClassLabel"}}}}
    table = pa.table({"file_name": ["1.png"], "label": [1]}).replace_schema_metadata({"huggingface": json.dumps(hub)})
    put(tmp_path, **{"1.png": picture(1)})
    pq.write_table(table, tmp_path / "metadata.parquet")
    (item,) = read(tmp_path)
    assert (item.caption, item.metadata["label"]) == ("cat", "cat")


def test_files_beside_a_picture(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{f"{i}.png": picture(i) for i in range(6)},
        **{
            "0.caption": "by kohya",
            "1.TXT": "capitals",
            "2.cls": "cat",
            "3.json": json.dumps({"caption": "in JSON", "artist": "ann"}),
            "4.png.txt": "after the suffix",
            "5.json": "[[",
        },
    )
    report = SourceReport()
    found = captions(tmp_path, report)
    assert list(found.values()) == ["by kohya", "capitals", "cat", "in JSON", "after the suffix", ""]
    assert metadata(tmp_path)["3.png"]["artist"] == "ann"
    assert set(report.counts) == {"files_left_out", "pictures_without_caption"}


def test_a_caption_column_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "f", **{"0.png": picture(0), "metadata.csv": "file_name,text,artist\n0.png,a fox,ann\n"})
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "a.png", picture(1))
        add(archive, "a.json", json.dumps({"title": "a fox"}).encode())
    assert list(captions(tmp_path / "f", caption_column="Artist").values()) == ["ann"]
    assert list(captions(tmp_path / "a.tar").values()) == ["a fox"]
    for place, there in (("f", "artist, text"), ("a.tar", "title"), ("f/0.png", "no rows")):
        with pytest.raises(BowerbirdError, match=f"'capton'; there (is|are) {there}"):
            captions(tmp_path / place, caption_column="capton")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8-sig", "a red fox"),
        ("utf-16", "a red fox"),
        ("utf-16-le", "a red fox"),
        ("cp1252", "un café noir – “déjà”"),
        ("cp1252", "ÿ"),
        ("cp1252", "Müller"),
        ("cp932", "赤い狐"),
        ("cp932", "東京タワー"),
        ("gb18030", "红狐狸"),
        ("gb18030", "北京烤鸭"),
        ("big5", "一隻紅色的狐狸"),
        ("euc_kr", "빨간 여우"),
        ("cp1251", "красная лиса"),
        ("cp1250", "žlutý pes"),
    ],
)
def test_encodings_are_recognized_and_named(tmp_path: Path, encoding: str, text: str) -> None:
    put(tmp_path / "a", **{"1.png": picture(1), "1.txt": text.encode(encoding)})
    put(tmp_path / "b", **{"1.png": picture(1), "metadata.csv": f"file_name,text\n1.png,{text}\n".encode(encoding)})
    for folder in ("a", "b"):
        report = SourceReport()
        assert captions(tmp_path / folder, report) == {"1.png": text}
        assert report.counts.get("encodings", 0) == (0 if encoding == "utf-8-sig" else 1)


def test_lines_of_two_encodings_in_one_file(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(("café", "红狐狸", "über"))]
    put(tmp_path, **{f"{i}.png": picture(i) for i in range(3)})
    data = lines(rows[:2]).encode() + lines(rows[2:]).encode("cp1252")
    put(tmp_path, **{"metadata.jsonl": data})
    assert list(captions(tmp_path).values()) == ["café", "红狐狸", "über"]
    assert guess(b"plain") == "cp1252"


def test_what_is_within_a_line_stays_in_it(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0cfour"
    put(tmp_path, **{"0.png": picture(0), "metadata.jsonl": lines([{"file_name": "0.png", "text": text}])})
    assert captions(tmp_path) == {"0.png": text}


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", **{"1.png": picture(1)})
    put(tmp_path / "in", **{"own/2.png": picture(2)})
    for name, target in (("cats", "../elsewhere"), ("again", "../elsewhere"), ("up", ".."), ("own/loop", "..")):
        os.symlink(target, tmp_path / "in" / name, target_is_directory=True)
    os.symlink("nowhere.png", tmp_path / "in" / "gone.png")
    report = SourceReport()
    assert captions(tmp_path / "in", report) == {"again/1.png": "again", "own/2.png": "own"}
    assert report.counts["links_left_out"] == 4


def test_hidden_and_unread_files(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{
            "a.png": picture(1),
            ".ipynb_checkpoints/a-checkpoint.png": picture(1),
            "@eaDir/a.png/THUMB.png": picture(2),
            "._a.png": b"\0\5",
            "photo.NEF": b"raw",
            "noext": picture(3),
            "README": "text",
            "a_mask.png": picture(4),
            "b.JFIF": picture(5),
            "lfs.png": "version https://git-lfs.github.com/spec/v1\noid",
        },
    )
    report = SourceReport()
    items = {item.name: item for item in read(tmp_path, report=report)}
    assert list(items) == ["a.png", "b.JFIF", "lfs.png", "noext"]
    assert "git lfs pull" in items["lfs.png"].problem
    assert report.facts()["hidden_files"]["count"] == 3
    assert report.names["pictures_not_read"] == ["photo.NEF"]
    assert report.names["further_pictures"] == ["a_mask.png"]


def test_a_data_set_from_the_hub_with_a_preview(tmp_path: Path) -> None:
    put(tmp_path, **{"preview.png": picture(0), "data/x": ""})
    table = pa.table({"image": [{"bytes": picture(i), "path": f"{i}.png"} for i in (1, 2)], "text": ["a cat", "a dog"]})
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    items = list(read(tmp_path))
    assert [(i.caption, i.metadata.get("split")) for i in items] == [("", None), ("a cat", "train"), ("a dog", "train")]


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("form", ["w", "w:gz"])
def test_tar_samples(tmp_path: Path, form: str) -> None:
    files = {
        "a.jpg": picture(1), "a.cls": b"cat", "a.mask.png": picture(2),
        "IMG.2020.01.jpg": picture(3), "IMG.2020.01.txt": b"dots", "IMG.2020.02.jpg": picture(4),
        "dog/1.jpg": picture(5), "c.txt": b"before", "c.jpg": picture(6),
        "d.jpg": picture(7), "metadata.jsonl": lines([{"file_name": "d.jpg", "text": "a row"}]).encode(),
    }  # fmt: skip
    path = tmp_path / ("a.tar" if form == "w" else "a.tar.gz")
    with tarfile.open(path, form) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            add(archive, name, data)
    report = SourceReport()
    items = list(read(path, report=report))
    assert [(i.name.partition("/")[2], i.caption) for i in items] == [
        ("a.jpg", "cat"),
        ("IMG.2020.01.jpg", "dots"),
        ("IMG.2020.02.jpg", ""),
        ("dog/1.jpg", "dog"),
        ("c.jpg", "before"),
        ("d.jpg", "a row"),
    ]
    assert all(i.data == files[i.name.partition("/")[2]] for i in items)
    assert report.counts["further_pictures"] == 1


def test_a_zip_is_the_folder_it_was(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photos\\cat\\1.5.jpg", picture(1))  # as some programs on Windows write it
        archive.writestr("photos/dog/2.jpg", picture(2))
        archive.writestr("photos/metadata.csv", "file_name,text,price\ndog/2.jpg,a dog,3\n")
        archive.writestr("__MACOSX/photos/._2.jpg", b"\0")
        archive.writestr("photos/3.jpg", picture(3))
        archive.writestr("狐.txt", "no picture")
    data = (tmp_path / "a.zip").read_bytes()
    at = data.find(picture(3))
    (tmp_path / "a.zip").write_bytes(data[: at + 50] + bytes([data[at + 50] ^ 1]) + data[at + 51 :])
    report = SourceReport()
    items = list(read(tmp_path / "a.zip", report=report))
    assert [(i.name, i.caption) for i in items[:1] + items[2:]] == [
        ("a.zip/photos/3.jpg", ""),
        ("a.zip/photos/dog/2.jpg", "a dog"),
    ]
    assert (items[1].name, items[1].caption) == ("a.zip/photos/cat/1.5.jpg", "cat")
    assert items[2].metadata["price"] == 3
    assert "damaged" in items[0].problem
    assert report.counts["hidden_files"] == 1


def test_img2dataset(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        add(archive, "000000000.jpg", picture(0))
        add(archive, "000000000.txt", b"a fox")
        facts = {"caption": "a fox", "key": "000000000", "status": "success", "url": "http://x", "exif": "{}"}
        add(archive, "000000000.json", json.dumps(facts).encode())
    rows = {"url": ["http://x", "http://y"], "caption": ["a fox", "b"], "key": ["000000000", "000000001"]}
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    put(tmp_path, **{"00000_stats.json": "{}"})
    report = SourceReport()
    (item,) = read(tmp_path, report=report)
    assert (item.caption, item.metadata["url"]) == ("a fox", "http://x")
    assert "source_caption" not in item.metadata
    assert report.names == {"rows_without_picture": ["000000001"]}


def test_cells_that_hold_pictures(tmp_path: Path) -> None:
    packed = base64.b64encode(picture(1)).decode()
    while len(packed) < 250:
        packed = base64.b64encode(picture(1) + b"\0" * 200).decode()
    cells = [
        packed,
        f"data:image/png;base64,{packed}",
        "A" * 5000,
        "/nowhere/1.png",
        "x\0.png",
        "y" * 4000 + ".png",
        None,
    ]
    pq.write_table(pa.table({"image": cells, "TEXT": [str(i) for i in range(len(cells))]}), tmp_path / "a.parquet")
    items = list(read(tmp_path / "a.parquet"))
    assert [bool(i.data) for i in items] == [True, True, False, False, False, False, False]
    assert [i.caption for i in items] == [str(i) for i in range(7)]
    assert items[0].data.startswith(picture(1))
    assert f"no such file in {tmp_path}" in items[3].problem
    assert max(len(i.name) for i in items) < 200


def test_values_of_tables_and_conditions_on_them(tmp_path: Path) -> None:
    hub = {"info": {"features": {"label": {"names": ["airplane", "cat"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "image": [picture(0), picture(1), picture(2)],
            "label": [0, 1, -1],
            "taken": [datetime.date(2020, 1, 2), datetime.date(2021, 5, 6), None],
            "at": pa.array([0, 1_600_000_000, None], pa.timestamp("s")),
            "price": [decimal.Decimal("1.50"), decimal.Decimal("2.25"), None],
            "similarity": [0.3, float("nan"), float("nan")],
            "mask": [picture(3)] * 3,
        }
    ).replace_schema_metadata({"huggingface": json.dumps(hub)})
    pq.write_table(table, tmp_path / "a.parquet")
    kb, report = KnowledgeBase.build(tmp_path / "kb", tmp_path / "a.parquet", encoder=PlainEncoder())
    found = dict(zip(kb.get(kb.ids().tolist()).captions[0], kb.get(kb.ids().tolist()).metadata[0], strict=True))
    assert found["airplane"] == {
        "label": "airplane", "taken": "2020-01-02", "at": "1970-01-01", "price": 1.5, "similarity": 0.3
    }  # fmt: skip
    assert found["cat"] == {"label": "cat", "taken": "2021-05-06", "at": "2020-09-13T12:26:40", "price": 2.25}
    assert found[""] == {}
    for where in ("taken > '2020-06-01'", "taken > DATE '2020-06-01'", "price > 2", "label = 'cat'"):
        assert len(kb.ids(where)) == 1, where
    assert len(kb.ids("similarity IS NULL")) == 2
    assert report.source.names["values_left_out"] == ["a.parquet, column mask (bytes, and not the picture)"]


def test_numbers_in_csv(tmp_path: Path) -> None:
    cells = [("12", "1.5", "007", "true"), ("55", "", "010", "False"), ("", "2", "x", ""), ("n/a", "1e3", "1", "true")]
    text = "file_name,text,price,weight,code,sold\n" + "".join(
        f"{i}.png,thing {i},{','.join(row)}\n" for i, row in enumerate(cells)
    )
    put(tmp_path / "in", **{f"{i}.png": picture(i) for i in range(4)}, **{"metadata.csv": text})
    found = metadata(tmp_path / "in")
    assert [m.get("price") for m in found.values()] == [12, 55, None, None]
    assert [m.get("weight") for m in found.values()] == [1.5, None, 2.0, 1000.0]
    assert [m.get("code") for m in found.values()] == ["007", "010", "x", "1"]
    assert [m.get("sold") for m in found.values()] == [True, False, None, True]
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in", encoder=PlainEncoder(), where="price < 40")
    assert kb.get(kb.ids().tolist()).captions[0] == ("thing 0",)


def test_one_odd_value_ends_nothing(tmp_path: Path) -> None:
    deep = json.loads("[" * 60 + "]" * 60)
    rows = [
        {"file_name": "0.png", "text": "zero", "x": ["\ud800"], "y": {"z": "\udfff"}},
        {"file_name": "1.png", "text": "one", "deep": deep, "big": 10**30, "a b": 1, "a-b": 2, "Id": 3},
    ]
    put(tmp_path / "in", **{"0.png": picture(0), "1.png": picture(1)})
    text = "".join(json.dumps(row) + "\n" for row in rows) + "[" * 100_000 + "\n"
    put(tmp_path / "in", **{"metadata.jsonl": text})
    kb, report = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in", encoder=PlainEncoder())
    assert report.added == 2
    found = {m["file_name"]: m for m in kb.get(kb.ids().tolist()).metadata[0]}
    assert found["0.png"] == {"file_name": "0.png", "x": ["?"], "y": '{"z": "?"}'}
    assert found["1.png"] == {"file_name": "1.png", "big": str(10**30), "a_b": 1, "a_b_2": 2, "source_Id": 3}
    assert report.source.counts == {"rows_left_out": 1, "values_left_out": 1, "columns_renamed": 3}


def test_a_type_that_changes_late_makes_a_column_of_texts(tmp_path: Path) -> None:
    """Values of the first chunk, and of an earlier add, are kept, and every row's check is right."""
    rows = [{"image": picture(i), "text": f"thing {i}", "year": 1990 + i, "flag": True, "n": i} for i in range(3)]
    first, messages = tmp_path / "a.parquet", list[str]()
    pq.write_table(pa.Table.from_pylist(rows), first)
    kb, _ = KnowledgeBase.build(tmp_path / "kb", first, encoder=PlainEncoder(), on_message=messages.append)
    put(tmp_path / "in", **{"9.png": picture(9)})
    late = {"file_name": "9.png", "text": "late", "year": "about 1999", "flag": 2, "n": 0.5}
    put(tmp_path / "in", **{"metadata.jsonl": lines([late])})
    kb.add(tmp_path / "in")
    kb = KnowledgeBase.open(tmp_path / "kb", encoder=PlainEncoder())
    assert kb.info()["metadata"] == {"file_name": "string", "flag": "string", "n": "double", "year": "string"}
    assert {m["year"] for m in kb.get(kb.ids().tolist()).metadata[0]} == {"1990", "1991", "1992", "about 1999"}
    assert len(kb.ids("flag = 'true'")) == 3
    assert len(kb.ids("n < 1")) == 2
    assert verify(kb.path).good
    assert len([line for line in messages if "becomes" in line]) == 3
    with pytest.raises(BowerbirdError, match="TRY_CAST"):
        kb.ids("year < 1992")
    assert len(kb.ids("TRY_CAST(year AS DOUBLE) < 1992")) == 2
    with pytest.raises(BowerbirdError, match="'n' is double"):  # a slip in one change does not change a column
        kb.update(where="n = 0.5", metadata={"n": "half"})


def test_several_captions_are_all_searched(tmp_path: Path) -> None:
    table = pa.table({"image": [picture(0), picture(1)], "captions": [["a fox", "a vixen in snow"], ["a cat"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "a.parquet", encoder=PlainEncoder())
    assert kb.search(text="vixen", k=1, mode="bm25").captions == (("a fox",),)
    assert sorted(m.get("captions", []) for m in kb.get(kb.ids().tolist()).metadata[0]) == [
        [],
        ["a fox", "a vixen in snow"],
    ]


def test_a_source_of_somebody_elses_reports_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, **{"own_album.py": (
        "from bowerbird.data.sources import SourceItem\n"
        "class Album:\n"
        "    def matches(self, place): return False\n"
        "    def count(self, place): return None\n"
        "    def read(self, place, options):\n"
        "        options.report.note('files_left_out', 'b.doc')\n"
        "        yield SourceItem(b'x', 'a', 'caption', {'day': __import__('datetime').date(2020, 1, 2)})\n"
    )})  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    report = SourceReport()
    assert list(read("own_album:Album", report=report)) == [SourceItem(b"x", "a", "caption", {"day": "2020-01-02"})]
    assert report.lines() == ["files passed over: 1 (b.doc)"]


def test_every_verb_says_what_its_source_passed_over(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{"a.png": picture(1), "b.png": picture(2), "c.NEF": b"raw", "b.png.txt": "b"})
    said = {"pictures_without_caption": ["a.png"], "pictures_not_read": ["c.NEF"]}
    kb, report = KnowledgeBase.build(tmp_path / "kb", folder, encoder=PlainEncoder())
    assert report.source.names == said
    assert embed([folder], tmp_path / "parts", PlainEncoder()).source.names == said
    passed_over = SourceReport()
    write_neighbors(kb, folder, tmp_path / "n.parquet", 1, report=passed_over)
    assert passed_over.names == said
    assert load_pictures(folder, size=8).source.names == said
    lines_said: list[str] = []
    training_pictures([str(folder)], 8, lines_said.append)
    assert lines_said == [f"{folder}: {line}" for line in passed_over.lines()]


def test_the_command_line_shows_it_and_writes_it_as_json(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{"a.png": picture(1), "c.NEF": b"raw", "metadata.csv": "file_name,text\nx.png,é\n"})
    done = CliRunner().invoke(app, ["kb", "build", str(tmp_path / "kb"), str(folder), "--json"])
    assert json.loads(done.stdout)["source"]["rows_without_picture"] == {"count": 1, "first": ["x.png"]}
    done = CliRunner().invoke(app, ["kb", "build", str(tmp_path / "kb2"), str(folder)])
    assert "source: rows that name no picture here: 1 (x.png)\n" in done.stderr
    done = CliRunner().invoke(app, ["kb", "build", str(tmp_path / "kb3"), str(folder), "--caption-column", "capton"])
    assert str(done.exception).endswith("no row has the `caption_column` 'capton'; there is text")
    assert not (tmp_path / "kb3").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_output_on_a_terminal_of_another_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    print_json({"caption": "红 é\u2028"})
    monkeypatch.setattr(sys.modules["bowerbird.cli.main"], "app", lambda **_: print_line("红 é"))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    document, _, line = written.getvalue().decode(encoding).rpartition("}")
    assert json.loads(document + "}") == {"caption": "红 é\u2028"}
    assert line.strip() == {"cp1252": "\\u7ea2 é", "ascii": "\\u7ea2 \\xe9", "utf-8": "红 é"}[encoding]
