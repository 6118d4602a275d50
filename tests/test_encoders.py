"""Encoders: CLIP and SigLIP from disk, the bundled one; a batch equals one at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird import encoders
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import decode
from bowerbird.core.types import Encoder
from bowerbird.data.drawn import read_drawn
from bowerbird.models.small_encoder import pieces


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
