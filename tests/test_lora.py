"""LoRA files in a base: the three forms give what diffusers' own loader gives, what does not fit is refused, and a
picture's record asks for the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bowerbird.cli.main import app
from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.reference_settings import LoraFile, parse_lora

ALPHA, RANK = 6, 3
CALL: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and one LoRA of its U-Net, alpha twice its rank, in the three forms."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = tmp_path_factory.mktemp("lora")
    base = doubles.sd()
    base.save_pretrained(folder / "base")
    targets = ["to_q", "to_k", "to_v", "to_out.0", "conv1"]
    base.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, init_lora_weights=False, target_modules=targets))
    factors = {key: value.contiguous() for key, value in get_peft_model_state_dict(base.unet).items()}
    said = {f"unet.{key}": value for key, value in base.unet.peft_config["default"].to_dict().items()}
    settings = {"lora_adapter_metadata": json.dumps(said, default=sorted)}
    save_file({f"unet.{key}": value for key, value in factors.items()}, folder / "peft.safetensors", settings)
    plain = {f"unet.{key}": value for key, value in convert_state_dict_to_diffusers(factors).items()}
    old = {key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value for key, value in plain.items()}
    save_file(old, folder / "diffusers.safetensors", settings)
    kohya: dict[str, torch.Tensor] = {}
    for key, value in factors.items():
        layer, _, kind = key.removesuffix(".weight").rpartition(".")
        name = f"lora_unet_{layer.replace('.', '_')}"
        kohya[f"{name}.lora_{'down' if kind == 'lora_A' else 'up'}.weight"] = value
        kohya[f"{name}.alpha"] = torch.tensor(float(ALPHA))
    save_file(kohya, folder / "kohya.safetensors", {"format": "pt"})
    return folder


def opened(place: Path, *loras: LoraFile) -> ReferencePipeline:
    return ReferencePipeline.from_pretrained(place / "base", loras=loras)


def picture(pipe: ReferencePipeline) -> np.ndarray:
    return np.asarray(pipe("a red fox", seed=1, **CALL).images)


def by_diffusers(place: Path, name: str, scale: float = 1.0) -> np.ndarray:
    """What diffusers generates with its own loader."""
    from diffusers import StableDiffusionPipeline

    base = StableDiffusionPipeline.from_pretrained(place / "base", safety_checker=None)
    base.load_lora_weights(place, weight_name=name)
    base.set_adapters(base.get_active_adapters(), scale)
    return picture(ReferencePipeline(base))


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
def test_the_three_forms_give_what_diffusers_gives(place: Path, form: str) -> None:
    name = f"{form}.safetensors"
    pipe = opened(place, LoraFile(place / name, 0.5))
    made, plain = picture(pipe), picture(opened(place))
    assert np.abs(made - by_diffusers(place, name, 0.5)).max() < 1e-5
    assert np.abs(made - plain).max() > 1e-2
    (lora,) = pipe.loras
    assert lora.ignored == ()
    assert len(lora.matched) == len([key for key in load_file(place / name) if "up.weight" in key or "_B." in key])
    assert np.array_equal(picture(opened(place, LoraFile(place / name, 0.0))), plain)


def test_what_does_not_fit_is_refused_in_a_line(place: Path, tmp_path: Path) -> None:
    own = load_file(place / "kohya.safetensors")

    def written(name: str, tensors: dict[str, torch.Tensor]) -> Path:
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    partly = written("partly.safetensors", own | {"lora_unet_elsewhere.alpha": torch.ones(())})
    assert opened(place, LoraFile(partly)).loras[0].ignored == ("lora_unet_elsewhere.alpha",)
    other = {key.replace("unet_", "unet_no_"): value for key, value in own.items()}
    wide = {key: value if value.dim() != 2 else torch.zeros(*value.shape[:-1], 99) for key, value in own.items()}
    wide = {key: value for key, value in wide.items() if "up" not in key} | {k: own[k] for k in own if "up" in k}
    doubled = own | {"lora_unet_x.dora_scale": torch.ones(3)}
    broken = {key: value * float("nan") for key, value in own.items()}
    cases = {
        written("other.safetensors", other): "none of its",
        written("wide.safetensors", wide): "a LoRA of another base",
        written("doubled.safetensors", doubled): "only plain LoRA",
        written("broken.safetensors", broken): "alpha",
        written("none.safetensors", {"a.weight": torch.ones(2)}): "holds no LoRA",
        tmp_path / "code.bin": "only .safetensors",
        tmp_path / "gone.safetensors": "cannot be read",
    }
    for path, said in cases.items():
        with pytest.raises(BowerbirdError, match=said) as found:
            opened(place, LoraFile(path))
        assert "\n" not in str(found.value)
    with pytest.raises(BowerbirdError, match="no scale"):
        parse_lora("a.safetensors:strong")
    assert parse_lora("a.safetensors:0.8") == LoraFile(Path("a.safetensors"), 0.8)


def test_stability_names_find_their_layers(tmp_path: Path) -> None:
    """kohya's files for SDXL name blocks as Stability's code does."""
    base = doubles.sdxl()
    base.save_pretrained(tmp_path / "base")
    state = base.unet.state_dict()
    theirs = {
        "input_blocks_4_1_proj_out": "down_blocks.1.attentions.0.proj_out",
        "input_blocks_2_0_in_layers_2": "down_blocks.0.resnets.1.conv1",
        "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
        "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
        "output_blocks_1_1_proj_in": "up_blocks.0.attentions.1.proj_in",
        "output_blocks_6_0_skip_connection": "up_blocks.2.resnets.0.conv_shortcut",
        "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
    }
    tensors = {}
    for name, ours in theirs.items():
        shape = state[f"{ours}.weight"].shape
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(2, *shape[1:])
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.randn(shape[0], 2, *[1] * (len(shape) - 2))
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = ReferencePipeline.from_pretrained(tmp_path / "base", loras=[LoraFile(tmp_path / "lora.safetensors")])
    assert set(pipe.loras[0].matched) == {f"unet.{ours}" for ours in theirs.values()}


def test_a_record_asks_for_the_same_loras(place: Path, tmp_path: Path) -> None:
    def run(*words: Any) -> Any:
        return CliRunner().invoke(app, ["generate", str(place / "base"), *map(str, words)])

    lora, out = place / "peft.safetensors", tmp_path / "out"
    asked = ("--prompt", "a red fox", "-k", 0, "-n", 1, "--steps", 2)
    made = run(*asked, "--lora", f"{lora}:0.5", "--out", out)
    assert made.exit_code == 0, made.output
    assert "every key matched" in made.output
    said = provenance.read_png(out / "000.png")["references"]["loras"]
    assert [(each["name"], each["scale"]) for each in said] == [("peft.safetensors", 0.5)]
    again = run("--lora", f"{lora}:0.5", "--from", out / "000.png", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    pixels = [np.asarray(doubles.Image.open(each / "000.png")) for each in (out, tmp_path / "again")]
    assert np.array_equal(*pixels)
    for words in ((), ("--lora", f"{lora}:0.6"), ("--lora", f"{place / 'kohya.safetensors'}:0.5")):
        refused = run(*words, "--from", out / "000.png", "--out", tmp_path / "refused")
        assert isinstance(refused.exception, BowerbirdError)
        assert "give the same" in str(refused.exception)
    assert not (tmp_path / "refused").exists()
