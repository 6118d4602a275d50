"""Encoders: CLIP and SigLIP from disk, the bundled one; a batch equals one at a time."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase, encoders
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import decode
from bowerbird.core.types import Encoder
from bowerbird.data.drawn import read_drawn
from bowerbird.encoders import known
from bowerbird.models.small_encoder import pieces
from bowerbird.models.weights import bundled
from tests.test_cli import bowerbird


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [decode(item.data, item.name) for item in list(read_drawn())[:70:10]]


def save_tokenizer(path: Path) -> None:
    """A tiny CLIP tokenizer: every letter is a token."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    vocabulary = {
        token: i
        for i, token in enumerate([*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"])
    }
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(path)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random CLIP or SigLIP on disk."""
    import torch
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        SiglipConfig,
        SiglipImageProcessorPil,
        SiglipModel,
    )

    path = tmp_path_factory.mktemp(request.param)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": 200,
        "max_position_embeddings": 16,
        "bos_token_id": 188,
        "eos_token_id": 189,
        "pad_token_id": 189,
    }
    vision = {**tower, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        if request.param == "clip":
            CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(path)
            CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
                path
            )
        else:
            SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(path)
            SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    save_tokenizer(path)
    return path


def check(encoder: Encoder, pictures: list[Image.Image]) -> None:
    texts = ["a red fox", "x", "a much longer text that is cut somewhere", "日本"]
    for batch, single in (
        (encoder.embed_images(pictures), [encoder.embed_images([p]) for p in pictures]),
        (encoder.embed_text(texts), [encoder.embed_text([t]) for t in texts]),
    ):
        assert batch.dtype == np.float32
        assert batch.shape == (len(single), encoder.dim)
        np.testing.assert_allclose(batch, np.concatenate(single), atol=1e-4, rtol=1e-3)
        assert np.isfinite(batch).all()
    assert encoder.embed_images([]).shape == encoder.embed_text([]).shape == (0, encoder.dim)


def test_clip_and_siglip_from_a_directory(foreign: Path, pictures: list[Image.Image]) -> None:
    encoder = encoders.load(foreign)
    check(encoder, pictures)
    assert encoder.fingerprint == encoders.load(foreign).fingerprint
    assert len(encoder.fingerprint) == 16


def test_bundled_small(pictures: list[Image.Image]) -> None:
    encoder = encoders.load("small")
    check(encoder, pictures)
    again = encoder.embed_images([p.resize((200, 200)) for p in pictures])
    unit = again / np.linalg.norm(again, axis=1, keepdims=True)
    reference = encoder.embed_images(pictures)
    cosine = unit @ (reference / np.linalg.norm(reference, axis=1, keepdims=True)).T
    assert (cosine.argmax(1) == np.arange(len(pictures))).all()  # size does not change what a picture is


def test_small_finds_the_same_drawing_in_the_other_style() -> None:
    """Drawings by code are nothing it was trained on; chance is one in 108."""
    items = list(read_drawn())
    encoder = encoders.load("small")
    vectors = encoder.embed_images([decode(i.data, i.name) for i in items])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    half = len(items) // 2
    found = (vectors[:half] @ vectors[half:].T).argmax(1)
    assert np.mean([items[half + f].caption == items[i].caption for i, f in enumerate(found)]) > 0.5


def test_text_pieces_share_parts_of_words_and_survive_anything() -> None:
    assert len(set(pieces("foxes", 4096)) & set(pieces("fox", 4096))) >= 2
    assert pieces("", 64) == pieces("!!!", 64) == [0]
    assert len(pieces("word " * 10_000, 64)) < 2000


def test_wrong_names_say_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(BowerbirdError, match="not a bundled name"):
        encoders.load("smal")
    with pytest.raises(BowerbirdError, match=r"config\.json"):
        encoders.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BowerbirdError, match="'bert'"):
        encoders.load(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every name that is looked up on the network; nobody answers."""
    names: list[object] = []

    def refuse(host: object, *arguments: object, **options: object) -> object:
        names.append(host)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    return names


def test_a_recorded_name_fetches_nothing(
    tmp_path: Path, drawn_folder: Path, tiny_knn: Path, asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A knowledge base and a model of a stranger, whose encoder would have to be fetched."""
    strange = encoders.load("small")
    strange.name, strange.fingerprint = "somebody/clip", "f" * 16
    KnowledgeBase.build(tmp_path / "kb", drawn_folder, encoder=strange)
    said = bowerbird("search", "kb", "--text", "red apple", cwd=tmp_path, expect=2).stderr
    assert said.count("\n") == 1
    assert "'somebody/clip'" in said
    assert "--encoder somebody/clip" in said
    with pytest.raises(BowerbirdError, match="a recorded name fetches nothing"):
        KnowledgeBase.open(tmp_path / "kb").add(drawn_folder)
    shutil.copytree(tiny_knn, tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    recorded = {"encoder_name": "somebody/clip", "encoder_fingerprint": "f" * 16}
    index.write_text(json.dumps(json.loads(index.read_text()) | recorded))
    picture = next(drawn_folder.rglob("*.png"))
    edit = ("edit", "model", "--kb", "kb", "--image", picture, "--prompt", "x", "--steps", "1", "--out", "out")
    assert "'somebody/clip'" in bowerbird(*edit, cwd=tmp_path, expect=2).stderr
    assert asked == []
    given: dict[str, object] = {}
    loading = sys.modules["bowerbird.encoders.load"]
    monkeypatch.setattr(loading, "_hub", lambda *_, **options: given.update(options) or strange)
    KnowledgeBase.open(tmp_path / "kb", encoder="somebody/clip")
    assert given["fetch"]  # what a person names may be fetched


def test_a_recorded_name_is_found_in_the_hubs_cache(
    foreign: Path, tmp_path: Path, asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "models--somebody--clip"
    shutil.copytree(foreign, kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    for place in ("huggingface_hub.constants.HF_HUB_CACHE", "huggingface_hub.constants.HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(place, str(tmp_path), raising=False)
    found = encoders.load_recorded("somebody/clip", "")
    assert found.dim == encoders.load(foreign).dim
    assert asked == []


def test_a_directory_is_found_by_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = bundled("small")
    assert small is not None
    shutil.copytree(small, tmp_path / "mine")
    made = encoders.load(tmp_path / "mine")
    assert made.name == "mine"
    monkeypatch.setattr(known, "_OPENED", {})  # another process
    assert encoders.load_recorded("mine", made.fingerprint).fingerprint == made.fingerprint
    monkeypatch.setattr(known, "_OPENED", {})
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "empty"))  # another machine
    with pytest.raises(BowerbirdError, match=r"'mine'.*not on this machine"):
        encoders.load_recorded("mine", made.fingerprint)
