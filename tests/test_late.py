"""Late interaction: token matrices are rows like all others, and MaxSim over them orders what a search found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bowerbird import KnowledgeBase, encoders
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import TokenEncoder
from bowerbird.knowledge.rerank import late
from bowerbird.knowledge.rerank.tokens import max_sim, pack, pool, unit, unpack
from bowerbird.knowledge.storage.verify import verify
from tests.test_cli import bowerbird

NAMES = ("red circle", "blue square", "green triangle", "yellow circle", "red square", "black triangle")


def drawing(name: str) -> Image.Image:
    color, form = name.split()
    picture = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(picture)
    {"circle": draw.ellipse, "square": draw.rectangle}.get(form, lambda box, fill: None)((12, 12, 52, 52), fill=color)
    if form == "triangle":
        draw.polygon([(32, 8), (56, 54), (8, 54)], fill=color)
    return picture


def folder_of(place: Path, names: tuple[str, ...] = NAMES, sku: str = "") -> Path:
    """Pictures with their names as captions, and keys that begin with `sku`."""
    place.mkdir()
    for number, name in enumerate(names):
        drawing(name).save(place / f"{number}.png")
    lines = [{"file_name": f"{number}.png", "text": name, "sku": f"{sku}{number}"} for number, name in enumerate(names)]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return place


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.build(tmp_path / "kb", folder_of(tmp_path / "in"), tokens=8, caption_column="text")[0]


def held(kb: KnowledgeBase) -> dict[str, np.ndarray]:
    """The tokens of all items by caption."""
    ids = kb.ids().tolist()
    items = kb.get(ids)
    found = kb.tokens(ids)
    return {caption: found[item] for caption, item in zip(items.captions[0], ids, strict=True)}


def test_max_sim_is_the_mean_of_the_best_cosines() -> None:
    rng = np.random.default_rng(0)
    items = [unit(rng.normal(size=(m, 12))) for m in (3, 1, 7)]
    query = unit(rng.normal(size=(5, 12)))
    plain = [np.einsum("qd,md->qm", query, each).max(1).mean() for each in items]
    np.testing.assert_allclose(max_sim(query, items), plain, rtol=1e-5)
    stored = [unpack(pack(each), 12) for each in items]
    np.testing.assert_allclose(max_sim(query, [each for each in stored if each is not None]), plain, atol=5e-3)
    two = unit(rng.normal(size=(2, 12)))
    near = unit(np.repeat(two, 10, 0) + 0.01 * rng.normal(size=(20, 12)))
    np.testing.assert_allclose(np.sort(pool(near, 2) @ two.T, 1)[:, 1], 1, atol=1e-3)  # each token near one of the two
    assert pool(items[0], 3) is items[0]
    data = bytearray(pack(items[0]))
    data[-1] ^= 1
    assert unpack(bytes(data), 12) is None


def test_our_own_tokens_add_up_to_the_embedding() -> None:
    """The first is the shared part of the embedding, which the same pass gives with the same bits."""
    own = encoders.load("small")
    assert isinstance(own, TokenEncoder)
    pictures = [drawing(name) for name in NAMES]
    vectors, tokens = own.embed_images_with_tokens(pictures)
    np.testing.assert_array_equal(vectors, own.embed_images(pictures))
    np.testing.assert_allclose([each[0] for each in tokens], vectors[:, : own.shared_dim], atol=1e-5)
    assert own.embed_text_tokens(["a red fox"])[0].shape == (4, own.token_dim)
    np.testing.assert_allclose(
        own.embed_text_tokens(["fox"])[0], own.embed_text(["fox"])[:, : own.shared_dim], atol=1e-6
    )


def test_tokens_live_and_die_with_their_rows(kb: KnowledgeBase, tmp_path: Path) -> None:
    """Added, changed, synced, removed, restored, compacted: what is there is what the encoder makes of the picture."""

    def as_made(name: str) -> np.ndarray:
        return unit(pool(kb.encoder.embed_images_with_tokens([drawing(name)])[1][0], 8))

    assert {matrix.shape for matrix in held(kb).values()} == {(8, kb.encoder.token_dim)}
    kb.add(folder_of(tmp_path / "more", ("orange circle",), "x"), caption_column="text")
    red = int(kb.search(text="red circle", k=1, mode="bm25").ids[0, 0])
    kb.update(ids=[red], caption="a ruby")
    before = kb.version
    drawing("purple square").save(tmp_path / "in/1.png")
    kb.sync(tmp_path / "in", key="sku")
    kb.remove(where="caption = 'black triangle'")
    kb.compact()
    found = held(KnowledgeBase.open(kb.path))
    assert found.keys() == held(kb).keys()
    for caption, name in (("orange circle", "orange circle"), ("blue square", "purple square")):
        np.testing.assert_allclose(found[caption], as_made(name), atol=5e-3)
    assert "black triangle" not in found
    np.testing.assert_allclose(held(kb.at_version(before))["a ruby"], as_made("red circle"), atol=5e-3)
    np.testing.assert_allclose(held(kb.at_version(before))["blue square"], as_made("blue square"), atol=5e-3)
    assert verify(kb.path).good


def test_another_matrix_in_a_row_is_found(kb: KnowledgeBase) -> None:
    import lancedb

    from bowerbird.knowledge.storage.lance import Rows

    item = int(kb.ids()[0])
    other = "0x" + pack(unit(np.ones((8, kb.encoder.token_dim)))).hex()
    table = lancedb.connect(str(kb.path)).open_table("rows")
    table.update(where=f"id = {item}", values_sql={"token_matrix": f"decode('{other[2:]}', 'hex')"})
    with pytest.raises(BowerbirdError, match=f"the row of id {item} is not as it was written"):
        list(Rows(Path(kb.path)).checked_batches(100))


def test_a_search_is_ordered_by_tokens(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = held(kb)
    for query in ("red circle", drawing("green triangle")):
        text = isinstance(query, str)
        own = (
            kb.encoder.embed_text_tokens([query])[0]
            if text
            else pool(kb.encoder.embed_images_with_tokens([query])[1][0], 8)
        )
        best = sorted(tokens, key=lambda name: -float(max_sim(own, [tokens[name]])[0]))
        hits = kb.search(text=query, k=4, rerank="late") if text else kb.search(images=[query], k=4, rerank="late")
        assert list(hits.captions[0]) == best[:4]
        np.testing.assert_allclose(hits.scores[0], max_sim(own, [tokens[name] for name in best[:4]]), rtol=1e-5)
    assert list(kb.search(images=[drawing("green triangle")], k=1, rerank="late").captions[0]) == ["green triangle"]
    monkeypatch.setattr(late, "AT_ONCE", 1)  # several texts, in portions
    both = kb.search(text=["red circle", "blue square"], k=3, rerank="late")
    alone = kb.search(text="blue square", k=3, rerank="late")
    assert both.ids[1].tolist() == alone.ids[0].tolist()
    np.testing.assert_allclose(both.scores[1], alone.scores[0], rtol=1e-6)
    monkeypatch.setattr(late, "EVERY", 0)
    monkeypatch.setattr(late, "CANDIDATES", 3)  # the first of a large one
    first = set(kb.search(text="red circle", k=3).ids[0].tolist())
    assert set(kb.search(text="red circle", k=2, rerank="late").ids[0].tolist()) < first
    where = kb.search(text="red circle", k=6, rerank="late", where="caption LIKE '%square'")
    assert sorted(where.captions[0]) == ["blue square", "red square"]


def test_the_command_line_and_what_has_no_tokens(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in")
    bowerbird("kb", "build", "kb", source, "--tokens", "16", cwd=tmp_path)
    found = json.loads(
        bowerbird("search", "kb", "--text", "red circle", "-k", "2", "--rerank", "late", "--json", cwd=tmp_path).stdout
    )
    assert (found["rerank"], len(found["results"])) == ("late", 2)
    assert json.loads(bowerbird("kb", "info", "kb", "--json", cwd=tmp_path).stdout)["tokens"]["count"] == 16
    assert "16 an item" in bowerbird("kb", "info", "kb", cwd=tmp_path).stdout
    bowerbird("kb", "export", "kb", "out", "--format", "parquet", cwd=tmp_path)
    again = bowerbird("kb", "build", "again", "out", "--tokens", "16", cwd=tmp_path)
    assert "cannot be kept" not in again.stderr  # nothing is exported that no source can bring
    bowerbird("kb", "build", "plain", source, cwd=tmp_path)
    said = bowerbird("search", "plain", "--text", "red", "--rerank", "late", cwd=tmp_path, expect=2).stderr
    assert "holds no tokens" in said
    assert "kb build NEW SOURCE --tokens 64" in said
    assert "without --rerank" in said
    assert len(said.strip().splitlines()) == 1
    with pytest.raises(BowerbirdError, match="from 4 to 256; got 3"):
        KnowledgeBase.build(tmp_path / "few", source, tokens=3)
    pytest.importorskip("milvus_lite")
    with pytest.raises(BowerbirdError, match="keeps no tokens, which a directory does"):
        KnowledgeBase.build(f"milvus://{tmp_path}/m.db", source, tokens=16)


def whole_words(*extra: str) -> Any:
    """A tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<unk>",
        "<bos>",
        "<eos>",
        *extra,
        *["a", "red", "fox", "blue", "circle", "Question", ":", "Query", "\n"],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=list(extra), **named)


TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TEXT, "image_size": 28, "patch_size": 14}


def col_pali() -> tuple[Any, Any]:
    from transformers import (
        ColPaliConfig,
        ColPaliForRetrieval,
        ColPaliProcessor,
        PaliGemmaConfig,
        SiglipImageProcessorPil,
    )

    images = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = ColPaliProcessor(image_processor=images, tokenizer=whole_words("<image>"))
    text = {**TEXT, "model_type": "gemma", "vocab_size": len(processor.tokenizer) + 8, "head_dim": 8}
    vlm = PaliGemmaConfig(
        text_config={**text, "num_key_value_heads": 1},
        vision_config={**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=16,
        hidden_size=16,
    )
    return ColPaliForRetrieval(ColPaliConfig(vlm_config=vlm, embedding_dim=8)), processor


def col_qwen2() -> tuple[Any, Any]:
    from transformers import ColQwen2Config, ColQwen2ForRetrieval, ColQwen2Processor, Qwen2VLConfig
    from transformers import Qwen2VLImageProcessorPil as ImageProcessor

    names = {"image_token_id": "<|image_pad|>", "vision_start_token_id": "<|vision_start|>"}
    names["vision_end_token_id"] = "<|vision_end|>"
    tokenizer = whole_words(*names.values(), "<|endoftext|>", "<|im_start|>", "<|im_end|>")
    images = ImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 4})
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "max_window_layers": 1}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    vlm = Qwen2VLConfig(
        text_config={**TEXT, **ends, "vocab_size": len(tokenizer), "num_key_value_heads": 1, "rope_parameters": rope},
        vision_config={**vision, "spatial_merge_size": 2},
        **{key: tokenizer.convert_tokens_to_ids(name) for key, name in names.items()},
    )
    processor = ColQwen2Processor(image_processor=images, tokenizer=tokenizer)
    return ColQwen2ForRetrieval(ColQwen2Config(vlm_config=vlm, embedding_dim=8)), processor


