"""What a search says of each result besides its rank: cosine and BM25 as they are, and results cut off by them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.knowledge.search import fusion
from tests.faults.plain import PlainEncoder
from tests.test_own_classes import run


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def test_similarity_and_bm25_stand_beside_the_fused_score(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    hits = kb.search(text="red apple", k=12)
    cosines = unit(hits.embeddings[0]) @ unit(kb.encoder.embed_text(["red apple"]))[0]
    np.testing.assert_allclose(hits.measures["similarity"][0], cosines, atol=1e-6)
    by_words = kb.search(text="red apple", k=len(kb), mode="bm25")
    scores = dict(zip(by_words.ids[0].tolist(), by_words.scores[0].tolist(), strict=True))
    for item, value in zip(hits.ids[0].tolist(), hits.measures["bm25"][0].tolist(), strict=True):
        assert scores[item] == value if item in scores else np.isnan(value)
    assert hits.scores[0, 0] < 0.05 < hits.measures["bm25"][0, 0]
    assert "bm25" not in kb.search(text="red apple", k=2, mode="dense").measures
    half = hits.repeat(2).select([1, 0])
    np.testing.assert_array_equal(half.measures["similarity"], np.tile(hits.measures["similarity"][:, [1, 0]], (2, 1)))


def test_a_name_that_no_item_has_is_said(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    hits = kb.search(text=["zebra", "red apple"], k=3)
    assert [len(row) for row in hits.notes] == [1, 0]
    assert "no item has a word of 'zebra'" in hits.notes[0][0]
    assert not kb.search(text="zebra", k=3, mode="dense").notes  # nobody asked for words
    assert not kb.search(text="red apple", k=3).notes


def test_a_cut_off_leaves_out_and_keeps_the_order(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    for mode, measure in (("dense", "similarity"), ("hybrid", "similarity"), ("bm25", "bm25")):
        every = kb.search(text="red apple", k=20, mode=mode)
        least = float(np.sort(every.measures[measure][0])[-2])
        some = kb.search(text="red apple", k=20, mode=mode, min_score=least)
        kept = [i for i, v in zip(every.ids[0].tolist(), every.measures[measure][0], strict=True) if v >= least]
        assert 0 < len(kept) < 20
        assert some.ids[0].tolist() == kept + [-1] * (20 - len(kept))
        assert (some.scores[0, len(kept) :] == -np.inf).all()
    picture = kb.search(ids=[int(kb.ids()[0])], k=1, include_self=True).images()[0]
    assert kb.search(images=picture, k=30, min_score=0.999).mask.sum() == 1  # type: ignore[arg-type]
    for wrong, mode in ((1.5, "dense"), (-2.0, "hybrid"), (-1.0, "bm25"), (float("nan"), "dense")):
        with pytest.raises(BowerbirdError, match="min_score"):
            kb.search(text="red", k=1, mode=mode, min_score=wrong)


def test_what_is_usual_is_measured(kb_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    usual = kb.similarities(text="red apple")
    every = kb.search(text="red apple", k=len(kb), mode="dense")
    np.testing.assert_allclose(usual[::-1], every.scores[0], atol=1e-5)  # fewer than 1,000 items: all of them


def test_the_command_shows_them(kb_path: Path) -> None:
    found = json.loads(run("search", str(kb_path), "--text", "red apple", "-k", "3", "--json")[0])
    first = found["results"][0]
    assert first["caption"] == "a red apple"
    assert first["path"].endswith("red apple")
    assert first["bm25"] > 1 > first["similarity"] > first["score"] > 0
    assert found["usual_similarity"]["half"] < found["usual_similarity"]["a hundredth"] <= first["similarity"]
    out, _ = run("search", str(kb_path), "--text", "red apple", "-k", "1")
    score, cosine, words, item, rest = out.split(maxsplit=4)
    assert (float(score), float(cosine), float(words)) == tuple(
        round(first[name], 3) for name in ("score", "similarity", "bm25")
    )
    assert (int(item), rest.strip()) == (first["id"], f"{first['path']}: a red apple")
    out, error = run("search", str(kb_path), "--text", "red apple", "--min-score", "0.99")
    assert out == ""
    assert "--min-score 0.99" in error
    assert "half of all items" in error
    assert json.loads(run("search", str(kb_path), "--text", "zebra", "--mode", "bm25", "--json")[0])["results"] == []


class Directions(PlainEncoder):
    """A text lies along the first axis, the picture of shade 0 along the second, others between, where words and
    pictures that have them lead."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.tile(np.eye(12, dtype=np.float32)[0], (len(texts), 1))

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        shades = np.asarray([picture.getpixel((0, 0))[0] for picture in images])  # type: ignore[index]
        made = np.zeros((len(images), 12), np.float32)
        made[:, 1] = 1
        made[:, 0] = np.where(shades > 0, 0.5 + shades / 1000, 0)
        return made


def test_words_that_an_item_has_all_of_are_not_outvoted_by_its_looks(tmp_path: Path) -> None:
    captions = ["a red fox that jumps over a high fence", "a red house", "a red line", "a red square"]
    for shade, caption in enumerate(captions):
        Image.new("RGB", (8, 8), (20 * shade, 0, 0)).save(tmp_path / f"{shade}.png")
        (tmp_path / f"{shade}.txt").write_text(caption)
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path, encoder=Directions())
    assert kb.search(text="red fox", k=4, alpha="even").captions[0][0] != captions[0]
    assert kb.search(text="red fox", k=4).captions[0][0] == captions[0]
    assert kb.search(text="red", k=3).captions[0][0] in captions[1:]
    part = kb.search(text="red tulip growing outside", k=4)  # one word of four: the embedding counts as much
    assert part.scores[0, 0] > 1.9 / 63 > 1.9 / 64 > kb.search(text="red fox", k=4).scores[0, 0]
    two = kb.search(text="fox and house", k=4)  # no item has both, but each has one
    assert two.scores[0, 0] < 1.1 / 61
    assert fusion.weight_beside_words(1.0) == fusion.LEAST
    assert fusion.weight_beside_words(0.5) == fusion.weight_beside_words(0.0) == 1
    np.testing.assert_array_equal(fusion.shared_ranks(np.array([3.0, 2, 2, 1])), [0, 1, 1, 3])
    for wrong in ("some", 2.0):
        with pytest.raises(BowerbirdError, match="auto"):
            kb.search(text="red", k=1, alpha=wrong)  # type: ignore[arg-type]
