"""From other programs' directories and back: diffusers' research RDM, plain diffusers, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from bowerbird import BowerbirdError, KnowledgeBase, RDMPipeline
from bowerbird.systems.rdm.interop import diffusers_rdm, plain_diffusers
from tests.parity import published
from tests.test_cli import bowerbird, refused
from tests.test_encoders import save_tokenizer


def research_pipeline(path: Path, *, width: int = 12) -> Path:
    """A small random pipeline in the layout of diffusers' research examples, its weights as pickles, as they were in
    2022."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": 200,
        "max_position_embeddings": 16,
        "bos_token_id": 188,
        "eos_token_id": 189,
        "pad_token_id": 189,
    }
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        clip = CLIPModel(
            CLIPConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=12)
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            cross_attention_dim=width,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=2,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
        )
    clip.save_pretrained(path / "clip")
    save_tokenizer(path / "tokenizer")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        path / "feature_extractor"
    )
    for name, network in (("unet", unet), ("vae", vae)):
        network.save_pretrained(path / name, safe_serialization=False)
    PNDMScheduler().save_pretrained(path / "scheduler")
    diffusers = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "scheduler": "PNDMScheduler"}
    transformers = {"clip": "CLIPModel", "tokenizer": "CLIPTokenizer", "feature_extractor": "CLIPFeatureExtractor"}
    index = {
        "_class_name": "RDMPipeline",
        **{k: ["diffusers", v] for k, v in diffusers.items()},
        **{k: ["transformers", v] for k, v in transformers.items()},
    }
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def test_research_pipeline_becomes_ours_with_its_encoder(tmp_path: Path, drawn_folder: Path) -> None:
    source = research_pipeline(tmp_path / "theirs")
    diffusers_rdm.convert(source, tmp_path / "ours")
    pipe = RDMPipeline.from_pretrained(tmp_path / "ours")
    pipe.set_progress_bar_config(disable=True)
    assert (pipe.config.normalize_embeddings, pipe.config.embedding_length, pipe.config.trained_null) == (
        True,
        1.0,
        False,
    )
    kb, _ = KnowledgeBase.build(tmp_path / "kb", drawn_folder, encoder=str(tmp_path / "ours" / "encoder"))
    hits = kb.search(text="a red fox", k=3)
    keys = pipe.condition(hits).neighbors.keys  # type: ignore[union-attr]
    assert torch.allclose(keys.norm(dim=-1), torch.ones(1, 3), atol=1e-5)
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel.from_pretrained(source / "unet", use_safetensors=False)
    x = torch.randn(1, 4, 8, 8)
    assert torch.allclose(theirs(x, 10, keys).sample, pipe.unet(x, 10, keys).sample, atol=1e-6)
    assert pipe(neighbors=hits, num_inference_steps=10).images[0].size == (16, 16)


