"""Captions searched by what they mean: vectors of their own in the rows, a third ranking beside words and
embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.knowledge.storage.verify import verify
from tests import encoder_doubles
from tests.test_cli import bowerbird

MEANINGS = (("dog", "puppy", "hound"), ("car", "automobile", "sedan"), ("sea", "ocean", "shore"))
CAPTIONS = ("a hound asleep", "a red sedan", "waves on the shore", "")


class Thesaurus:
    """A `TextEncoder` that knows three things by several names each."""

    name, dim, fingerprint = "thesaurus", 4, "t" * 16

    def __init__(self) -> None:
        self.seen: list[str] = []

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        rows = [[float(any(word in text for word in words)) for words in MEANINGS] + [0.1] for text in texts]
        return np.asarray(rows, np.float32).reshape(-1, 4)

    def embed_captions(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += texts
        return 2 * self.embed_text(texts)


class Pictures:
    """An encoder of pictures alone, by their mean color."""

    name, dim, shared_dim, fingerprint, embeds_text = "pictures", 3, 3, "p" * 16, False

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        raise BowerbirdError("pictures alone")

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        found = [np.asarray(picture.convert("RGB"), np.float32).mean((0, 1)) for picture in pictures]
        return np.stack(found) if found else np.zeros((0, 3), np.float32)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    place = tmp_path / "photographs"
    place.mkdir()
    for number, caption in enumerate(CAPTIONS):
        color = (
            (200, 100, 30) if number in (0, 3) else (20, 60, 80 * number)
        )  # what has no caption looks like the hound
        Image.new("RGB", (16, 16), color).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(caption)
    return place


def first(kb: KnowledgeBase, text: str, mode: str = "captions") -> str:
    return kb.search(text=text, k=1, mode=mode).captions[0][0]


def test_a_caption_is_found_by_a_word_that_it_does_not_have(photographs: Path, tmp_path: Path) -> None:
    encoder = Thesaurus()
    kb, _ = KnowledgeBase.build(tmp_path / "kb", photographs, encoder=Pictures(), caption_encoder=encoder)
    assert sorted(encoder.seen) == sorted(CAPTIONS[:3])
    for word, caption in (("puppy", CAPTIONS[0]), ("automobile", CAPTIONS[1]), ("ocean", CAPTIONS[2])):
        assert first(kb, word) == first(kb, word, "hybrid") == caption
    found = kb.search(text="puppy", k=4, mode="captions")
    assert found.mask.sum() == 3  # what has no caption has no meaning
    assert found.measures["caption_similarity"][0, 0] == pytest.approx(1)
    assert "caption_similarity" not in kb.search(text="hound", k=1, mode="bm25").measures
    # an encoder of pictures alone is led by what the captions found: the picture without a caption looks like the hound
    hits = kb.search(text="puppy", k=2)
    assert set(hits.captions[0]) == {CAPTIONS[0], ""}
    with pytest.raises(BowerbirdError, match="pictures alone"):
        kb.search(text="puppy", mode="dense")
    only = kb.search(text="puppy", k=4, mode="captions", where="caption = 'a red sedan'")
    assert only.captions[0][:2] == ("a red sedan", "")


def test_vectors_follow_captions_through_every_change(photographs: Path, tmp_path: Path) -> None:
    encoder, path = Thesaurus(), tmp_path / "kb"
    kb, _ = KnowledgeBase.build(path, photographs, caption_encoder=encoder)
    before, embedded = kb.version, len(encoder.seen)
    sedan = int(kb.search(text="automobile", k=1, mode="captions").ids[0, 0])
    kb.update(ids=[sedan], caption="a boat at sea")
    assert first(kb, "automobile") != "a red sedan"
    assert kb.search(text="ocean", k=4, mode="captions").captions[0][:2] != ("a red sedan",)
    assert set(kb.search(text="ocean", k=2, mode="captions").captions[0]) == {CAPTIONS[2], "a boat at sea"}
    kb.update(where="true", metadata={"seen": "yes"})
    assert len(encoder.seen) == embedded + 1  # metadata alone embeds no caption again
    assert first(kb.at_version(before), "automobile") == "a red sedan"
    (photographs / "1.txt").write_text("a puppy")
    report = kb.sync(photographs, key="name")
    assert len(report.changed) == 1
    assert set(kb.search(text="hound", k=2, mode="captions").captions[0]) == {CAPTIONS[0], "a puppy"}
    kb.remove(where="caption = 'a puppy'")
    kb.compact(drop_history=True)
    again = KnowledgeBase.open(path, caption_encoder=encoder)
    assert again.search(text="dog", k=3, mode="captions").captions[0][0] == CAPTIONS[0]
    assert verify(path).good
    kb.restore(kb.version)
    assert [row["captions"]["dim"] for row in (again.info(),)] == [4]


def test_a_damaged_index_of_captions_is_seen_and_made_again(photographs: Path, tmp_path: Path) -> None:
    from bowerbird.core import checksums, files

    encoder, path = Thesaurus(), tmp_path / "kb"
    KnowledgeBase.build(path, photographs, caption_encoder=encoder)[0].search(text="dog", k=1)
    index = path / "index"
    vectors = np.load(index / "captions.npy")
    vectors[0] += 1
    np.save(index / "captions.npy", vectors)  # whole, with a right checksum, and not of these rows
    facts = files.read_sealed(index / "manifest.json", "index")
    files.write_sealed(
        index / "manifest.json", facts | {"files": checksums.record(index, "manifest.json", files.MAKING)}
    )
    assert any("captions' vectors" in line for line in verify(path).outdated)
    assert verify(path, repair=True).repaired
    assert verify(path).good


def test_another_caption_encoder_is_refused(photographs: Path, tmp_path: Path) -> None:
    encoder = Thesaurus()
    KnowledgeBase.build(tmp_path / "kb", photographs, caption_encoder=encoder)
    KnowledgeBase.build(tmp_path / "plain", photographs)
    other = Thesaurus()
    other.fingerprint = "u" * 16
    with pytest.raises(MismatchError, match="captions were embedded by 'thesaurus'"):
        KnowledgeBase.open(tmp_path / "kb", caption_encoder=other)
    with pytest.raises(MismatchError, match="no vectors"):
        KnowledgeBase.open(tmp_path / "plain", caption_encoder=encoder)
    with pytest.raises(BowerbirdError, match="captions have no vectors here"):
        KnowledgeBase.open(tmp_path / "plain").search(text="dog", mode="captions")


def test_the_command_line_takes_a_directory_and_finds_it_again(photographs: Path, tmp_path: Path) -> None:
    encoder_doubles.sentence(tmp_path / "text")
    bowerbird("kb", "build", "kb", photographs, "--caption-encoder", "text", cwd=tmp_path)
    said = bowerbird("search", "kb", "--text", "red sedan", "-k", "2", cwd=tmp_path)
    assert "bm25  caption" in said.stderr.splitlines()[0]
    found = json.loads(bowerbird("search", "kb", "--text", "red sedan", "--json", cwd=tmp_path).stdout)
    assert all(result["caption_similarity"] is not None or not result["caption"] for result in found["results"])
    assert "captions  by text" in bowerbird("kb", "info", "kb", cwd=tmp_path).stdout
    line = bowerbird("search", "kb", "--text", "x", "--mode", "meaning", cwd=tmp_path, expect=2).stderr
    assert "captions" in line


def test_a_server_searches_captions_by_its_workers_encoder(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bowerbird import encoders
    from bowerbird.knowledge.storage.open import open_store
    from bowerbird.serve import frames
    from bowerbird.serve.calls import Calls
    from bowerbird.serve.encoder import remote, remote_captions
    from bowerbird.serve.pipelines import Workbench

    text = encoders.load_text(encoder_doubles.sentence(tmp_path / "text"))
    here, _ = KnowledgeBase.build(tmp_path / "kb", photographs, caption_encoder=text)
    calls = Calls(Workbench("cpu", "float32", 2**30))
    monkeypatch.setattr(frames, "call", lambda _, message, blobs=(): calls.answer(message, list(blobs)))
    store = open_store(tmp_path / "kb", 2**30, lambda line: None)
    captions = remote_captions("nowhere", store.manifest)
    there = KnowledgeBase(store, remote("nowhere", store.manifest["encoder"]), caption_encoder=captions)
    for mode in ("captions", "hybrid"):
        found, expected = (kb.search(text="a red sedan", k=3, mode=mode) for kb in (there, here))
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(
            found.measures["caption_similarity"], expected.measures["caption_similarity"], atol=1e-6
        )
    assert captions is not None
    np.testing.assert_allclose(captions.embed_captions(["x"]), text.embed_captions(["x"]), atol=1e-6)
