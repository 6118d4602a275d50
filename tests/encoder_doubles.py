"""Tiny encoders with random weights, in transformers' own classes and in the layouts that people publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SPECIAL = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def words(path: Path, *, side: str = "right") -> None:
    """A tokenizer of letters, with the special tokens of Qwen; it changes no capitals."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    inner = Tokenizer(models.WordLevel({x: at for at, x in enumerate([*SPECIAL, *letters])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[2:],
        padding_side=side,
        model_max_length=600,
    )
    made.save_pretrained(path)


def saved(model: Any, config: Any, path: Path) -> Path:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model(config).eval().save_pretrained(path)
    return path


def siglip2(path: Path) -> Path:
    """SigLIP2 of any aspect ratio, with a tokenizer that lowers nothing."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    tower = {**TOWER, "intermediate_size": 32}
    text = {**tower, "vocab_size": 120, "max_position_embeddings": 12, "pad_token_id": 0, "projection_size": 16}
    vision = {**tower, "patch_size": 4, "num_patches": 16}
    saved(Siglip2Model, Siglip2Config(text_config=text, vision_config=vision), path)
    Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16).save_pretrained(path)
    words(path)
    return path


def dino(path: Path, kind: str) -> Path:
    import transformers

    small = {
        "Dinov2": {**TOWER, "image_size": 28, "patch_size": 14},
        "DINOv3ViT": {**TOWER, "intermediate_size": 32, "image_size": 32, "patch_size": 16},
        "DINOv3ConvNext": {"hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 1, 1]},
    }[kind]
    return saved(getattr(transformers, f"{kind}Model"), getattr(transformers, f"{kind}Config")(**small), path)


def qwen(path: Path) -> Path:
    """Qwen3-VL as its embedding models are published: with a head that nothing here reads."""
    from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = {
        **TOWER,
        "intermediate_size": 32,
        "vocab_size": 128,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "depth": 2,
        "num_heads": 2,
        "out_hidden_size": 16,
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    numbers = {f"{name}_token_id": SPECIAL.index(f"<|{word}|>") for name, word in (("image", "image_pad"),)}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **numbers)
    saved(Qwen3VLForConditionalGeneration, config, path)
    Qwen2VLImageProcessorPil(patch_size=16).save_pretrained(path)
    words(path)
    return path


def sentence(path: Path, *, pooling: str = "mean_tokens", dense: int = 0, side: str = "right") -> Path:
    """A BERT in the layout of sentence-transformers."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    config = BertConfig(**TOWER, intermediate_size=32, vocab_size=120, max_position_embeddings=64, pad_token_id=0)
    saved(BertModel, config, path)
    words(path, side=side)
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    places = ["" if kind == "Transformer" else f"{at}_{kind}" for at, kind in enumerate(kinds)]
    listed = [
        {"idx": at, "name": str(at), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    (path / "modules.json").write_text(json.dumps(listed))
    (path / places[1]).mkdir()
    (path / places[1] / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, f"pooling_mode_{pooling}": True})
    )
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    if dense:
        (path / places[2]).mkdir()
        config = {"in_features": 16, "out_features": dense, "bias": True}
        activation = {"activation_function": "torch.nn.modules.activation.Tanh"}
        (path / places[2] / "config.json").write_text(json.dumps(config | activation))
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            weights = {"linear.weight": torch.randn(dense, 16), "linear.bias": torch.randn(dense)}
        save_file(weights, path / places[2] / "model.safetensors")
    return path
