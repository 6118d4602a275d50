"""The same knowledge base in a Milvus Lite file and on a server answers as a directory does."""

from __future__ import annotations

import json
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.knowledge.export import export
from bowerbird.knowledge.storage.milvus import conditions
from tests.faults.plain import PlainEncoder, caption, identity, picture, source
from tests.test_cli import bowerbird, process

pytest.importorskip("pymilvus")
CONDITIONS = (
    "kind = 'odd'",
    "number < 7",
    "number >= 10 AND kind = 'even'",
    "(number = 3 OR number = 4) AND kind <> 'odd'",
    "kind IN ('odd', 'strange')",
    "number IN (1, 2, 50)",
    "caption LIKE '%red%' AND number > 5",
    "NOT (kind = 'odd')",
    "note IS NULL",
    "name = '5.png'",
)


@pytest.fixture(scope="module", autouse=True)
def ask_often() -> Iterator[None]:
    """pymilvus asks twice a second whether an index is there, and ours are there at once."""
    often = types.SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(seconds / 50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pymilvus.client.grpc_handler.time", often)
        yield


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own process and network port; Milvus Lite's, as no other runs without a container."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(str(tmp_path_factory.mktemp("server")), host="127.0.0.1", port=0)
    yield f"milvus://127.0.0.1:{port}"
    server.stop(grace=0)
    database.close()


@pytest.fixture(params=["file", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"milvus://{tmp_path}/kb.db"
    return f"{request.getfixturevalue('address')}/c{abs(hash(request.node.name)) % 10**9}"


@pytest.fixture
def both(place: str, tmp_path: Path) -> tuple[KnowledgeBase, KnowledgeBase]:
    data = source(tmp_path / "a.parquet", range(30))
    there, _ = KnowledgeBase.build(place, data, encoder=PlainEncoder())
    here, _ = KnowledgeBase.build(tmp_path / "kb", data, encoder=PlainEncoder())
    return there, here


def test_it_answers_as_a_directory_does(both: tuple[KnowledgeBase, KnowledgeBase]) -> None:
    there, here = both
    assert len(there) == len(here) == 30
    ids = np.sort(here.ids()).tolist()
    assert np.sort(there.ids()).tolist() == ids
    mine, theirs = here.get(ids), there.get(ids)
    assert np.array_equal(mine.embeddings, theirs.embeddings)
    assert mine.captions == theirs.captions
    assert mine.metadata == theirs.metadata
    for a, b in zip(mine.images()[0], theirs.images()[0], strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert here.name(ids[3]) == there.name(ids[3])
    queries = PlainEncoder().embed_text(["one", "two things", "blue"])
    for options in ({"embeddings": queries}, {"ids": ids[:4]}, {"text": ["thing 7", "red kind"], "mode": "dense"}):
        a, b = here.search(k=6, **options), there.search(k=6, **options)  # type: ignore[arg-type]
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
        assert [set(row) for row in a.ids.tolist()] == [set(row) for row in b.ids.tolist()]
    assert there.search(text=caption(12), mode="bm25", k=3).ids[0, 0] == identity(12)
    assert there.search(text="zebra", mode="bm25", k=3).mask.sum() == 0
    assert there.search(text=caption(12), k=3).ids[0, 0] == here.search(text=caption(12), k=3).ids[0, 0] == identity(12)
    assert there.search(text="red", k=4, where="number > 20", alpha=0.5, diversity=0.3).mask.all()
    assert there.proposal(3) == here.proposal(3)
    for kb in both:
        kb.set_credit(["Kind", "number"])
        with pytest.raises(BowerbirdError, match="no such column"):
            kb.set_credit(["kin"])
    reopened = there.at_version(there.version)
    assert reopened.credit == here.credit == ("kind", "number")
    assert there.credits([*ids, 7]) == here.credits([*ids, 7])


def test_conditions_find_the_same_items(both: tuple[KnowledgeBase, KnowledgeBase]) -> None:
    there, here = both
    there.update(ids=[identity(1)], metadata={"note": "seen"})
    here.update(ids=[identity(1)], metadata={"note": "seen"})
    for where in CONDITIONS:
        assert sorted(there.ids(where).tolist()) == sorted(here.ids(where).tolist()), where
        hits = there.search(text="thing", mode="dense", k=30, where=where)
        assert set(hits.ids[hits.mask].tolist()) == set(here.ids(where).tolist()), where
    for wrong in ("nope = 1", "kind = ", "number < 'x'"):
        with pytest.raises(BowerbirdError):
            there.ids(wrong)
        with pytest.raises(BowerbirdError):
            here.ids(wrong)


def test_what_is_not_plainly_the_same_in_milvus_is_not_translated() -> None:
    assert conditions.translate("A = 'it''s' and b <> 2", "ab") == '(metadata["a"] == "it\'s" and metadata["b"] != 2)'
    for where in (
        "NOT a = 1",
        "a LIKE 'x%'",
        "a IS NULL",
        "a = b",
        "a + 1 = 2",
        "a IN (SELECT 1)",
        "a = 'x",
        "",
        "a = 1 b = 2",
        "lower(a) = 'x'",
        "c = 1",
        "a = 010",
    ):
        assert conditions.translate(where, "ab") is None, where


def test_changes_are_seen_and_removed_items_never_come_back(
    both: tuple[KnowledgeBase, KnowledgeBase], place: str, tmp_path: Path
) -> None:
    there, _ = both
    version = there.version
    assert there.add(source(tmp_path / "b.parquet", range(25, 40))).already_present == 5
    assert there.search(text=caption(39), mode="bm25", k=1).ids[0, 0] == identity(39)
    assert there.remove(where="number >= 30") == 10
    assert there.remove(ids=[identity(0), 17]) == 1
    assert len(there) == 29
    assert identity(0) not in there.search(text=caption(0), k=29).ids
    assert there.pictures(np.asarray([[identity(0), identity(1)]]))[0][0] is None
    assert there.update(ids=[identity(2)], caption="something new") == 1
    assert there.search(text="something new", mode="bm25", k=1).captions[0][0] == "something new"
    assert there.version > version
    again = KnowledgeBase.open(place, encoder=PlainEncoder())
    assert sorted(again.ids().tolist()) == sorted(there.ids().tolist())
    with pytest.raises(BowerbirdError, match="is not kept"):
        KnowledgeBase.open(place, version=version)
    with pytest.raises(BowerbirdError, match="is not kept"):
        again.restore(version)
    with pytest.raises(BowerbirdError, match="is empty"):
        again.remove(where=" ")
    with pytest.raises(BowerbirdError, match="use a directory"):
        again.sync(tmp_path / "b.parquet", key="number")
    assert export(again, tmp_path / "out", form="parquet") == 29
    assert len(KnowledgeBase.build(tmp_path / "back", tmp_path / "out", encoder=PlainEncoder())[0]) == 29


def test_what_does_not_belong_is_refused(both: tuple[KnowledgeBase, KnowledgeBase], place: str, tmp_path: Path) -> None:
    class Other(PlainEncoder):
        fingerprint = "fedcba9876543210"

    with pytest.raises(MismatchError, match="kb build NEW"):
        KnowledgeBase.open(place, encoder=Other())
    with pytest.raises(BowerbirdError, match="kb add"):
        KnowledgeBase.build(place, tmp_path / "a.parquet", encoder=PlainEncoder())
    with pytest.raises(BowerbirdError, match="kb build"):
        KnowledgeBase.open(f"{place}_other" if "#" in place or not place.endswith(".db") else f"{place}#other")
    for wrong in ("milvus://", "milvus://host:port/x", "milvus://localhost:1/1bad"):
        with pytest.raises(BowerbirdError, match="milvus://"):
            KnowledgeBase.open(wrong)
    with pytest.raises(BowerbirdError, match="Milvus says"):
        KnowledgeBase.open("milvus://127.0.0.1:1/x")


def test_large_pictures_and_the_command_line(tmp_path: Path) -> None:
    """A picture of several parts comes back whole; this process opens the file after another one."""
    rng = np.random.default_rng(0)
    from PIL import Image

    (tmp_path / "p").mkdir()
    Image.fromarray(rng.integers(0, 256, (220, 260, 3), np.uint8)).save(tmp_path / "p" / "noise.png")
    (tmp_path / "p" / "noise.txt").write_text("noise")
    process("kb", "build", "milvus://kb.db", "p", cwd=tmp_path)
    facts = json.loads(bowerbird("kb", "info", "milvus://kb.db", "--json", cwd=tmp_path).stdout)
    assert facts["items"] == 1
    assert set(facts) == {
        "path",
        "version",
        "items",
        "encoder",
        "credit",
        "caption_column",
        "indexes",
        "bytes",
        "metadata",
    }
    asked = ("search", "milvus://kb.db", "--text", "noise", "-k", "1", "--sheet", "s.png", "--json")
    found = json.loads(bowerbird(*asked, cwd=tmp_path).stdout)
    assert found["results"][0]["caption"] == "noise"
    assert (tmp_path / "s.png").is_file()


def test_more_items_than_are_remembered(
    both: tuple[KnowledgeBase, KnowledgeBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = both
    monkeypatch.setattr("bowerbird.knowledge.storage.milvus.snapshot.KEPT", 7)
    monkeypatch.setattr("bowerbird.knowledge.storage.milvus.snapshot.PAGE", 4)
    ids = here.ids().tolist()
    assert np.array_equal(there.get(ids).embeddings, here.get(ids).embeddings)
    assert there.proposal(3) == here.proposal(3)


def test_a_change_that_cannot_be_changes_nothing(both: tuple[KnowledgeBase, KnowledgeBase], tmp_path: Path) -> None:
    there, _ = both
    before = np.sort(there.ids()).tolist()
    for wrong in ({"note": "x" * 70_000}, {"number": "now a text"}):
        with pytest.raises(BowerbirdError):
            there.update(where="number < 20", metadata=wrong)
        assert np.sort(there.ids()).tolist() == before
    assert there.get(before).metadata[0][0].get("note") is None
    # one item that Milvus has no room for is named, and the rest goes in
    (tmp_path / "long").mkdir()
    for name, text in (("a", "alpha " * 12_000), ("b", "beta " + "filler " * 6_000 + "omega"), ("c", "short")):
        (tmp_path / "long" / f"{name}.png").write_bytes(picture(ord(name)))
        (tmp_path / "long" / f"{name}.txt").write_text(text)
    report = there.add(tmp_path / "long")
    assert (report.added, len(report.unreadable)) == (2, 1)
    assert there.search(text="omega", mode="bm25", k=1).captions[0][0].startswith("beta")


def test_a_value_of_another_kind_is_left_out_and_several_captions_are_searched(
    both: tuple[KnowledgeBase, KnowledgeBase], tmp_path: Path
) -> None:
    messages: list[str] = []
    there = KnowledgeBase.open(both[0].path, encoder=PlainEncoder(), on_message=messages.append)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.png").write_bytes(picture(99))
    row = {"file_name": "a.png", "number": "none", "kind": 7, "captions": ["first", "a vixen"]}
    (tmp_path / "odd" / "metadata.jsonl").write_text(json.dumps(row))
    assert there.add(tmp_path / "odd").added == 1
    found = there.search(text="vixen", mode="bm25", k=1)
    assert found.captions == (("first",),)
    assert found.metadata[0][0]["kind"] == "7"
    assert "number" not in found.metadata[0][0]
    assert messages[0] == "a.png: column number is int64, so 'none' is left out"


def test_nothing_that_is_not_ours_is_replaced(
    both: tuple[KnowledgeBase, KnowledgeBase], place: str, tmp_path: Path
) -> None:
    base = place if "#" in place or not place.endswith(".db") else f"{place}#bowerbird"
    with pytest.raises(BowerbirdError, match="_pictures"):
        KnowledgeBase.build(f"{base}_pictures", tmp_path / "a.parquet", encoder=PlainEncoder())
    both[0].store.client.create_collection(base.replace("#", "/").rsplit("/", 1)[1] + "x_pictures", dimension=4)
    with pytest.raises(BowerbirdError, match="not ours"):
        KnowledgeBase.build(f"{base}x", tmp_path / "a.parquet", encoder=PlainEncoder())


def test_an_interrupted_build_is_ended_by_the_same_and_no_other(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source(tmp_path / "a.parquet", range(20))
    with monkeypatch.context() as patch:
        patch.setattr(
            "bowerbird.knowledge.storage.milvus.store.MilvusStore.commit",
            lambda self: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            KnowledgeBase.build(place, data, encoder=PlainEncoder())
    with pytest.raises(BowerbirdError, match="interrupted"):
        KnowledgeBase.open(place)
    with pytest.raises(BowerbirdError, match="another build"):
        KnowledgeBase.build(place, source(tmp_path / "b.parquet", range(5)), encoder=PlainEncoder())
    kb, report = KnowledgeBase.build(place, data, encoder=PlainEncoder())
    assert (len(kb), report.already_present) == (20, 20)


def test_mistyped_words_and_compounds_are_found_there_too(place: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"encoder": PlainEncoder(), "language": "de", "compounds": True}
    data = source(tmp_path / "a.parquet", range(12))
    there, _ = KnowledgeBase.build(place, data, **options)
    there.update(ids=[identity(3)], caption="Hundehütte")
    there.update(ids=[identity(4)], caption="rote Häuser")
    here, _ = KnowledgeBase.build(tmp_path / "kb", data, **options)
    here.update(ids=[identity(3)], caption="Hundehütte")
    here.update(ids=[identity(4)], caption="rote Häuser")
    for kb in (there, here):
        kb.update(ids=[identity(5)], caption="黒い猫")
    for text, found in (
        ("黒猫", "黒い猫"),
        ("Haus", "rote Häuser"),
        ("Hund", "Hundehütte"),
        ("Hundehüttwe", "Hundehütte"),
    ):
        for kb in (there, here):
            assert kb.search(text=text, mode="bm25", k=3).captions[0][0] == found, (kb.path, text)
        assert there.search(text=text, mode="bm25", k=3).corrected == here.search(text=text, mode="bm25", k=3).corrected
    assert there.search(text="Häusr", mode="bm25", k=3, typos=False).mask.sum() == 0
    assert there.search(text="Häusr", mode="bm25", k=3).captions[0][0] == "rote Häuser"
