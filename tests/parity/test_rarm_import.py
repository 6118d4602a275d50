"""An imported RARM computes what the published network computes: logits, tokens of pictures, pictures of tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bowerbird import BowerbirdError, Neighbors, RARMPipeline
from bowerbird.cli.main import app
from bowerbird.core.torch_file import Stored
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.models.vq import to_pictures, to_tokens
from bowerbird.systems import released
from bowerbird.systems.rarm import interop
from tests.parity import published

MULT, ATTENDS = (1, 1, 2, 2, 4), (False, False, False, False, True)


def small() -> tuple[published.TokenTransformer, published.FirstStage]:
    """The released layout in miniature: taming's VQGAN f16 and two blocks, pictures of 64 px."""
    torch.manual_seed(0)
    network = published.TokenTransformer(codes=48, places=16, width=128, depth=2, context=24)
    return network.eval(), published.FirstStage(32, MULT, 8, codes=48, attends=ATTENDS).eval()


@torch.no_grad()
def test_networks_and_sampling_agree(tmp_path: Path) -> None:
    network, stage = small()
    torch.save(published.rarm_checkpoint(network, stage), tmp_path / "model.ckpt")
    said = CliRunner().invoke(app, ["import", "compvis", str(tmp_path / "model.ckpt"), "--out", str(tmp_path / "m")])
    assert said.exit_code == 0, said.output
    pipe = RARMPipeline.from_pretrained(tmp_path / "m")
    pipe.set_progress_bar_config(disable=True)
    own = pipe.config
    assert (own.k, own.top_k, own.top_p, own.guidance_scale, own.normalize_embeddings) == (4, 256, 1.0, 1.0, False)
    assert not own.trained_null
    assert pipe.capabilities.sizes == (64,)
    assert own.codebook == pytest.approx(stage.quantize.embedding.weight.flatten()[::24][:16].tolist(), abs=1e-6)
    pixels = torch.randn(2, 3, 64, 64).clamp(-1, 1)
    tokens = stage.tokens(pixels)
    assert torch.equal(to_tokens(pipe.vae, pixels), tokens)
    codes = stage.quantize.embedding.weight[tokens].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    assert torch.allclose(to_pictures(pipe.vae, tokens), stage.decode(codes).clamp(-1, 1), atol=1e-4)
    embeddings = 3 * np.random.default_rng(0).normal(size=(2, 4, 24)).astype(np.float32)
    hits = Neighbors.from_embeddings(embeddings, [[""] * 4] * 2)
    context = torch.from_numpy(embeddings)
    read = torch.cat([torch.full((2, 1), 49), tokens[:, :-1]], 1)
    logits = pipe.predict(tokens, torch.tensor(0), pipe.condition(hits))
    assert torch.allclose(logits, network(read, context), atol=1e-4)
    for scale in (1.0, 2.0):
        drawn = pipe(
            neighbors=hits, guidance_scale=scale, token_sampling=TokenSampling(temperature=0.0), output_type="latent"
        ).images
        assert torch.equal(drawn, published.likeliest_tokens(network, context, scale, 16))


def test_full_size_by_names_shapes_and_counts() -> None:
    """Every tensor of the released size has its place, and nothing is left over; no memory is used."""
    with torch.device("meta"):
        network = published.TokenTransformer(16384, 256, 768, 18, 512)
        stage = published.FirstStage(128, MULT, 256, 16384, ATTENDS)
    state = {f"transformer.{k}": v for k, v in network.state_dict().items()}
    state |= {f"first_stage_model.{k}": v for k, v in stage.state_dict().items()}
    tensors = {k: Stored(Path("nowhere"), 0, "float32", tuple(v.shape), v.stride()) for k, v in state.items()}
    plan = interop.plan_state(Path("nowhere"), tensors, released.Choices(), Counter())
    assert (len(plan.transformer.tensors), plan.transformer.parameters) == (364, 230_874_112)
    assert plan.transformer.tensors.keys() == network.state_dict().keys()
    assert plan.vae.config["sample_size"] == 256
    assert plan.pipeline["encoder_name"] == "openai/clip-vit-base-patch32"
    assert not plan.missing


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sos_token": torch.tensor([3])}, "sos_token is 3"),
        ({"something.else": torch.ones(1)}, "something.else, which no published RARM has"),
        ({"first_stage_model.quantize.embedding.weight": torch.ones(50, 8)}, "48 codes, its first stage has 50"),
        ({"transformer.norm_out.weight": torch.ones(128)}, "norm_out.weight has no place"),
        ({"transformer.positional_encoding": torch.ones(128, 15)}, "15 positions"),
        ({"first_stage_model": None}, "without its first stage"),
        ({"transformer.transformer_blocks.1.ff.net.2.bias": None}, "1 tensors are missing"),
        ({"transformer.proj_out.bias": torch.full((48,), torch.nan)}, "not finite"),
    ],
)
def test_refusals_say_why_and_leave_nothing(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    held: Any = published.rarm_checkpoint(*small())
    for name, tensor in change.items():
        state = held["state_dict"]
        held["state_dict"] = {k: v for k, v in state.items() if not k.startswith(name)}
        if tensor is not None:
            held["state_dict"][name] = tensor
    torch.save(held, tmp_path / "m.ckpt")
    with pytest.raises(BowerbirdError, match=said):
        released.write(released.plan(tmp_path / "m.ckpt"), tmp_path / "model")
    assert not (tmp_path / "model").exists()
