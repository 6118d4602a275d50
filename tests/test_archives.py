"""Every form in which others keep pictures is read as it is, and a hostile archive leads nowhere."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.data.sources import count, read
from bowerbird.knowledge.export import export
from tests.faults.plain import PlainEncoder, caption, picture, source


def member(name: str, data: bytes, **facts: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def shard(path: Path, numbers: range) -> Path:
    with tarfile.open(path, "w") as archive:
        for n in numbers:
            archive.addfile(*member(f"{n:06d}.png", picture(n)))
            archive.addfile(*member(f"{n:06d}.txt", caption(n).encode()))
            archive.addfile(
                *member(
                    f"{n:06d}.json", json.dumps({"number": n, "id": f"x{n}", "url": "https://example.org"}).encode()
                )
            )
    return path


def test_webdataset_shards(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards" / "00000.tar", range(3))
    shard(tmp_path / "shards" / "00001.tar", range(3, 5))
    items = list(read(tmp_path / "shards"))
    assert [i.data for i in items] == [picture(n) for n in range(5)]
    assert [i.caption for i in items] == [caption(n) for n in range(5)]
    assert items[4].metadata == {
        "shard": "00001.tar",
        "key": "000004",
        "number": 4,
        "source_id": "x4",
        "url": "https://example.org",
    }


def test_shards_are_counted_as_img2dataset_says(tmp_path: Path) -> None:
    for number in range(2):
        shard(tmp_path / f"{number:05d}.tar", range(3 * number, 3 * number + 3))
        (tmp_path / f"{number:05d}_stats.json").write_text('{"count": 4, "successes": 3}')
    assert count(tmp_path) == 6
    assert count(tmp_path / "00001.tar") == 3
    (tmp_path / "00001_stats.json").write_text('{"successes": "many"}')
    assert count(tmp_path) is None


def test_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("red/one.png", picture(1))
        archive.writestr("red/one.txt", "a thing")
        archive.writestr("readme.md", "no picture")
    (item,) = read(tmp_path / "a.zip")
    assert (item.data, item.caption) == (picture(1), "a thing")


def test_a_hostile_archive_leads_nowhere(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(9))
    with tarfile.open(inside / "bad.tar", "w") as archive:
        archive.addfile(*member("../../escaped.png", picture(1)))
        archive.addfile(*member(f"{tmp_path}/absolute.png", picture(2)))
        for kind, name in ((tarfile.SYMTYPE, "link.png"), (tarfile.LNKTYPE, "hard.png")):
            archive.addfile(*member(name, b"", type=kind, linkname=str(secret)))
        archive.addfile(*member("device.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5))
        archive.addfile(*member("odd\nname;.png", picture(3)))
    with zipfile.ZipFile(inside / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../zipped.png", picture(4))
        archive.writestr("bomb.png", b"\0" * (80 * 1024**2))
    before = sorted(p.name for p in tmp_path.rglob("*"))
    kb, report = KnowledgeBase.build(tmp_path / "kb", inside, encoder=PlainEncoder())
    found = {p.tobytes() for p in kb.get(kb.ids().tolist()).images()[0] if p is not None}
    assert len(found) == len(kb) == 4  # two named outside, one with an odd name, one of the zip; no link was followed
    assert [line.split(":")[0] for line in report.unreadable] == ["bad.zip/bomb.png"]
    assert sorted(p.name for p in tmp_path.rglob("*") if "kb" not in p.relative_to(tmp_path).parts[0]) == before


def test_a_cut_archive_is_an_error(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar", range(4)).read_bytes()
    for size in (0, 100, 550, len(whole) // 2 - 200):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(BowerbirdError, match="cut"):
            KnowledgeBase.build(tmp_path / "kb", tmp_path / "cut.tar", encoder=PlainEncoder())
        assert not (tmp_path / "kb").exists()


def test_clip_retrieval_keeps_its_embeddings(tmp_path: Path) -> None:
    """Parts in numeric order, vectors as they are, a picture where its path still leads to one."""
    folder = tmp_path / "laion"
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    rng = np.random.default_rng(0)
    (tmp_path / "there.png").write_bytes(picture(1))
    vectors = {part: rng.normal(size=(3, 12)).astype(np.float16) for part in (0, 2, 10)}
    for part, these in vectors.items():
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", these)
        paths = [str(tmp_path / ("there.png" if part == 10 and i == 0 else f"gone{i}.png")) for i in range(3)]
        pq.write_table(
            pa.table(
                {
                    "image_path": paths,
                    "caption": [f"part {part} row {i}" for i in range(3)],
                    "similarity": [0.1, 0.2, 0.3],
                }
            ),
            folder / "metadata" / f"metadata_{part}.parquet",
        )
    kb, report = KnowledgeBase.build(tmp_path / "kb", folder, encoder=PlainEncoder())
    assert report.added == 9
    items = kb.get(kb.ids().tolist())
    assert items.captions[0] == tuple(f"part {p} row {i}" for p in (0, 2, 10) for i in range(3))
    np.testing.assert_array_equal(
        items.embeddings[0], np.concatenate([vectors[p] for p in (0, 2, 10)]).astype(np.float32)
    )
    assert [p is not None for p in items.images()[0]] == [False] * 6 + [True, False, False]
    assert kb.search(text="part 10 row 2", k=1, mode="bm25").captions == (("part 10 row 2",),)
    with pytest.raises(MismatchError, match="12"):
        KnowledgeBase.build(tmp_path / "other", folder)
    np.save(folder / "img_emb" / "img_emb_2.npy", vectors[2][:2])
    with pytest.raises(BowerbirdError, match="belong together"):
        list(read(folder))


def test_clip_retrieval_finds_the_pictures_it_names(tmp_path: Path) -> None:
    """By the key of a sample in shards, in whatever order it read them, and by a path from where it ran; nothing
    outside the places that were given."""
    folder, shards, photos = tmp_path / "out" / "embeddings", tmp_path / "shards", tmp_path / "moved" / "photos"
    for made in (folder / "img_emb", folder / "metadata", shards, photos / "cats"):
        made.mkdir(parents=True)
    shard(shards / "00000.tar", range(3))
    shard(shards / "00001.tar", range(2, 5))  # 000002 is in both, so it may mean either
    (photos / "cats" / "a.png").write_bytes(picture(7))
    (tmp_path / "secret.png").write_bytes(picture(8))
    names = [
        "000004",
        "000002",
        "000001",
        "/home/ann/photos/cats/A.PNG",
        "photos/cats/a.png",
        "photos/../../secret.png",
    ]
    names.append(str(tmp_path / "secret.png"))
    vectors = np.random.default_rng(0).normal(size=(len(names), 12)).astype(np.float16)
    np.save(folder / "img_emb" / "img_emb_0.npy", vectors)
    pq.write_table(
        pa.table({"image_path": names, "caption": [f"row {i}" for i in range(len(names))]}),
        folder / "metadata" / "metadata_0.parquet",
    )
    kb, report = KnowledgeBase.build(
        tmp_path / "kb", folder, encoder=PlainEncoder(), pictures=[shards, photos], caption_column="caption"
    )
    items = kb.get(kb.ids().tolist())
    held = kb.store.pictures(items.ids[0].tolist())
    there = {c: held.get(i, b"") for c, i in zip(items.captions[0], items.ids[0].tolist(), strict=True)}
    assert [there[f"row {i}"] for i in range(7)] == [picture(4), b"", picture(1), picture(7), picture(7), b"", b""]
    assert report.source.counts["embeddings_without_picture"] == 3
    assert report.source.names["embeddings_without_picture"] == [names[1], *names[5:]]
    with pytest.raises(BowerbirdError, match=r"no folder and no \.tar shard"):
        KnowledgeBase.build(tmp_path / "other", folder, encoder=PlainEncoder(), pictures=[tmp_path / "gone"])
    assert not (tmp_path / "other").exists()


def test_rdm_database_parts_in_numeric_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in (1, 2, 10):
        vectors, names = rng.normal(size=(3, 12)).astype(np.float16), np.asarray([f"p{part}i{i}" for i in range(3)])
        np.savez(
            tmp_path / f"3x12-part_{part}.npz",
            embedding=vectors,
            img_id=names,
            patch_coords=np.arange(12).reshape(3, 4),
        )
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path, encoder=PlainEncoder())
    metadata = kb.get(kb.ids().tolist()).metadata[0]
    assert [m["img_id"] for m in metadata] == [f"p{p}i{i}" for p in (1, 2, 10) for i in range(3)]
    assert metadata[1] == {"img_id": "p1i1", "patch_x_tl": 4.0, "patch_y_tl": 5.0, "patch_x_br": 6.0, "patch_y_br": 7.0}
    np.savez(tmp_path / "3x12-part_3.npz", embedding=np.zeros((1, 12)), img_id=np.asarray([{"code": "run me"}], object))
    with pytest.raises(BowerbirdError, match="part_3"):
        list(read(tmp_path))


def test_a_saved_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    (folder.parent / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    table = pa.table(
        {"image": [{"bytes": picture(n), "path": None} for n in range(3)], "text": [caption(n) for n in range(3)]}
    )
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    items = list(read(folder.parent))
    assert [(i.data, i.caption, i.metadata) for i in items] == [
        (picture(n), caption(n), {"split": "train"}) for n in range(3)
    ]
    assert [i.caption for i in read(f"hf:{folder}")] == [caption(n) for n in range(3)]
    with pytest.raises(BowerbirdError, match="hf:nobody/nothing"):
        list(read("hf:nobody/nothing"))


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_what_is_exported_is_built_again_with_the_same_ids(tmp_path: Path, form: str) -> None:
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(20)), encoder=PlainEncoder())
    assert export(kb, tmp_path / "out", form=form, where="number < 12") == 12
    again, _ = KnowledgeBase.build(tmp_path / "again", tmp_path / "out", encoder=PlainEncoder())
    assert set(again.ids().tolist()) == set(kb.ids("number < 12").tolist())
    ids = sorted(again.ids().tolist())
    numbers = [[m["number"] for m in which.get(ids).metadata[0]] for which in (kb, again)]
    assert numbers[0] == numbers[1]
    with pytest.raises(BowerbirdError, match="taken"):
        export(kb, tmp_path / "out")
