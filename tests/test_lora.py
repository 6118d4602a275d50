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

ALPHA, RANK, SCALE = 6, 3, 0.5
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1")
CALL: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, one LoRA of its U-Net, alpha twice its rank, in the three forms, and the same base with it merged in."""
    folder = tmp_path_factory.mktemp("lora")
    base = doubles.sd()
    base.save_pretrained(folder / "base")
    forms: dict[str, dict[str, torch.Tensor]] = {"peft": {}, "diffusers": {}, "kohya": {}}
    for name, layer in base.unet.named_modules():
        if not name.endswith(TARGETS):
            continue
        weight = layer.weight
        kernel, ones = weight.shape[2:], [1] * (weight.dim() - 2)
        down, up = 0.1 * torch.randn(RANK, weight.shape[1], *kernel), torch.randn(len(weight), RANK, *ones)
        forms["peft"] |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
        forms["diffusers"] |= {f"unet.{name}.lora.down.weight": down, f"unet.{name}.lora.up.weight": up}
        own = f"lora_unet_{name.replace('.', '_')}"
        forms["kohya"] |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up}
        forms["kohya"][f"{own}.alpha"] = torch.tensor(float(ALPHA))
        merged = weight + SCALE * ALPHA / RANK * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        layer.weight = torch.nn.Parameter(merged)
    said = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS), "peft_type": "LORA"}
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in said.items()})}
    for form, tensors in forms.items():
        save_file(tensors, folder / f"{form}.safetensors", {"format": "pt"} if form == "kohya" else header)
    base.save_pretrained(folder / "merged")
    return folder


def opened(place: Path, *loras: LoraFile) -> ReferencePipeline:
    return ReferencePipeline.from_pretrained(place / "base", loras=loras)


def picture(pipe: ReferencePipeline) -> np.ndarray:
    return np.asarray(pipe("a red fox", seed=1, **CALL).images)


FORMS = pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])


@FORMS
def test_the_three_forms_change_the_base_as_they_say(place: Path, form: str) -> None:
    """W + scale alpha / rank B A in every layer; at scale 0 the base as it is."""
    name = f"{form}.safetensors"
    pipe = opened(place, LoraFile(place / name, SCALE))
    made, plain = picture(pipe), picture(opened(place))
    assert np.abs(made - picture(ReferencePipeline.from_pretrained(place / "merged"))).max() < 1e-5
    assert np.abs(made - plain).max() > 1e-2
    (lora,) = pipe.loras
    assert (lora.form.lower(), lora.ignored) == (form, ())
    assert len(lora.matched) == len([key for key in load_file(place / name) if "up.weight" in key or "_B." in key])
    assert np.array_equal(picture(opened(place, LoraFile(place / name, 0.0))), plain)


@FORMS
def test_diffusers_own_loader_gives_the_same_picture(place: Path, form: str) -> None:
    pytest.importorskip("peft", minversion="0.17", exc_type=ImportError)
    from diffusers import StableDiffusionPipeline

    base = StableDiffusionPipeline.from_pretrained(place / "base", safety_checker=None)
    base.load_lora_weights(place, weight_name=f"{form}.safetensors")
    base.set_adapters(base.get_active_adapters(), SCALE)
    made = picture(opened(place, LoraFile(place / f"{form}.safetensors", SCALE)))
    assert np.abs(made - picture(ReferencePipeline(base))).max() < 1e-5


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
    with pytest.raises(BowerbirdError, match="is not a scale"):
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


def test_names_of_text_encoders_and_of_older_files(place: Path, tmp_path: Path) -> None:
    """With and without `text_model`, attention's processors of diffusers before 0.20, and PEFT's own folder."""

    def pair(name: str, down: str, up: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {f"{name}{down}.weight": torch.ones(2, shape[1]), f"{name}{up}.weight": torch.ones(shape[0], 2)}

    base, wide = opened(place).base, 2 * doubles.CONTEXT
    layer = "encoder.layers.1.self_attn.q_proj"
    block = "mid_block.attentions.0.transformer_blocks.0.attn1"
    text = (doubles.CONTEXT, doubles.CONTEXT)
    files = {
        "old": pair(f"text_encoder.text_model.{layer}", ".lora_linear_layer.down", ".lora_linear_layer.up", text),
        "new": pair(f"text_encoder.{layer}", ".lora_A", ".lora_B", text),
        "kohya": pair(f"lora_te_text_model_{layer.replace('.', '_')}", ".lora_down", ".lora_up", text),
        "processor": pair(f"unet.{block}.processor.to_out", "_lora.down", "_lora.up", (wide, wide)),
        "adapter_model": pair(f"base_model.model.{block}.to_q", ".lora_A", ".lora_B", (wide, wide)),
    }
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 6, "use_rslora": false}')
    for name, tensors in files.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        pipe = opened(place, LoraFile(tmp_path / f"{name}.safetensors", 0.5))
        part, _, rest = pipe.loras[0].matched[0].partition(".")
        changed = getattr(pipe.base, part).get_submodule(rest).weight - getattr(base, part).get_submodule(rest).weight
        # two ones times two ones, at half: 1; PEFT's settings beside the file say three times that
        assert torch.allclose(changed, torch.full_like(changed, 3.0 if name == "adapter_model" else 1.0), atol=1e-5)
        assert pipe.loras[0].ignored == ()


def test_a_header_of_strangers_is_refused_in_a_line(place: Path, tmp_path: Path) -> None:
    own = load_file(place / "peft.safetensors")
    for text in ("{", '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": [1]}', '{"unet.lora_alpha": 1e999}'):
        save_file(own, tmp_path / "odd.safetensors", {"lora_adapter_metadata": text})
        with pytest.raises(BowerbirdError, match=r"damaged|sound|number") as found:
            opened(place, LoraFile(tmp_path / "odd.safetensors"))
        assert "\n" not in str(found.value)
