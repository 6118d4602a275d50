"""`sync`: a knowledge base brought to what a catalog says, item by item of the same key, all of it or nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import hash_of
from bowerbird.knowledge.export import export
from bowerbird.knowledge.neighbors.export import write_neighbors
from bowerbird.knowledge.storage.verify import verify
from tests.faults.plain import PlainEncoder, picture
from tests.test_cli import bowerbird, refused

Row = dict[str, Any]


class Counting(PlainEncoder):
    """Counts what it embeds."""

    pictures = 0

    def embed_images(self, images: Any) -> np.ndarray:
        self.pictures += len(images)
        return super().embed_images(images)


def rows(numbers: range) -> dict[str, Row]:
    return {f"S{n}": {"sku": f"S{n}", "image": n, "caption": f"thing {n}", "price": 10 * n} for n in numbers}


def write(path: Path, catalog: Mapping[str, Row] | list[Row]) -> Path:
    lines = catalog if isinstance(catalog, list) else list(catalog.values())
    made = [
        line | {"image": {"bytes": picture(line["image"]) if line["image"] is not None else b"no", "path": "x.png"}}
        for line in lines
    ]
    pq.write_table(pa.Table.from_pylist(made), path)
    return path


def held(kb: KnowledgeBase) -> dict[str, Row]:
    """The catalog that the knowledge base holds, with ids, and pictures as bytes."""
    ids = kb.ids().tolist()
    hits, pictures = kb.get(ids), kb.store.pictures(ids)
    return {
        m["sku"]: m | {"id": i, "caption": c, "image": pictures[i]}
        for i, c, m in zip(ids, hits.captions[0], hits.metadata[0], strict=True)
    }


def says(catalog: Mapping[str, Row]) -> dict[str, Row]:
    return {
        sku: {k: v for k, v in line.items() if v is not None} | {"image": picture(line["image"])}
        for sku, line in catalog.items()
    }


def without_ids(catalog: dict[str, Row]) -> dict[str, Row]:
    return {sku: {k: v for k, v in line.items() if k != "id"} for sku, line in catalog.items()}


@pytest.fixture
def encoder() -> Counting:
    return Counting()


@pytest.fixture
def kb(tmp_path: Path, encoder: Counting) -> KnowledgeBase:
    made, _ = KnowledgeBase.build(tmp_path / "kb", write(tmp_path / "first.parquet", rows(range(30))), encoder=encoder)
    encoder.pictures = 0
    return made


def test_all_that_can_change(kb: KnowledgeBase, encoder: Counting, tmp_path: Path) -> None:
    before, reader = held(kb), KnowledgeBase.open(kb.path, encoder=PlainEncoder())
    kb.update(where="sku = 'S9'", metadata={"shelf": "left"})  # a column that is ours, not the catalog's
    catalog = rows(range(2, 33)) | {
        "S3": {"sku": "S3", "image": 103, "caption": "thing 3", "price": 30},  # another picture
        "S4": {"sku": "S4", "image": 4, "caption": "a red fox", "price": 40},  # another caption
        "S5": {"sku": "S5", "image": 5, "caption": "thing 5", "price": 5.5},  # another price, of another type
        "S6": {"sku": "S6", "image": 6, "caption": "thing 6", "price": None},  # none any more
        "S9": {"sku": "S9", "image": 109, "caption": "new", "price": 1},  # all of it
        "S29": {"sku": "S29", "image": 2, "caption": "thing 2", "price": 290},  # now just as S2 looks
    }
    file = write(tmp_path / "second.parquet", catalog)
    dry = kb.sync(file, key="sku", dry_run=True)
    assert (kb.version, encoder.pictures, without_ids(held(reader))) == (2, 0, without_ids(before))
    done = kb.sync(file, key="sku")
    for report in (dry, done):
        assert sorted(report.added) == ["S30", "S31", "S32"]
        assert sorted(report.changed) == ["S29", "S3", "S4", "S5", "S6", "S9"]
        assert (report.removed, report.unchanged, report.embedded, report.missing) == ([], 22, 6, 2)
    assert (encoder.pictures, kb.version) == (6, 3)  # S4, S5 and S6 keep their embeddings; one version
    now = held(kb)
    expected = says(catalog) | {sku: without_ids(before)[sku] for sku in ("S0", "S1")}
    expected["S9"]["shelf"] = "left"
    assert without_ids(now) == expected
    assert {sku: now[sku]["id"] for sku in before} == {sku: line["id"] for sku, line in before.items()}
    vectors = kb.get([now[sku]["id"] for sku in sorted(now)]).embeddings[0]
    looks = {sku: line["image"] for sku, line in (rows(range(2)) | catalog).items()}
    again, _ = KnowledgeBase.build(
        tmp_path / "again", write(tmp_path / "all.parquet", rows(range(2)) | catalog), encoder=PlainEncoder()
    )
    for sku, vector in zip(sorted(now), vectors, strict=True):
        if sku != "S29":  # which is S2 to a build
            row = again.ids(f"sku = '{sku}'").tolist()
            assert np.array_equal(again.get(row).embeddings[0, 0], vector), (sku, looks[sku])
    assert kb.search(text="fox", mode="bm25", k=1).ids[0, 0] == before["S4"]["id"]
    assert without_ids(held(reader)) == without_ids(before)  # a reader keeps what it opened
    assert verify(kb.path).good
    assert kb.sync(file, key="sku").changed == []
    assert kb.version == 3  # nothing to do is no version
    done = kb.sync(file, key="sku", delete_missing=True)
    assert (sorted(done.removed), done.unchanged, len(kb)) == (["S0", "S1"], 31, 31)
    assert without_ids(held(KnowledgeBase.open(kb.path))) == {
        k: v for k, v in expected.items() if k not in ("S0", "S1")
    }
    kb.restore(1)
    assert held(kb) == before


def test_what_has_another_id_than_its_content_is_known_by_its_content(kb: KnowledgeBase, tmp_path: Path) -> None:
    """An item that kept its id when its picture changed is neither added twice nor its own neighbor, and its old
    picture can be added beside it."""
    changed = write(tmp_path / "changed.parquet", [rows(range(1))["S0"] | {"image": 100}])
    old_id = hash_of(picture(0), "thing 0")
    kb.sync(changed, key="sku")
    assert kb.ids("sku = 'S0'").tolist() == [old_id]
    assert kb.add(changed).already_present == 1
    assert write_neighbors(kb, changed, tmp_path / "near.parquet", 29) == 1
    assert old_id not in pq.read_table(tmp_path / "near.parquet")["neighbors"][0].as_py()
    assert kb.update(ids=[old_id], caption="something else") == 1
    assert kb.store.pictures([old_id])[old_id] == picture(100)
    assert kb.add(write(tmp_path / "old.parquet", rows(range(1)))).added == 1  # the same picture and caption as first
    assert len(kb) == 31
    assert verify(kb.path).good
    assert kb.update(where="sku = 'S0'", metadata={"price": 3}) == 2
    kb.compact(drop_history=True)
    assert verify(kb.path).good
    export(kb, tmp_path / "out", form="parquet")
    back, _ = KnowledgeBase.build(tmp_path / "back", tmp_path / "out", encoder=PlainEncoder())
    assert len(back) == 31
    assert "content_hash" not in back.info()["metadata"]


def test_pictures_that_are_too_many_to_keep_are_read_again(kb: KnowledgeBase, tmp_path: Path) -> None:
    kb.store.memory = 4000
    catalog = {sku: line | {"image": line["image"] + 200} for sku, line in rows(range(60)).items()}
    done = kb.sync(write(tmp_path / "b.parquet", catalog), key="sku")
    assert (len(done.added), len(done.changed), done.embedded) == (30, 30, 60)
    assert without_ids(held(kb)) == says(catalog)


def test_what_is_refused_names_the_rows_and_changes_nothing(
    kb: KnowledgeBase, encoder: Counting, tmp_path: Path
) -> None:
    first = rows(range(3))
    twice = [*first.values(), first["S1"] | {"image": 50}]
    for name, catalog, key, match in (
        ("twice", twice, "sku", r"`key` 'sku': .*x\.png.* both have 'S1'"),
        ("none", [*first.values(), first["S1"] | {"sku": None}], "sku", r"no value in the key column 'sku'"),
        ("source", [{k: v for k, v in first["S0"].items() if k != "sku"}], "sku", r"source has no such column.*price"),
        ("base", list(first.values()), "ean", r"no item of .*kb has this column; there are: price, sku"),
        ("price", list(first.values()), "caption", r"no item of .*kb has this column"),
    ):
        with pytest.raises(BowerbirdError, match=match):
            kb.sync(write(tmp_path / f"{name}.parquet", catalog), key=key)
    kb.update(where="sku IN ('S7', 'S8')", metadata={"sku": "both"})
    with pytest.raises(BowerbirdError, match=r"items \d+ and \d+ of .* both have 'both'"):
        kb.sync(tmp_path / "twice.parquet", key="sku")
    assert (encoder.pictures, kb.version, len(kb)) == (0, 2, 30)


def test_a_picture_that_cannot_be_read_leaves_its_item_as_it_was(kb: KnowledgeBase, tmp_path: Path) -> None:
    before = held(kb)
    catalog = rows(range(30)) | {"S3": rows(range(4))["S3"] | {"image": None}}
    done = kb.sync(write(tmp_path / "b.parquet", catalog), key="sku", delete_missing=True)
    assert (len(done.unreadable), done.removed, held(kb)) == (1, [], before)


def test_the_name_of_a_file_as_key(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number))
    kb, _ = KnowledgeBase.build(tmp_path / "kb", folder, encoder=PlainEncoder())
    (folder / "2.png").write_bytes(picture(9))
    (folder / "0.png").unlink()
    done = kb.sync(folder, key="name", delete_missing=True)
    assert (done.added, done.changed, done.removed, done.unchanged) == ([], ["2.png"], ["0.png"], 2)


def test_the_command(kb: KnowledgeBase, tmp_path: Path) -> None:
    plain = ("--encoder", "tests.faults.plain:PlainEncoder", "--device", "cpu")
    write(tmp_path / "b.parquet", rows(range(1, 31)) | {"S2": rows(range(3))["S2"] | {"price": 1}})
    sync = ("kb", "sync", "kb", "b.parquet", "--key", "sku", *plain)
    dry = bowerbird(*sync, "--dry-run", "--delete-missing", cwd=tmp_path)
    assert "would add 1, change 1, remove 1, unchanged 28" in dry.stderr
    assert "undo" not in dry.stderr
    done = json.loads(bowerbird(*sync, "--json", cwd=tmp_path).stdout)
    assert {k: done[k] for k in ("added", "changed", "removed", "unchanged", "embedded", "missing", "items")} == {
        "added": 1, "changed": 1, "removed": 0, "unchanged": 28, "embedded": 1, "missing": 1, "items": 31,
    }  # fmt: skip
    assert done["keys"] == {"added": ["S30"], "changed": ["S2"], "removed": []}
    assert done["undo"] == "bowerbird kb restore kb --version 1"
    assert "--delete-missing removes them" in bowerbird(*sync, cwd=tmp_path).stderr
    refused("kb", "sync", "kb", "b.parquet", "--key", "ean", *plain, says="--key 'ean'", cwd=tmp_path)


def _work(path: str, files: list[str]) -> None:
    for step in range(10**6):
        KnowledgeBase.open(path, encoder=PlainEncoder()).sync(files[step % 2], key="sku", delete_missing=True)


def test_kills(tmp_path: Path) -> None:
    """kill -9 at any moment of a sync: the knowledge base holds the one catalog or the other, and readers meanwhile see
    nothing between."""
    catalogs = [
        rows(range(40)),
        rows(range(20, 60))
        | {f"S{n}": {"sku": f"S{n}", "image": n + 500, "caption": "c", "price": n} for n in range(20, 30)},
    ]
    catalogs[1] |= {f"S{n}": line | {"price": -1} for n, line in ((n, rows(range(40))[f"S{n}"]) for n in range(30, 40))}
    files = [str(write(tmp_path / f"{at}.parquet", catalog)) for at, catalog in enumerate(catalogs)]
    wanted = [says(catalog) for catalog in catalogs]
    path, rng = tmp_path / "kb", np.random.default_rng(0)
    KnowledgeBase.build(path, files[0], encoder=PlainEncoder())
    server = multiprocessing.get_context("forkserver")
    for _ in range(3):
        start = KnowledgeBase.open(path).version
        child = server.Process(target=_work, args=(str(path), files))
        child.start()
        while KnowledgeBase.open(path).version < start + int(rng.integers(1, 4)):
            assert without_ids(held(KnowledgeBase.open(path))) in wanted
        time.sleep(float(rng.uniform(0, 0.2)))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert without_ids(held(KnowledgeBase.open(path))) in wanted
    KnowledgeBase.open(path, encoder=PlainEncoder()).sync(files[1], key="sku", delete_missing=True)
    assert without_ids(held(KnowledgeBase.open(path))) == wanted[1]
    assert verify(path, repair=True).good


def test_sync_reads_captions_from_the_column_that_build_was_given(tmp_path: Path, encoder: Counting) -> None:
    catalog = [{"sku": f"S{n}", "image": n, "headline": f"thing {n}"} for n in range(4)]
    place = write(tmp_path / "catalog.parquet", catalog)
    kb, _ = KnowledgeBase.build(tmp_path / "kb", place, encoder=encoder, caption_column="headline")
    again = kb.sync(place, key="sku")
    assert (again.changed, again.unchanged) == ([], 4)
    assert KnowledgeBase.open(tmp_path / "kb", encoder=encoder).info()["caption_column"] == "headline"
    renamed = [{"sku": line["sku"], "image": line["image"], "title of it": line["headline"]} for line in catalog]
    place = write(tmp_path / "catalog.parquet", renamed)
    with pytest.raises(BowerbirdError, match="headline"):
        kb.sync(place, key="sku")
    kb.sync(place, key="sku", caption_column="title of it")
    assert kb.sync(place, key="sku").unchanged == 4
    assert sorted(kb.get(kb.ids()).captions[0]) == [f"thing {n}" for n in range(4)]