def test_research_pipeline_in_half_precision_files_keeps_its_sampler(tmp_path: Path) -> None:
    """Files called `….fp16.safetensors` only, and a class listed with the file of its code, as custom pipelines are."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel

    source = research_pipeline(tmp_path / "theirs")
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("clip", CLIPModel)):
        network = kind.from_pretrained(source / part)
        for file in [*(source / part).glob("*.bin"), *(source / part).glob("*.safetensors")]:
            file.unlink()
        network.half().save_pretrained(source / part, variant="fp16")
    index = json.loads((source / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps({**index, "_class_name": ["pipeline_rdm", "RDMPipeline"]}))
    diffusers_rdm.convert(source, tmp_path / "ours")
    pipe = RDMPipeline.from_pretrained(tmp_path / "ours")
    with pipe.sampling_with(pipe.defaults.sampler):
        assert type(pipe.scheduler).__name__ == "PNDMScheduler"
    assert pipe.config.text_mode == "text+neighbors"


def test_research_pipeline_of_another_kind_is_refused(tmp_path: Path, random_rdm: Path) -> None:
    with pytest.raises(BowerbirdError, match="already in bowerbird's layout"):
        diffusers_rdm.convert(random_rdm, tmp_path / "out")
    with pytest.raises(BowerbirdError, match="the parts are of two models"):
        diffusers_rdm.convert(research_pipeline(tmp_path / "wide", width=16), tmp_path / "out")
    source = research_pipeline(tmp_path / "theirs")
    index = json.loads((source / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps({**index, "scheduler": ["os", "system"]}))
    with pytest.raises(BowerbirdError, match="its scheduler is a system"):
        diffusers_rdm.convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_research_pipeline_with_parts_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    """None of it is made up at random, and none of it ends in a traceback."""
    from safetensors.torch import load_file, save_file

    for number, (file, name) in enumerate(
        [("clip/model.safetensors", "visual_projection.weight"), ("clip/model.safetensors", None)]
    ):
        source = research_pipeline(tmp_path / str(number))
        if name is None:
            (source / file).write_bytes((source / file).read_bytes()[:1000])
        else:
            save_file(
                {k: v for k, v in load_file(source / file).items() if k != name},
                source / file,
                metadata={"format": "pt"},
            )
        with pytest.raises(BowerbirdError, match=name or "cannot be opened"):
            diffusers_rdm.convert(source, tmp_path / "out")
    source = research_pipeline(tmp_path / "unet")
    weights = torch.load(source / "unet" / "diffusion_pytorch_model.bin", weights_only=True)
    torch.save(
        {k: v for k, v in weights.items() if k != "conv_in.weight"}, source / "unet" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(BowerbirdError, match=r"conv_in\.weight|cannot be opened"):
        diffusers_rdm.convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exported_model_generates_the_same_in_plain_diffusers(tmp_path: Path, kb_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    ours = RDMPipeline.from_pretrained("tiny-rdm")
    plain_diffusers.export(ours, tmp_path / "plain")
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "plain", text_encoder=None, tokenizer=None)
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    hits = KnowledgeBase.open(kb_path).search(text="red", k=4)
    e = torch.from_numpy(hits.embeddings)
    e = e / e.norm(dim=-1, keepdim=True) * e.shape[-1] ** 0.5
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0}
    generated = theirs(prompt_embeds=e, negative_prompt_embeds=torch.zeros_like(e), latents=latents, **options).images[
        0
    ]
    wanted = ours(neighbors=hits, generator=torch.Generator().manual_seed(5), **options).images[0]
    assert max(high for _, high in ImageChops.difference(generated, wanted).getextrema()) <= 1
    assert "e.norm" in (tmp_path / "plain" / "README.md").read_text()


def test_import_and_generate_as_commands(tmp_path: Path, kb_path: Path) -> None:
    """A released checkpoint, from its file to a picture that its own record generates again, in half precision
    and guided over a part of the steps."""
    torch.manual_seed(0)
    unet, stage = published.UNet(32, (1, 2), (2,), 384, 3), published.FirstStage(32, (1, 2, 4), 3, codes=64)
    torch.save(published.checkpoint(unet, stage, optimizer=False), tmp_path / "model.ckpt")
    asked = ["import", "compvis", "model.ckpt", "--size", "64", "--encoder", "small"]
    report = json.loads(bowerbird(*asked, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert report["missing"] == []
    assert report["unet"]["weights"] == "ema"
    assert not (tmp_path / "rdm").exists()
    bowerbird(*asked, "--out", "rdm", cwd=tmp_path)
    refused(*asked, "--out", "rdm", says="is there already", cwd=tmp_path)
    refused(*asked, says="give --out DIR, or --dry-run", cwd=tmp_path)
    generate = [
        "generate",
        "rdm",
        "--kb",
        kb_path,
        "--prompt",
        "red",
        "-n",
        "1",
        "--steps",
        "3",
        "--dtype",
        "bfloat16",
        "--guidance-interval",
    ]
    bowerbird(*generate, "0,0.7", "--out", "a", cwd=tmp_path)
    bowerbird("generate", "rdm", "--from", "a/000.png", "--out", "b", cwd=tmp_path)
    first, second = (Image.open(tmp_path / name / "000.png") for name in "ab")
    assert first.size == (64, 64)
    assert first.tobytes() == second.tobytes()
    record = json.loads(first.text["bowerbird"])  # type: ignore[attr-defined]
    assert (record["dtype"], record["guidance_interval"]) == ("bfloat16", [0.0, 0.7])
    refused(*generate, "0.7,0", "--out", "c", says="two shares of the noise", cwd=tmp_path)
    refused(*generate[:-3], "--dtype", "int3", "--out", "c", says="choose one of float32", cwd=tmp_path)
    refused("export", "tiny-knn", "--out", "d", says="an RDM or a base", cwd=tmp_path)