def col_modern_vbert() -> tuple[Any, Any]:
    from transformers import (
        ColModernVBertConfig,
        ColModernVBertForRetrieval,
        ColModernVBertProcessor,
        Idefics3ImageProcessorPil,
        ModernVBertConfig,
    )

    parts = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<|begin_of_text|>"]
    images = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    processor = ColModernVBertProcessor(image_processor=images, tokenizer=whole_words(*marks, *parts), image_seq_len=1)
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    vlm = ModernVBertConfig(
        text_config={**TEXT, **ends, "model_type": "modernbert", "vocab_size": len(processor.tokenizer)},
        vision_config=VISION,
        pixel_shuffle_factor=2,
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    return ColModernVBertForRetrieval(ColModernVBertConfig(vlm_config=vlm, embedding_dim=8)), processor


@pytest.mark.parametrize("make", [col_pali, col_qwen2, col_modern_vbert])
def test_models_for_late_interaction(make: Any, tmp_path: Path) -> None:
    """A model of transformers, saved as it is published: its own tokens, by its own processor, and a knowledge base."""
    import torch

    torch.manual_seed(0)
    model, processor = make()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    encoder = encoders.load(tmp_path / "model")
    assert isinstance(encoder, TokenEncoder)
    query = processor.process_queries(text=["a red fox"])
    with torch.inference_mode():
        plain = model.eval()(**{key: value for key, value in query.items() if key != "labels"}).embeddings[0]
    np.testing.assert_allclose(encoder.embed_text_tokens(["a red fox"])[0], plain.numpy(), atol=1e-5)
    pictures = [drawing("red circle"), drawing("blue square").resize((40, 28))]
    vectors, tokens = encoder.embed_images_with_tokens(pictures)
    np.testing.assert_array_equal(encoder.embed_images(pictures[1:]), vectors[1:])  # whatever else is in the call
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(tokens), axis=1), 1, atol=1e-5)
    base, _ = KnowledgeBase.build(tmp_path / "kb", folder_of(tmp_path / "in"), encoder=encoder, tokens=8)
    hits = base.search(images=[drawing("red square")], k=1, rerank="late")
    assert hits.captions[0] == ("red square",)
    assert hits.scores[0, 0] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_tokens_of_whole_picture_models_share_their_space(kind: str) -> None:
    """The token that a model itself makes the whole of comes out as the whole."""
    import torch
    from transformers import CLIPConfig, CLIPModel, Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

    from bowerbird.encoders.clip_tokens import image_tokens, text_tokens

    torch.manual_seed(0)
    text = {**TEXT, "vocab_size": 20, "max_position_embeddings": 8, "pad_token_id": 1, "eos_token_id": 2}
    if kind == "clip":
        model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)).eval()
    elif kind == "siglip":
        model = SiglipModel(SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=VISION)).eval()
    else:
        vision = {**TEXT, "patch_size": 14, "num_patches": 4}
        model = Siglip2Model(Siglip2Config(text_config={**text, "projection_size": 16}, vision_config=vision)).eval()
    pixels = {"pixel_values": torch.rand(2, 3, 28, 28)}
    if kind == "siglip2":  # pictures of any aspect ratio: the second has two patches, and two of padding
        there = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        shapes = torch.tensor([[2, 2], [1, 2]])
        pixels = {"pixel_values": torch.rand(2, 4, 588), "pixel_attention_mask": there, "spatial_shapes": shapes}
    asked = {"input_ids": torch.tensor([[0, 5, 6, 2]])}
    with torch.inference_mode():
        seen, read = model.get_image_features(**pixels), model.get_text_features(**asked)
        patches = image_tokens(model, pixels, seen)
        words = text_tokens(model, {**asked, "attention_mask": torch.ones(1, 4, dtype=torch.long)}, read)
        if kind == "clip":  # the class token in the place of a patch, and the end's in the place of a word
            seen.last_hidden_state[:, 1] = seen.last_hidden_state[:, 0]
            whole = image_tokens(model, pixels, seen)[1][0]
            wanted = seen.pooler_output[1]
        else:
            whole, wanted = text_tokens(model, asked, read)[0][-1], read.pooler_output[0]
    assert [len(each) for each in patches] == [4, 2 if kind == "siglip2" else 4]
    assert len(words[0]) == (2 if kind == "clip" else 4)
    np.testing.assert_allclose(whole, (wanted / wanted.norm()).numpy(), atol=1e-5)


def test_an_encoder_in_another_process_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from bowerbird.serve import frames
    from bowerbird.serve.calls import Calls
    from bowerbird.serve.encoder import RemoteEncoder
    from bowerbird.serve.pipelines import Workbench

    own = encoders.load("small")
    assert isinstance(own, TokenEncoder)
    bench = Workbench.__new__(Workbench)
    monkeypatch.setattr(Workbench, "encoder", lambda self, name, fingerprint: own)
    calls = Calls(bench)
    monkeypatch.setattr(frames, "call", lambda address, message, blobs=(): calls.answer(message, list(blobs)))
    remote = RemoteEncoder("", own.name, own.fingerprint, own.dim)
    texts, pictures = ["a red fox", "fox"], [drawing("red circle"), drawing("blue square")]
    for mine, theirs in zip(own.embed_text_tokens(texts), remote.embed_text_tokens(texts), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    vectors, tokens = remote.embed_images_with_tokens(pictures)
    np.testing.assert_array_equal(vectors, own.embed_images(pictures))
    np.testing.assert_array_equal(tokens, own.embed_images_with_tokens(pictures)[1])
