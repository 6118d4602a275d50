"""Directories of models that strangers made: opened right, or refused in one line; no code of theirs runs."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bowerbird import encoders
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.models.weights import bundled
from bowerbird.systems import generation, loading
from tests.foreign import mutate
from tests.test_cli import bowerbird


def generate(folder: Path) -> None:
    """A picture of the model in `folder`, in one step."""
    pipe = loading.load_pipeline(folder)
    if pipe.capabilities.needs_images:
        hits = Neighbors.from_images(["red apple"], [], [])
    else:
        hits = Neighbors.from_embeddings(np.ones((1, 2, 384), np.float32), [["a", "b"]])
    can = pipe.capabilities
    steps = (1,) * can.stages if can.stages > 1 else pipe.defaults.num_inference_steps if can.samples_tokens else 1
    generation.generate(pipe, hits, generation.Settings(steps=steps, guidance_scale=1.0))


def refusal(opens: Callable[[Path], object], folder: Path) -> str | None:
    """What is said against `folder`; None where it is taken."""
    try:
        opens(folder)
    except BowerbirdError as error:
        return str(error)
    return None


def change(path: Path, **entries: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture(params=["random_rdm", "random_reimagen"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of a model that may be damaged."""

    def made() -> Path:
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(request.getfixturevalue(request.param), tmp_path / "model")
        return tmp_path / "model"

    return made


@pytest.mark.parametrize("copy", ["random_rdm", "random_reimagen", "tiny_rarm"], indirect=True)
def test_a_damaged_model_is_refused_in_one_line_or_generates(copy: Callable[[], Path]) -> None:
    refused = 0
    for seed in range(40):
        folder = copy()
        what = mutate(folder, random.Random(seed))
        said = refusal(generate, folder)
        refused += said is not None
        assert said is None or ("\n" not in said and len(said) < 700), what
    assert 20 <= refused < 40


def test_every_verb_says_it_in_one_line(
    random_rdm: Path, small_kb_path: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    for name, text in (("list", "[]"), ("deep", "[" * 100_000), ("class", '{"_class_name": {}}'), ("file", "\0")):
        shutil.copytree(random_rdm, folder, dirs_exist_ok=True)
        (folder / "model_index.json").write_text(text)
        kb, data = ("--kb", small_kb_path), ("--data", drawn_folder)
        for verb in (
            ("generate", folder, *kb, "--prompt", "x", "--out", "out"),
            ("edit", folder, *kb, "--image", next(drawn_folder.rglob("*.png")), "--prompt", "x", "--out", "out"),
            ("evaluate", folder, *kb, *data, "--judge", "none", "--features", "encoder:small", "--out", "out"),
            ("export", folder, "--out", "out"),
            ("import", "diffusers", folder, "--out", "out"),
        ):
            said = bowerbird(*verb, cwd=tmp_path, expect=2).stderr
            assert said.count("\n") == 1, (name, verb, said)
            assert not (tmp_path / "out").exists(), (name, verb)
    train = ("train", "tiny-rdm-fast", "--tiny", *data, "--set", f"system.base={folder}", "--out", "out")
    assert "model_index.json" in bowerbird(*train, cwd=tmp_path, expect=2).stderr


@pytest.mark.parametrize(
    ("library", "name"),
    [("evil", "Evil"), ("antigravity", "fly"), ("diffusers", "StableDiffusionPipeline"), ("transformers", "AutoModel")],
)
def test_nothing_that_a_model_names_is_imported(copy: Callable[[], Path], library: str, name: str) -> None:
    folder = copy()
    (folder.parent / "evil.py").write_text("raise SystemExit('ran')")
    (folder / "unet" / "evil.py").write_text("raise SystemExit('ran')")
    change(folder / "model_index.json", unet=[library, name])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder.parent))
        with pytest.raises(BowerbirdError, match=f"its unet is of '{library}', '{name}'"):
            generate(folder)
    assert not {"evil", "antigravity"} & set(sys.modules)
    folder = copy()
    (folder / "unet" / "diffusers.py").write_text("raise SystemExit('ran')")  # where diffusers looks for custom classes
    with pytest.raises(BowerbirdError, match="brings no code"):
        generate(folder)
    folder = copy()
    (folder.parent / "evil.py").write_text("raise SystemExit('ran')")
    change(folder / "model_index.json", sampler="evil:Evil")
    if "RDMPipeline" in (folder / "model_index.json").read_text():
        with pytest.raises(BowerbirdError, match="sampler 'evil:Evil' is none of this model's"):
            generate(folder)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"layers_per_block": 10**9}, "layers_per_block is 1000000000, out of range"),
        ({"layers_per_block": 200}, "600 layers, more than there are weights"),
        ({"sample_size": 10**7}, "pixels"),
        ({"block_out_channels": [8] * 1000}, "1,000 entries"),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"quantization_config": {"quant_method": "torchao"}}, "asks for code from elsewhere"),
        ({"block_out_channels": [64, 32, 32]}, "cannot be opened"),
    ],
)
def test_a_configuration_out_of_bounds_is_refused(
    random_rdm: Path, tmp_path: Path, entry: dict[str, object], said: str
) -> None:
    shutil.copytree(random_rdm, tmp_path / "model")
    change(tmp_path / "model" / "unet" / "config.json", **entry)
    with pytest.raises(BowerbirdError, match=said):
        generate(tmp_path / "model")


@pytest.mark.parametrize(("number", "said"), [("nan", "not finite"), ("inf", "not finite"), ("3e38", "not finite")])
def test_weights_that_are_no_numbers_make_no_picture(random_rdm: Path, tmp_path: Path, number: str, said: str) -> None:
    shutil.copytree(random_rdm, tmp_path / "model")
    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.weight"].fill_(float(number))  # the largest that is finite overflows when it generates
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(BowerbirdError, match=said):
        generate(tmp_path / "model")
    del weights["conv_out.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(BowerbirdError, match=r"the weights of conv_out\.weight are missing"):
        generate(tmp_path / "model")


def test_a_pickle_is_not_read(random_rdm: Path, tmp_path: Path) -> None:
    shutil.copytree(random_rdm, tmp_path / "model")
    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(BowerbirdError, match="no safetensors file"):
        generate(tmp_path / "model")


def test_a_damaged_encoder_is_refused_in_one_line(tmp_path: Path) -> None:
    small, refused = bundled("small"), 0
    assert small is not None
    for seed in range(30):
        shutil.rmtree(tmp_path / "encoder", ignore_errors=True)
        shutil.copytree(small, tmp_path / "encoder")
        what = mutate(tmp_path / "encoder", random.Random(seed))
        said = refusal(encoders.load, tmp_path / "encoder")
        refused += said is not None
        assert said is None or "\n" not in said, what
    assert refused >= 15
