"""Every file of a knowledge base cut short and with flipped bits: `verify` names it, and a search is right or refused,
never wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bowerbird import KnowledgeBase
from bowerbird.core import checksums, files
from bowerbird.core.errors import BowerbirdError
from bowerbird.knowledge.search import dense, planner
from bowerbird.knowledge.storage.verify import verify
from tests.faults.plain import FULL, PlainEncoder, source

OFFSETS = 100 if FULL else 1


def answers(path: Path) -> list[object]:
    """What a reader gets: searches of every kind, pictures, conditions."""
    kb = KnowledgeBase.open(path, encoder=PlainEncoder())
    words, looks = kb.search(text="red thing", k=9), kb.search(ids=kb.ids()[:3].tolist(), k=5)
    pictures = [None if p is None else p.tobytes() for row in looks.images() for p in row]
    return [
        sorted(kb.ids().tolist()),
        sorted(kb.ids("number > 40").tolist()),
        words.ids.tolist(),
        looks.ids.tolist(),
        looks.captions,
        looks.metadata,
        looks.embeddings.tolist(),
        looks.scores.tolist(),
        pictures,
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(planner.INDEXES, "rabitq", planner.Index(31, "RaBitQfs"))
        patch.setitem(planner.INDEXES, "ivf-rabitq", planner.Index(41, "IVF{lists},RaBitQfs"))
        kb, _ = KnowledgeBase.build(folder / "kb", source(folder / "a.parquet", range(70)), encoder=PlainEncoder())
        kb.remove(where="number < 5")
        kb.update(where="number = 50", metadata={"note": "changed"})
    assert kb.info()["indexes"]["dense"]["kind"] == "ivf-rabitq"
    return folder / "kb"


def test_every_file(made: Path, tmp_path: Path, count: Callable[[str], None]) -> None:
    expected = answers(made)
    assert verify(made).good
    rng = np.random.default_rng(0)
    names = [n for n in checksums.list_files(made) if not n.endswith(".lock")]
    tried = 0
    for name in names:
        content = (made / name).read_bytes()
        offsets = sorted({int(o) for o in rng.integers(0, len(content), OFFSETS)} | {0, len(content) - 1})
        for offset in offsets:
            for damaged in (
                content[:offset],
                content[:offset] + bytes([content[offset] ^ (1 << int(rng.integers(8)))]) + content[offset + 1 :],
            ):
                path = tmp_path / "kb"
                shutil.rmtree(path, ignore_errors=True)
                shutil.copytree(made, path)
                (path / name).write_bytes(damaged)
                verdict = verify(path)
                told = " ".join(verdict.corrupt + verdict.outdated)
                assert not verdict.good, f"{name} at {offset}: not noticed"
                assert name.split("/")[0] in told, f"{name} at {offset}: {told}"
                assert Path(name).name in told or name.startswith("index/"), f"{name} at {offset}: {told}"
                try:
                    found = answers(path)
                except BowerbirdError:
                    found = expected
                assert found == expected, f"{name} at {offset}: wrong answers"
                if name.startswith("index/"):
                    # opening made the index again already; from the damaged state, repair does
                    assert verify(path, repair=True).good
                    assert answers(path) == expected
                tried += 1
    count(f"{tried} damages in {len(names)} files")


def test_an_encoder_may_be_renamed_and_no_more(made: Path, tmp_path: Path) -> None:
    for old, new, message in (
        ('"plain"', '"other"', None),
        ('"dim": 12', '"dim": 13', "made with"),
        ('"fingerprint": "0123', '"fingerprint": "1123', "made with"),
    ):
        path = tmp_path / new.strip('"')[:4]
        shutil.copytree(made, path)
        text = (path / "kb.json").read_text()
        (path / "kb.json").write_text(text.replace(old, new, 1))
        assert (path / "kb.json").read_text() != text
        if message is None:
            assert KnowledgeBase.open(path).encoder_name == "other"
        else:
            with pytest.raises(BowerbirdError, match=message):
                KnowledgeBase.open(path)


@pytest.mark.parametrize("missing", ["", "preadv"])
def test_vectors_that_are_cut_while_open_are_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing:  # as on Windows
        monkeypatch.delattr(os, missing)
    np.save(tmp_path / "v.npy", np.arange(60, dtype=np.float32).reshape(5, 12))
    rows = dense.RowFile(tmp_path / "v.npy")
    assert rows.read(np.asarray([4, 1]))[:, 0].tolist() == [48.0, 12.0]
    os.truncate(tmp_path / "v.npy", (tmp_path / "v.npy").stat().st_size - 20)
    with pytest.raises(BowerbirdError, match="shorter"):
        rows.read(np.asarray([4]))


def test_files_are_durable_where_a_directory_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = os.open
    monkeypatch.delattr(os, "O_DIRECTORY")  # as on Windows
    monkeypatch.setattr(os, "open", lambda path, flags, *more: opened.append((path, flags)) or original(path, flags))
    with files.atomic_path(tmp_path / "a" / "f") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a" / "f").read_text() == "x"
    assert [flags & os.O_RDWR for path, flags in opened if "tmp" in Path(path).suffix] == [os.O_RDWR]
    assert not [path for path, _ in opened if Path(path).is_dir()]


def test_repair_makes_the_index_again(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "kb"
    shutil.copytree(made, path)
    expected = answers(path)
    (path / "index" / "vectors.npy").write_bytes(b"nothing")
    verdict = verify(path, repair=True)
    assert verdict.good
    assert verdict.repaired == verdict.outdated != []
    assert verify(path).outdated == []
    assert answers(path) == expected


def test_a_missing_file_is_named(made: Path, tmp_path: Path) -> None:
    for name in ("kb.json", "files.json", next(n for n in checksums.list_files(made) if n.endswith(".lance"))):
        path = tmp_path / "kb"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(made, path)
        (path / name).unlink()
        assert any(Path(name).name in line or "no knowledge base" in line for line in verify(path).corrupt), name
        with pytest.raises(BowerbirdError):
            answers(path)


def test_an_index_of_other_rows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of an index, one by one, as it is of another knowledge base: all hashes fit what was written, and the
    answers would be wrong."""
    monkeypatch.setitem(planner.INDEXES, "rabitq", planner.Index(10_000, "RaBitQfs"))
    monkeypatch.setitem(planner.INDEXES, "ivf-rabitq", planner.Index(121, "IVF{lists},RaBitQfs"))
    kb, other = (
        KnowledgeBase.build(tmp_path / name, source(tmp_path / f"{name}.parquet", numbers), encoder=PlainEncoder())[0]
        for name, numbers in (("kb", range(200)), ("other", range(200, 400)))
    )
    kb.update(where="number < 4", metadata={"mark": 1})  # beside the index
    kb.remove(where="number < 2")
    assert verify(kb.path).good
    saved = tmp_path / "index"
    shutil.copytree(kb.path / "index", saved)
    names = checksums.list_files(saved)
    found = set()
    for name in names:
        if name == "manifest.json" or (saved / name).read_bytes() == (other.path / "index" / name).read_bytes():
            continue
        shutil.rmtree(kb.path / "index")
        shutil.copytree(saved, kb.path / "index")
        shutil.copy(other.path / "index" / name, kb.path / "index" / name)
        facts = files.read_sealed(kb.path / "index" / "manifest.json", "x")
        files.write_sealed(
            kb.path / "index" / "manifest.json",
            facts | {"files": checksums.record(kb.path / "index", "manifest.json")},
        )
        verdict = verify(kb.path)
        assert verdict.outdated, f"{name} of another knowledge base passed"
        found.add(name)
    assert {"vectors.npy", "table.arrow", "dense.faiss", "lengths.npy", "small.npy", "steps.npy"} <= found, names
    assert sum(name.startswith("bm25/") for name in found) >= 4
    assert verify(kb.path, repair=True).good
    assert verify(kb.path).good
