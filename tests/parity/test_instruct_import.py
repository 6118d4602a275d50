"""An imported InstructPix2Pix computes what the published networks compute; its first convolution says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from bowerbird import BowerbirdError, InstructPipeline
from bowerbird.cli.main import app
from bowerbird.systems import released
from tests.parity import published
from tests.test_encoders import save_tokenizer


def small(*, reads: int = 8) -> tuple[published.UNet, published.FirstStage, Any]:
    """The released layout in miniature; the text model is transformers' own, as it is in the release."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        unet = published.UNet(64, (1, 2), (1, 2), 64, 4, blocks=1)
        unet.input_blocks[0][0] = nn.Conv2d(reads, 64, 3, padding=1)
        stage = published.FirstStage(32, (1, 2), 4, codes=0, attends=(False, False))
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
        words = {"vocab_size": 190, "max_position_embeddings": 16, "eos_token_id": 189, "bos_token_id": 188}
        text = CLIPTextModel(CLIPTextConfig(**sizes, **words, pad_token_id=189))
    return unet.eval(), stage.eval(), text.eval()


def state(reads: int = 8) -> tuple[dict[str, Any], published.UNet, published.FirstStage, Any]:
    unet, stage, text = small(reads=reads)
    held = published.checkpoint(unet, stage)
    named = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in text.state_dict().items()}
    tensors = {f"cond_stage_model.transformer.{name}": tensor for name, tensor in named.items()}
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(16)[None]
    held["state_dict"] = held["state_dict"] | tensors  # type: ignore[operator]
    held["state_dict"].pop("unconditional_guidance_vex")  # type: ignore[attr-defined]
    return held, unet, stage, text


@torch.no_grad()
def test_networks_agree(tmp_path: Path) -> None:
    held, unet, stage, text = state()
    torch.save(held, tmp_path / "model.ckpt")
    save_tokenizer(tmp_path / "tokenizer")
    command = ["import", "compvis", str(tmp_path / "model.ckpt"), "--size", "32", "--head-channels", "32"]
    refused = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "no")])
    assert isinstance(refused.exception, BowerbirdError)
    assert "--tokenizer" in str(refused.exception)
    assert not (tmp_path / "no").exists()
    said = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "m"), "--tokenizer", str(tmp_path / "tokenizer")])
    assert said.exit_code == 0, said.output
    pipe = InstructPipeline.from_pretrained(tmp_path / "m")
    assert pipe.references is None
    tokens = torch.randint(0, 190, (2, 16), generator=torch.Generator().manual_seed(0))
    context = text(tokens).last_hidden_state
    assert torch.allclose(pipe.text_encoder(tokens).last_hidden_state, context, atol=1e-6)
    x, t = torch.randn(2, 8, 16, 16), torch.tensor([3, 700])
    assert torch.allclose(pipe.unet(x, t, context).sample, unet(x, t, context), atol=1e-4)
    pixels = torch.randn(1, 3, 32, 32).clamp(-1, 1)
    mode = stage.encode(pixels)
    assert torch.allclose(pipe.vae.encode(pixels).latent_dist.mode(), mode, atol=1e-4)
    assert pipe.vae.config.scaling_factor == 0.18215
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a", source=Image.new("RGB", (40, 30)), num_inference_steps=2).images[0].size == (32, 24)


def test_a_stable_diffusion_is_not_taken_for_one(tmp_path: Path) -> None:
    torch.save(state(reads=4)[0], tmp_path / "sd.ckpt")
    with pytest.raises(BowerbirdError, match="a text encoder of its own"):
        released.plan(tmp_path / "sd.ckpt")
