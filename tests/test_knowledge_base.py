"""The knowledge base keeps what it was given, finds it again, and refuses what does not belong to it."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird import KnowledgeBase, encoders
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import ABSENT
from bowerbird.data.drawn import read_drawn
from bowerbird.knowledge.export import export as write_export
from bowerbird.knowledge.search import bm25, dense


@pytest.fixture
def kb(drawn_folder: Path, tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.build(tmp_path / "kb", drawn_folder)[0]


def test_build_search_and_reopen(kb: KnowledgeBase) -> None:
    assert len(kb) == 36
    assert kb.version == 1
    everything = kb.get(kb.ids().tolist())
    picture = everything.images()[0][7]
    assert picture is not None
    again = KnowledgeBase.open(kb.path).search(images=[picture], k=3)
    assert again.ids[0, 0] == everything.ids[0, 7]
    assert again.scores[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert (np.diff(again.scores) <= 0).all()


def test_one_that_is_let_go_of_closes_its_files_at_once(kb_path: Path) -> None:
    """A server opens one after each change; files that wait for the garbage collector are many by then."""

    def searched() -> list[weakref.ref[Any]]:
        kb = KnowledgeBase.open(kb_path)
        for mode in ("dense", "hybrid"):
            kb.search(text="red circle", k=2, mode=mode)
        return [weakref.ref(each) for each in (kb, kb.store, kb.store.snapshot)]

    searched()  # what is imported or read first makes circles of its own
    gc.collect()
    gc.disable()
    try:
        assert [each() for each in searched()] == [None] * 3
    finally:
        gc.enable()


def test_stored_embeddings_are_the_encoders_raw_output(kb: KnowledgeBase) -> None:
    hits = kb.get(kb.ids()[:5].tolist())
    expected = encoders.load("small").embed_images([i for i in hits.images()[0] if i is not None])
    np.testing.assert_allclose(hits.embeddings[0], expected, rtol=1e-4, atol=1e-4)
    assert abs(np.linalg.norm(expected, axis=1) - 1).max() > 1e-3  # raw, not normalized


def test_dense_search_equals_brute_force(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    everything = kb.get(kb.ids().tolist())
    unit = dense.prepare(everything.embeddings[0], True)
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(20, unit.shape[1])).astype(np.float32)
    expected = np.argsort(-(dense.prepare(queries, True) @ unit.T), axis=1)[:, :6]
    assert (kb.search(embeddings=queries, k=6).ids == kb.ids()[expected]).all()


def test_self_is_never_retrieved_by_id(kb: KnowledgeBase) -> None:
    ids = kb.ids()
    hits = kb.search(ids=ids.tolist(), k=len(kb))
    assert not (hits.ids == ids[:, None]).any()
    assert (hits.ids[:, -1] == ABSENT).all()
    assert (hits.ids[:, :-1] != ABSENT).all()


def test_whole_caption_comes_first_in_words(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    assert set(kb.search(text="a pine tree", k=4, mode="bm25").captions[0]) <= {
        "a green pine tree",
        "a blue pine tree",
        "a purple pine tree",
    }
    assert kb.search(text="a green tree", k=2, mode="bm25").captions[0] == ("a green tree", "a green tree")
    assert kb.search(text="zebra", k=2, mode="bm25").ids.tolist() == [[ABSENT, ABSENT]]
    assert "ladybird" in kb.search(text="yellow ladybird", k=1).captions[0][0]


def test_where_limits_every_mode(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    picture = next(iter(read_drawn()))
    for query in (
        {"text": "red apple", "mode": "bm25"},
        {"text": "red apple", "mode": "dense"},
        {"text": "red apple"},
        {"ids": [int(kb.ids()[0])]},
    ):
        hits = kb.search(**query, k=5, where="style = 'ink' AND color = 'red'")
        assert {m["style"] + m["color"] for m, there in zip(hits.metadata[0], hits.mask[0], strict=True) if there} == {
            "inkred"
        }
    with pytest.raises(BowerbirdError, match="columns"):
        kb.search(text="x", k=1, where="nope = 1")
    assert picture.caption == "a red apple"


def test_add_is_idempotent_and_reports_the_unreadable(kb: KnowledgeBase, drawn_folder: Path, tmp_path: Path) -> None:
    report = kb.add(drawn_folder)
    assert (report.added, report.already_present, kb.version) == (0, 36, 1)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "text.png").write_text("this is text")
    Image.new("L", (10, 30), 128).save(mixed / "gray.tif")
    report = kb.add(mixed)
    assert (report.added, len(kb), kb.version) == (1, 37, 2)
    assert [line.split(":")[0] for line in report.unreadable] == ["text.png"]


def test_remove_and_versions(kb: KnowledgeBase) -> None:
    before = KnowledgeBase.open(kb.path)
    gone = kb.ids("class = 'ink'")
    assert kb.remove(where="class = 'ink'") == len(gone) > 0
    assert not np.isin(kb.ids(), gone).any()
    assert not np.isin(kb.search(text="red", k=5).ids, gone).any()
    assert np.isin(before.ids(), gone).any()  # a reader keeps the version it opened
    with pytest.raises(BowerbirdError, match="no item"):
        kb.get([int(gone[0])])


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_an_empty_condition_is_refused_and_changes_nothing(kb: KnowledgeBase, tmp_path: Path, blank: str) -> None:
    before = kb.ids().tolist()
    for change in (
        lambda: kb.remove(where=blank),
        lambda: kb.update(where=blank, caption="x"),
        lambda: kb.search(text="red", k=2, where=blank),
        lambda: kb.add("drawn", where=blank),
        lambda: write_export(kb, tmp_path / "out", where=blank),
    ):
        with pytest.raises(BowerbirdError, match=r"is empty.*true for every item"):
            change()
    assert (KnowledgeBase.open(kb.path).ids().tolist(), kb.version) == (before, 1)
    assert not (tmp_path / "out").exists()
    assert kb.remove(where="true") == len(before)


def test_restore_makes_a_version_equal_to_an_earlier_one(kb: KnowledgeBase) -> None:
    before, query = sorted(kb.ids().tolist()), kb.get(kb.ids()[:1].tolist()).embeddings[0]
    expected = kb.search(embeddings=query, k=36)
    kb.update(where="true", metadata={"mark": 1})
    kb.remove(where="true")
    assert (len(kb), kb.restore(1), len(kb)) == (0, 4, 36)
    for again in (kb, KnowledgeBase.open(kb.path)):
        assert sorted(again.ids().tolist()) == before
        assert "mark" not in again.info()["metadata"]
        found = again.search(embeddings=query, k=36)
        assert (found.ids == expected.ids).all()
        assert (found.scores == expected.scores).all()
    assert (kb.restore(2), kb.ids("mark = 1").size) == (5, 36)
    assert (kb.restore(5), kb.versions) == (5, [0, 1, 2, 3, 4, 5])
    kb.compact(drop_history=True)
    with pytest.raises(BowerbirdError, match=r"version 3 is not kept; there is 6 alone.*--drop-history"):
        kb.restore(3)
    with pytest.raises(BowerbirdError, match=r"version 99 is not kept; there is 6 alone$"):
        kb.restore(99)
    assert (KnowledgeBase.open(kb.path).version, len(kb)) == (6, 36)


def test_another_encoder_is_refused_with_the_fix(kb: KnowledgeBase) -> None:
    other = encoders.load("small")
    other.fingerprint = "0" * 16
    with pytest.raises(MismatchError, match="kb build"):
        KnowledgeBase.open(kb.path, encoder=other)
    with pytest.raises(MismatchError, match="embed it with"):
        kb.search(embeddings=np.zeros((1, 7), np.float32), k=1)
    manifest = json.loads((kb.path / "kb.json").read_text())
    manifest["encoder"]["fingerprint"] = "f" * 16
    (kb.path / "kb.json").write_text(json.dumps(manifest))
    with pytest.raises(MismatchError, match="made with encoder"):
        KnowledgeBase.open(kb.path)


def test_indexes_are_caches(kb: KnowledgeBase) -> None:
    expected = kb.search(text="red", k=5)
    shutil.rmtree(kb.path / "index")
    assert (KnowledgeBase.open(kb.path).search(text="red", k=5).ids == expected.ids).all()
    vectors = kb.path / "index" / "vectors.npy"
    damaged = bytearray(vectors.read_bytes())
    damaged[-5] ^= 255
    vectors.write_bytes(damaged)
    assert (KnowledgeBase.open(kb.path).search(text="red", k=5).ids == expected.ids).all()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs a file system that can refuse")
def test_opens_in_a_read_only_place(kb: KnowledgeBase) -> None:
    shutil.rmtree(kb.path / "index")
    for path in [kb.path, *kb.path.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        assert KnowledgeBase.open(kb.path).search(text="red", k=3).mask.all()
    finally:
        for path in [kb.path, *kb.path.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_a_source_that_is_no_path_is_named(tmp_path: Path) -> None:
    for source in (Image.new("RGB", (8, 8)), [Image.new("RGB", (8, 8))], [{"image": b""}]):
        with pytest.raises(BowerbirdError, match=r"source: a path or a name.*not (an Image|a dict)"):
            KnowledgeBase.build(tmp_path / "kb", source)  # type: ignore[arg-type]
    assert not (tmp_path / "kb").exists()


def test_build_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_text("text")
    with pytest.raises(BowerbirdError, match=r"a\.png"):
        KnowledgeBase.build(tmp_path / "kb", tmp_path / "pictures")
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_killed_add_loses_nothing(kb: KnowledgeBase, tmp_path: Path) -> None:
    """kill -9 in the middle of adding: the old version opens whole, and the next add ends with every picture once."""
    for delay in (0.0, 0.15, 0.4):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                (
                    f"import bowerbird as bb; kb = bb.KnowledgeBase.open({str(kb.path)!r}); kb.encoder; print(1,"
                    " flush=True); kb.add('drawn')"
                ),
            ],
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        opened = KnowledgeBase.open(kb.path)
        assert len(opened.ids()) == len(opened) == len(set(opened.ids().tolist()))
        assert opened.search(text="red", k=3).mask.all()
    final = KnowledgeBase.open(kb.path)
    final.add("drawn")
    assert len(final.ids()) == len(set(final.ids().tolist())) == len(final)
    assert len(final) >= 216


def _add_one(path: str, shade: int) -> None:
    folder = Path(path).parent / f"one{shade}"
    folder.mkdir()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / "p.png")
    KnowledgeBase.open(path).add(folder)


def test_writers_wait_for_each_other(kb: KnowledgeBase) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_one, args=(str(kb.path), shade)) for shade in (10, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(KnowledgeBase.open(kb.path)) == 38


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_can_be_searched_for(kb_path: Path, text: str) -> None:
    kb = KnowledgeBase.open(kb_path)
    if text.strip():
        assert kb.search(text=text, k=2).ids.shape == (1, 2)
    else:
        with pytest.raises(BowerbirdError, match="empty"):
            kb.search(text=text, k=2)


def test_bm25_scores_follow_the_formula() -> None:
    captions = ["red fox", "fox fox", "blue whale sea"]
    index = bm25.build(captions, [""] * 3)
    _, scores = bm25.search(index, np.arange(3), "fox", 3)
    lengths, k1, b = np.array([3, 3, 4]), 1.5, 0.75  # each caption also carries its whole self as one word
    idf = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    tf = np.array([1, 2])
    expected = idf * tf / (tf + k1 * (1 - b + b * lengths[:2] / lengths.mean()))
    assert scores[:2] == pytest.approx(sorted(expected, reverse=True), rel=1e-5)


def test_bm25_is_that_of_bm25s_to_the_last_bit(tmp_path: Path) -> None:
    bm25s = pytest.importorskip("bm25s")
    rng = np.random.default_rng(0)
    captions = [" ".join(f"w{n}" for n in rng.geometric(0.05, rng.integers(0, 12))) for _ in range(300)]
    ours, vocabulary = bm25.build(captions, captions[::-1], (2, 1)), {}
    tokens = [
        [vocabulary.setdefault(word, len(vocabulary)) for word in words]
        for words in bm25.tokens_of(captions, captions[::-1], (2, 1), lambda _: bm25.EVERY)
    ]
    theirs = bm25s.BM25(method="lucene", k1=bm25.K1, b=bm25.B)
    theirs.index((tokens, vocabulary), show_progress=False)
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    bm25.save(ours, tmp_path / "ours")
    theirs.save(str(tmp_path / "theirs"), show_progress=False)
    for name in (bm25.DATA, bm25.INDICES, bm25.INDPTR):
        assert np.array_equal(np.load(tmp_path / "ours" / name), np.load(tmp_path / "theirs" / name))
    read = bm25s.BM25.load(str(tmp_path / "ours"))  # what we write stays readable elsewhere
    again = bm25.load(tmp_path / "ours")
    assert read.vocab_dict == again.vocabulary == vocabulary
    assert again.documents == 300


def test_info_has_the_promised_keys(kb: KnowledgeBase) -> None:
    facts = kb.info()
    assert set(facts) >= {"path", "version", "items", "encoder", "indexes", "bytes", "metadata"}
    assert set(facts["encoder"]) == {"name", "fingerprint", "dim", "normalize"}
    assert facts["metadata"]["class"] == "string"


def test_a_blend_adds_and_takes_away(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    first = kb.ids()[:3]
    pictures = kb.get(first.tolist())
    a, b = (dense.prepare(pictures.embeddings[0, i : i + 1], True) for i in (0, 1))
    hits = kb.search(query_mix=[(pictures.embeddings[0, 0], 1.0), (pictures.embeddings[0, 1], -0.5)], k=5)
    assert (hits.ids == kb.search(embeddings=a - 0.5 * b, k=5).ids).all()
    assert kb.search(query_mix=[("red apple", 1.0), (pictures.images()[0][0], 2.0)], k=1).ids[0, 0] == first[0]
    with pytest.raises(BowerbirdError, match="cancel"):
        kb.search(query_mix=[("red apple", 1.0), ("red apple", -1.0)], k=1)


def test_diversity_starts_with_the_best_and_goes_elsewhere(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)

    def spread(diversity: float) -> tuple[int, float]:
        hits = kb.search(text="red", k=6, mode="dense", diversity=diversity)
        unit = dense.prepare(hits.embeddings[0], True)
        return int(hits.ids[0, 0]), float((unit @ unit.T)[np.triu_indices(6, 1)].mean())

    plain = kb.search(text="red", k=6, mode="dense")
    (first, alike), (same, less) = spread(1e-9), spread(0.7)
    assert first == same == plain.ids[0, 0]
    assert less < alike


def test_balance_moves_from_words_to_looks(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    words = kb.search(text="blue", k=5, mode="bm25")
    assert set(kb.search(text="blue", k=5, alpha=0.0).ids[0].tolist()) <= set(
        kb.search(text="blue", k=50, mode="bm25").ids[0].tolist()
    )
    assert kb.search(text="blue", k=5, alpha=1.0).ids.tolist() != words.ids.tolist()
    with pytest.raises(BowerbirdError, match="0 to 1"):
        kb.search(text="blue", k=5, alpha=1.5)
