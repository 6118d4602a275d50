"""The extra `photos`: pretrained weights that other packages carry, known by their hash."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird import KnowledgeBase, encoders
from bowerbird.core.errors import BowerbirdError
from bowerbird.encoders import installed
from bowerbird.models.efficientnet_lite import DIM, EfficientNetLite0, SameConv


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """EfficientNet-Lite0 with random weights, in the file and under the names that the package has."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        state = EfficientNetLite0().state_dict()
    path = tmp_path / "weights.pth"
    torch.save({**state, "_fc.weight": torch.zeros(2, DIM), "_fc.bias": torch.zeros(2)}, path)
    known = replace(installed.PHOTOS, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(installed, "PHOTOS", known)
    monkeypatch.setattr(installed, "_place", lambda _: path)
    return path


def test_photographs_are_embedded_and_a_knowledge_base_finds_its_encoder_again(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders.load("photos")
    pictures = [Image.new("RGB", size, color) for size, color in (((30, 40), "red"), ((300, 90), "blue"))]
    found = encoder.embed_images(pictures)
    assert found.shape == (2, DIM)
    np.testing.assert_allclose(found[1:], encoder.embed_images(pictures[1:]), atol=1e-4)
    with pytest.raises(BowerbirdError, match=r"pictures alone.*caption_encoder=minilm"):
        encoder.embed_text(["a beach"])
    (tmp_path / "photos").mkdir()  # as many call their folder
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    KnowledgeBase.build("kb", "photos", encoder="photos")
    again = KnowledgeBase.open(tmp_path / "kb")
    assert again.encoder_name == "photos"
    assert again.search(images=[pictures[0]], k=1).scores[0, 0] == pytest.approx(1, abs=1e-3)


def test_other_weights_and_no_package_are_one_line(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.write_bytes(weights.read_bytes() + b"x")
    installed._sha256.cache_clear()
    with pytest.raises(BowerbirdError, match="not the weights that bowerbird knows"):
        encoders.load("photos")
    monkeypatch.setattr(installed, "_place", lambda _: None)
    for load, name in ((encoders.load, "photos"), (encoders.load_text, "minilm")):
        with pytest.raises(BowerbirdError, match=r"not installed; install it: pip install 'bowerbird\[photos\]'"):
            load(name)


def test_convolutions_are_padded_as_tensorflow_does() -> None:
    """The odd pixel goes below and to the right: at stride 2, output 0 sees inputs 0 to 2."""
    layer = SameConv(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(layer.weight)
    made = layer(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert made.shape == (1, 1, 2, 2)
    assert made[0, 0, 0, 0].item() == sum((0, 1, 2, 4, 5, 6, 8, 9, 10))
    assert made[0, 0, 1, 1].item() == 10 + 11 + 14 + 15


@pytest.mark.skipif(not installed.is_installed(installed.MINILM), reason="the extra photos is not installed")
def test_minilm_knows_what_captions_mean() -> None:
    encoder = encoders.load_text("minilm")
    said = encoder.embed_captions(["a dog asleep on a sofa", "a sailing boat", "a slice of pizza"])
    asked = encoder.embed_text(["puppy", "regatta", "italian food"])
    said, asked = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (said, asked))
    assert (asked @ said.T).argmax(1).tolist() == [0, 1, 2]
