"""Two processes at one knowledge base, backups put back, and names from elsewhere: what is found is right, or
refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from bowerbird import KnowledgeBase
from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import SourceItem
from bowerbird.knowledge.search import planner
from bowerbird.knowledge.storage import directory
from bowerbird.knowledge.storage.lance import Rows
from bowerbird.knowledge.storage.verify import verify
from tests.faults.plain import PlainEncoder, caption, identity, picture, source


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(40)), encoder=PlainEncoder())[0]


def open_again(kb: KnowledgeBase) -> KnowledgeBase:
    return KnowledgeBase.open(kb.path, encoder=PlainEncoder())


@pytest.mark.parametrize("flat_up_to", [10, 1000])
def test_a_reader_goes_on_with_its_own_index(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch, flat_up_to: int
) -> None:
    """Another process removes items and makes the index again between two searches of this one."""
    monkeypatch.setitem(planner.INDEXES, "rabitq", planner.Index(flat_up_to + 1, "RaBitQfs"))
    kb.compact()
    reader = open_again(kb)
    assert len(reader.ids()) == 40  # opened, not searched yet
    open_again(kb).remove(where="number < 20")
    open_again(kb).compact()
    assert reader.search(text=caption(35), k=1, mode="bm25").captions == ((caption(35),),)
    query = reader.get([identity(3)]).embeddings[0]
    assert (
        reader.search(embeddings=query, k=1).ids[0, 0]
        == reader.search(embeddings=query, k=1, exact=True).ids[0, 0]
        == identity(3)
    )


def test_a_backup_put_back_is_not_met_by_an_index_of_another_past(kb: KnowledgeBase, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(kb.path, backup)
    kb.update(ids=[identity(1)], metadata={"note": "wrong"})
    kb.compact()
    for name in ("kb.json", "files.json"):
        shutil.copy(backup / name, kb.path / name)
    shutil.rmtree(kb.path / "rows.lance")
    shutil.copytree(backup / "rows.lance", kb.path / "rows.lance")  # and index/ of the other past stays
    restored = open_again(kb)
    assert "note" not in restored.get([identity(1)]).metadata[0][0]
    restored.update(ids=[identity(1)], metadata={"note": "right"})
    assert open_again(kb).get([identity(1)]).metadata[0][0]["note"] == "right"
    assert verify(kb.path, repair=True).good


def test_a_kill_while_versions_are_forgotten_is_no_damage(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    kb.remove(where="number < 5")
    original = directory.record_files

    def killed(path: Path) -> None:
        if files.read_json(path / "kb.json", "x").get("forgetting"):
            raise KeyboardInterrupt
        original(path)

    monkeypatch.setattr(directory, "record_files", killed)
    with pytest.raises(KeyboardInterrupt):
        kb.compact(drop_history=True)
    monkeypatch.setattr(directory, "record_files", original)
    assert len(open_again(kb).ids()) == 35
    assert open_again(kb).remove(where="number < 6") == 1  # the next writer ends it
    assert "forgetting" not in files.read_json(kb.path / "kb.json", "x")
    assert verify(kb.path).good


def test_what_was_not_committed_is_not_seen(kb: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(BowerbirdError):
        kb.add([source(tmp_path / "b.parquet", range(100, 110)), tmp_path / "missing"])
    assert len(kb) == len(kb.ids()) == 40
    assert len(kb.ids("number >= 100")) == 0


def test_two_builders_of_one_path(tmp_path: Path) -> None:
    data = source(tmp_path / "a.parquet", range(5))
    with files.resumable_directory(tmp_path / "kb", {"other": 1}) as folder:
        (folder / "work").write_text("of hours")
        with pytest.raises(BowerbirdError, match="another process"):
            KnowledgeBase.build(tmp_path / "kb", data, encoder=PlainEncoder())
        assert (folder / "work").read_text() == "of hours"


def test_a_build_killed_at_once_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / ".kb.making").mkdir()
    data = source(tmp_path / "a.parquet", range(5))
    facts = {"name": "plain", "fingerprint": PlainEncoder.fingerprint, "dim": 12, "normalize": True}
    tag = {"sources": [str(data.absolute())], "encoder": facts, "caption": None, "where": None}
    files.write_json(tmp_path / ".kb.making" / files.MAKING, tag)
    Rows.create(tmp_path / ".kb.making", 12)
    assert KnowledgeBase.build(tmp_path / "kb", data, encoder=PlainEncoder())[1].added == 5


def test_a_caption_that_makes_two_items_one_is_refused(kb: KnowledgeBase, tmp_path: Path) -> None:
    other = tmp_path / "same"
    other.mkdir()
    (other / "p.png").write_bytes(picture(1))
    (other / "p.txt").write_text("another name")
    kb.add(other)
    before = kb.get(kb.ids().tolist()).metadata
    for change in (
        {"ids": [identity(1)], "caption": "another name"},
        {"where": "file_name = 'p.png' OR number = 1", "caption": "new"},
    ):
        with pytest.raises(BowerbirdError, match="same as item"):
            kb.update(**change)
        assert open_again(kb).get(kb.ids().tolist()).metadata == before


def test_names_and_texts_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves of characters, names that are no columns, ours and LanceDB's: all are stored under names that can be
    asked for."""
    odd = {"a.b": 1, "": 2, "_rowid": 3, "added": 4, "with space": "\ud800", "`tick`": 5, "check": 6, "é": 7}
    items = [SourceItem(picture(n), f"n{n}\udc00", f"caption {n} \ud83d", dict(odd)) for n in range(3)]
    monkeypatch.setattr("bowerbird.data.sources.registry.read", lambda *_, **__: iter(items))
    kb, report = KnowledgeBase.build(tmp_path / "kb", tmp_path, encoder=PlainEncoder())
    assert report.added == 3
    metadata = kb.get(kb.ids().tolist()).metadata[0][0]
    assert metadata == {
        "a_b": 1,
        "_": 2,
        "source__rowid": 3,
        "source_added": 4,
        "with_space": "?",
        "_tick_": 5,
        "source_check": 6,
        "é": 7,
    }
    assert len(kb.ids("a_b = 1")) == 3
    assert KnowledgeBase.open(kb.path, encoder=PlainEncoder()).add(tmp_path).already_present == 3
    kb.update(ids=kb.ids()[:1].tolist(), caption="\ud800")
    assert verify(kb.path).good


def test_wrong_ids_are_refused(kb: KnowledgeBase) -> None:
    for ask in (lambda: kb.search(ids=[2**70], k=1), lambda: kb.remove(ids=[2**70]), lambda: kb.get([-(2**70)])):
        with pytest.raises(BowerbirdError, match="63 bits"):
            ask()
    assert kb.remove(ids=[5]) == 0
    assert np.isin(identity(3), kb.ids())
