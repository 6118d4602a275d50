"""Trainings and files that stand on a base notice when it is another one, by its weights, and name both."""

from __future__ import annotations

import re
from pathlib import Path

import doubles
import pytest
import torch
from safetensors.torch import load_file, save_file

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.systems import loading
from bowerbird.systems.grounded.adapter_file import ADAPTER
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.grounded.recorded_base import base_header
from bowerbird.systems.reference_settings import LoraFile
from bowerbird.training.data import FILE, check_data, data_note
from bowerbird.training.recipe import frozen_fingerprints, read_pictures, with_settings
from bowerbird.training.recipes import recipe
from bowerbird.training.run import train_recipe


def change(folder: Path) -> None:
    """One number of one tensor."""
    file = sorted((folder / "unet").glob("*.safetensors"))[0]
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith("bias"))
    tensors[name].view(-1)[0] += 1
    save_file(tensors, file, {"format": "pt"})


def base_of(name: str, place: Path) -> Path:
    if name == "sd":
        doubles.sd().save_pretrained(place)
    else:
        loading.load_pipeline(name).save_pretrained(place)
    return place


CASES = {
    "tiny-knn": "tiny-rdm",
    "tiny-reimagen-128": "tiny-reimagen",
    "tiny-ip-adapter": "sd",
    "dreambooth": "sd",
    "instruct": "sd",
    "tiny-rdm-fast": "tiny-rdm",
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_on_a_changed_base_is_refused(name: str, tmp_path: Path, drawn_folder: Path) -> None:
    base = base_of(CASES[name], tmp_path / "base")
    chosen = recipe(name) if name in ("tiny-knn", "tiny-reimagen-128") else recipe(name, tiny=True)
    chosen = with_settings(chosen, [f"system.base={base}", "where=null", "limit=2", "size=64"])
    pictures = read_pictures(chosen, drawn_folder)
    run = tmp_path / "run"
    then = frozen_fingerprints(chosen)
    files.write_json(run / FILE, data_note(chosen, pictures) | {"networks": then})
    change(base)
    (changed,) = (key for key, value in frozen_fingerprints(chosen).items() if value != then[key])
    now = frozen_fingerprints(chosen)[changed]
    with pytest.raises(BowerbirdError) as said:
        next(train_recipe(chosen, pictures, run, device="cpu"))
    assert "base" in changed
    for part in (changed, then[changed], now, f"bowerbird train {run / 'recipe.json'}"):
        assert part in str(said.value)
    # as runs noted it before the networks had names
    files.write_json(run / FILE, data_note(chosen, pictures) | {"networks": list(then.values())})
    with pytest.raises(BowerbirdError, match="changed since"):
        next(train_recipe(chosen, pictures, run, device="cpu"))


@pytest.mark.parametrize(
    ("file", "key", "value", "what"),
    [
        ("scheduler/scheduler_config.json", "prediction_type", "v_prediction", "scheduler of the base"),
        ("vae/config.json", "scaling_factor", 0.5, "scale of the autoencoder of the base"),
    ],
)
def test_settings_that_change_what_a_base_means_are_noticed_too(
    file: str, key: str, value: object, what: str, tmp_path: Path, drawn_folder: Path
) -> None:
    base = base_of("sd", tmp_path / "base")
    chosen = with_settings(recipe("instruct", tiny=True), [f"system.base={base}", "limit=2", "size=64"])
    pictures, run = read_pictures(chosen, drawn_folder), tmp_path / "run"
    then = frozen_fingerprints(chosen)
    files.write_json(run / FILE, data_note(chosen, pictures) | {"networks": then})
    files.write_json(base / file, files.read_json(base / file, "configuration") | {key: value})
    now = frozen_fingerprints(chosen)
    assert [name for name in now if now[name] != then[name]] == [what]
    with pytest.raises(BowerbirdError, match=what):
        next(train_recipe(chosen, pictures, run, device="cpu"))
    # as runs noted it before these were among them
    before = {name: value for name, value in now.items() if "scale" not in name and "scheduler" not in name}
    files.write_json(run / FILE, data_note(chosen, pictures) | {"networks": before})
    check_data(data_note(chosen, pictures) | {"networks": now}, run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_of_ours_goes_into_its_own_base_alone_and_an_adapter_warns(
    tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = doubles.sd()
    base = base_of("sd", tmp_path / "base")
    header = base_header("/home/me/base", {"unet": pipe.unet})
    adapter = doubles.ip_adapter(tmp_path / "adapter", pipe)
    save_file(load_file(adapter), adapter.with_name(ADAPTER), header)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {f"{layer}.lora_A.weight": torch.ones(1, 32), f"{layer}.lora_B.weight": torch.ones(32, 1)}
    save_file(factors, tmp_path / "toy.safetensors", header)

    def open_both() -> None:
        lora = LoraFile(tmp_path / "toy.safetensors")
        ReferencePipeline.from_pretrained(base, adapter=adapter.with_name(ADAPTER), dtype=dtype)
        ReferencePipeline.from_pretrained(base, loras=[lora], dtype=dtype)

    open_both()
    change(base)
    assert not caplog.records
    ReferencePipeline.from_pretrained(base, adapter=adapter.with_name(ADAPTER), dtype=dtype)  # as into a fine-tune
    assert re.search(r"trained on the base 'base', whose unet is \w{16}, and that of this base", caplog.text)
    with pytest.raises(MismatchError, match="bowerbird train dreambooth --base"):
        ReferencePipeline.from_pretrained(base, loras=[LoraFile(tmp_path / "toy.safetensors")], dtype=dtype)
    ReferencePipeline.from_pretrained(base, adapter=adapter, dtype=dtype)  # of others, which say nothing
