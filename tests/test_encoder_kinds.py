"""Encoders of other people, from a directory: SigLIP2, DINOv2 and DINOv3, Qwen3-VL-Embedding, sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird import KnowledgeBase, encoders
from bowerbird.core.errors import BowerbirdError
from bowerbird.encoders import known, picture_input
from tests import encoder_doubles
from tests.test_cli import bowerbird


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for h, w in ((40, 40), (24, 60), (90, 31))]


def test_siglip2_reads_small_letters_and_every_aspect_ratio(tmp_path: Path, pictures: list[Image.Image]) -> None:
    from transformers import Siglip2ImageProcessorPil, Siglip2Model

    encoder: Any = encoders.load(encoder_doubles.siglip2(tmp_path / "siglip2"))
    assert encoder.dim == 16
    np.testing.assert_array_equal(encoder.embed_text(["A Red FOX"]), encoder.embed_text(["a red fox"]))
    model = Siglip2Model.from_pretrained(tmp_path / "siglip2").eval()
    made = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_image_features(**made).pooler_output.numpy()
        ids = encoder.tokenizer(["a fox"], padding="max_length", max_length=12, return_tensors="pt")["input_ids"]
        said = model.get_text_features(input_ids=ids).pooler_output.numpy()  # padding is read, as in its training
    np.testing.assert_allclose(encoder.embed_images(pictures), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_text(["A fox"]), said, atol=1e-5)


@pytest.mark.parametrize("kind", ["Dinov2", "DINOv3ViT", "DINOv3ConvNext"])
def test_dino_embeds_pictures_and_refuses_texts(tmp_path: Path, pictures: list[Image.Image], kind: str) -> None:
    encoder = encoders.load(encoder_doubles.dino(tmp_path / "dino", kind))
    found = encoder.embed_images(pictures)
    assert found.shape == (3, encoder.dim) == (3, 16)
    np.testing.assert_allclose(found[1:2], encoder.embed_images(pictures[1:2]), atol=1e-5)
    with pytest.raises(BowerbirdError, match=r"pictures alone.*SigLIP2"):
        encoder.embed_text(["a fox"])


def test_pictures_are_prepared_as_transformers_does(tmp_path: Path, pictures: list[Image.Image]) -> None:
    from transformers import BitImageProcessorPil

    said = BitImageProcessorPil(
        size={"shortest_edge": 36},
        crop_size={"height": 28, "width": 28},
        resample=3,
        image_mean=list(picture_input.IMAGENET[0]),
        image_std=list(picture_input.IMAGENET[1]),
    )
    said.save_pretrained(tmp_path)
    mine = picture_input.read(tmp_path, picture_input.PictureInput(224)).array(pictures)
    np.testing.assert_allclose(mine, said(images=pictures, return_tensors="np")["pixel_values"], atol=1e-5)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 9_000_000}}))
    with pytest.raises(BowerbirdError, match="8 to 4096"):
        picture_input.read(tmp_path, picture_input.PictureInput(224))


def test_qwen_embedding_is_the_answers_first_state_under_its_instruction(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    from transformers import Qwen3VLModel

    path = encoder_doubles.qwen(tmp_path / "qwen")
    encoder: Any = encoders.load(path)
    text = (
        "<|im_start|>system\nRepresent the user's input.<|im_end|>\n"
        "<|im_start|>user\na fox<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        expected = Qwen3VLModel.from_pretrained(path).eval()(input_ids=ids).last_hidden_state[0, -1].numpy()
    np.testing.assert_allclose(encoder.embed_text(["a fox"])[0], expected, atol=1e-5)
    found = encoder.embed_images([*pictures, pictures[0].resize((900, 2))])
    assert found.shape == (4, 16)
    assert np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 1e-4
    # who writes a text cannot put words into the instruction
    assert "<|im_start|>" not in encoder.tokenizer.convert_ids_to_tokens(encoder._ids("x"))[-40:][:20]
    short = encoders.load(f"{path}?dim=8")
    other = encoders.load(f"{path}?dim=8&instruction=Find%20foxes")
    assert short.dim == other.dim == 8
    np.testing.assert_array_equal(short.embed_images(pictures), encoder.embed_images(pictures)[:, :8])
    assert np.abs(short.embed_images(pictures) - other.embed_images(pictures)).max() > 1e-4
    assert len({encoder.fingerprint, short.fingerprint, other.fingerprint}) == 3
    for wrong, line in (("dim=17", "of the 16"), ("dim=x", "whole number"), ("size=3", "no setting")):
        with pytest.raises(BowerbirdError, match=line):
            encoders.load(f"{path}?{wrong}")
    with pytest.raises(BowerbirdError, match="has no dim"):
        encoders.load("small?dim=8")


def test_settings_are_recorded_with_the_knowledge_base(
    tmp_path: Path, drawn_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder_doubles.qwen(tmp_path / "qwen")
    sources = sorted(drawn_folder.rglob("*.png"))[:3]
    kb, _ = KnowledgeBase.build(tmp_path / "kb", sources, encoder=f"{tmp_path}/qwen?dim=8", workers=1)
    assert kb.encoder_name == "qwen?dim=8"
    monkeypatch.setattr(known, "_OPENED", {})  # another process
    found = KnowledgeBase.open(tmp_path / "kb").search(images=[Image.open(sources[1])], k=1)
    assert found.scores[0, 0] == pytest.approx(1, abs=1e-4)
    with pytest.raises(BowerbirdError, match="not with 'qwen'"):
        KnowledgeBase.open(tmp_path / "kb", encoder=str(tmp_path / "qwen"))


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "max_tokens", "lasttoken"])
def test_sentence_encoders_pool_as_their_directory_says(tmp_path: Path, pooling: str) -> None:
    from transformers import BertModel

    for side in ("right", "left"):
        path = encoder_doubles.sentence(tmp_path / side, pooling=pooling, dense=6, side=side)
        encoder: Any = encoders.load_text(path)
        texts = ["a fox", "a much longer text"]
        found = encoder.embed_captions(texts)
        model, weights = BertModel.from_pretrained(path).eval(), path / "2_Dense" / "model.safetensors"
        from safetensors.torch import load_file

        dense = load_file(weights)
        for text, vector in zip(texts, found, strict=True):
            ids = encoder.tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                states = model(input_ids=ids).last_hidden_state[0]
            pooled = {
                "mean_tokens": states.mean(0),
                "cls_token": states[0],
                "max_tokens": states.amax(0),
                "lasttoken": states[-1],
            }[pooling]
            expected = torch.tanh(dense["linear.weight"] @ pooled + dense["linear.bias"])
            if side == "right":  # BERT counts positions from the left, so padding there changes what it says
                np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)
        assert encoder.dim == 6
    assert encoders.load_text(f"{path}?dim=4").embed_text(["x"]).shape == (1, 4)


def test_prompts_of_queries_and_captions(tmp_path: Path) -> None:
    path = encoder_doubles.sentence(tmp_path / "text")
    plain = encoders.load_text(path)
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    encoder = encoders.load_text(path)
    np.testing.assert_array_equal(encoder.embed_text(["fox"]), plain.embed_text(["query: fox"]))
    np.testing.assert_array_equal(encoder.embed_captions(["fox"]), plain.embed_text(["passage: fox"]))
    assert encoder.fingerprint != plain.fingerprint


def test_wrong_kinds_of_directory_are_one_line(tmp_path: Path, drawn_folder: Path) -> None:
    text = encoder_doubles.sentence(tmp_path / "text")
    dino = encoder_doubles.dino(tmp_path / "dino", "Dinov2")
    for arguments, line in (
        (("--encoder", text), "text encoder"),
        (("--encoder", f"{dino}?dim=3"), "has no dim"),
        (("--encoder", f"{encoder_doubles.qwen(tmp_path / 'qwen')}?dim=99"), "of the 16"),  # loaded without a word
        (("--caption-encoder", dino), "encoder of pictures"),
    ):
        said = bowerbird("kb", "build", "kb", drawn_folder, *arguments, cwd=tmp_path, expect=2).stderr
        assert said.count("\n") == 1
        assert line in said
    assert not (tmp_path / "kb").exists()
    with pytest.raises(BowerbirdError, match=r"encoder of pictures \(dinov2\)"):
        encoders.load_text(dino)
    with pytest.raises(BowerbirdError, match=r"no modules\.json"):
        encoders.load_text(drawn_folder)
    with pytest.raises(BowerbirdError, match="not minilm, a directory"):
        encoders.load_text("mini")
    with pytest.raises(BowerbirdError, match="caption_encoder=minilm"):
        encoders.load("minilm")
    modules = json.loads((text / "modules.json").read_text())
    for kind, place, match in (("CNN", "2_CNN", "CNN"), ("Normalize", "../../etc", "its own directory alone")):
        shutil.copytree(text, tmp_path / kind)
        changed = [*modules[:2], {"type": f"somebody.{kind}", "path": place}]
        (tmp_path / kind / "modules.json").write_text(json.dumps(changed))
        with pytest.raises(BowerbirdError, match=match):
            encoders.load_text(tmp_path / kind)
    weights = text / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(BowerbirdError, match="fetch"):
        encoders.load_text(text)
