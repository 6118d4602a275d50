"""Weights at 8 bits on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from bowerbird.core.errors import BowerbirdError
from bowerbird.models import network_files, quantized, weights
from bowerbird.systems.loading import load_pipeline


def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
        attention_head_dim=8,
    ).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_each_output_is_within_half_a_step_of_its_own_scale(tmp_path: Path, dtype: torch.dtype) -> None:
    network = unet()
    with torch.no_grad():  # one output far larger than its neighbors takes nothing from them
        network.conv_in.weight[0] *= 1000
    quantized.save(network, tmp_path)
    opened = quantized.load(UNet2DConditionModel, tmp_path, dtype)
    full = sum(p.numel() for p in network.parameters())
    assert (tmp_path / quantized.FILE).stat().st_size < 1.25 * full
    rounding = 1e-3 if dtype == torch.float16 else 1e-6
    for name, tensor in network.state_dict().items():
        found = opened.state_dict()[name]
        assert found.dtype == dtype
        largest = tensor.flatten(1).abs().amax(1) if tensor.ndim > 1 else tensor.abs().amax()[None]
        apart = (found.float() - tensor).abs().reshape(len(largest), -1).amax(1)
        assert (apart <= largest * (0.5 / 127 + rounding) + 1e-6).all(), name


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    quantized.save(unet(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 64}))
    with pytest.raises(BowerbirdError, match=r"not those of its config\.json"):
        quantized.load(UNet2DConditionModel, tmp_path, torch.float32)


def test_a_bundled_model_opens_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load_pipeline("tiny-reimagen")
    place = tmp_path / "tiny-reimagen"
    pipe.save_pretrained(place)
    shutil.rmtree(place / "unet")
    (place / "unet").mkdir()
    quantized.save(pipe.unet, place / "unet")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    monkeypatch.setattr(network_files, "FOLDER", tmp_path)
    opened = load_pipeline("tiny-reimagen")
    for found, wanted in zip(opened.unet.parameters(), pipe.unet.parameters(), strict=True):
        assert (found - wanted).abs().max() <= wanted.abs().max() / 250
