"""Recipes train, resume exactly, survive being killed, and say what is wrong with them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bowerbird import encoders
from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import load_pictures
from bowerbird.training import recipes
from bowerbird.training.loop import StepReport, TrainConfig, learning_rate, train
from bowerbird.training.recipe import Recipe, build_objective, load_recipe, read_pictures, with_settings

KINDS = [
    "small",
    "tiny-autoencoder",
    "tiny-vq",
    "tiny-rdm",
    "tiny-rdm-fast",
    "tiny-knn",
    "tiny-knn-discrete",
    "tiny-reimagen-32",
    "tiny-reimagen",
    "tiny-reimagen-128",
    "tiny-copies",
    "evaluator",
]


def run(recipe: Recipe, source: Path, out: Path) -> tuple[Any, list[StepReport]]:
    objective = build_objective(recipe, read_pictures(recipe, source), out)
    return objective, list(train(objective, recipe.train, out, device="cpu"))


@pytest.mark.parametrize("name", KINDS)
def test_tiny_form_trains_writes_and_opens(name: str, drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe(name, tiny=True)
    _, reports = run(recipe, drawn_folder, tmp_path)
    assert [r.step for r in reports] == [1, 2]
    assert (tmp_path / "sheets" / "000002.png").is_file()
    model = tmp_path / "model"
    if name == "small":
        assert encoders.load(model).embed_text(["x"]).shape == (1, 32)
    elif name.startswith("tiny-rdm"):
        from bowerbird import RDMPipeline

        pipe = RDMPipeline.from_pretrained(model)
        assert sum(pipe.proposal_counts.values()) > 0
        assert pipe.config.encoder_fingerprint == encoders.load("small").fingerprint
    elif name.startswith("tiny-knn"):
        from bowerbird.systems import loading

        assert loading.open_pipeline(str(model)).config.shared_dim == encoders.load("small").shared_dim
    elif name == "tiny-vq":
        from diffusers import VQModel

        assert VQModel.from_pretrained(model).config.num_vq_embeddings == 16
    elif name.startswith("tiny-reimagen"):
        from bowerbird import ReImagenPipeline

        assert ReImagenPipeline.from_pretrained(model).sizes == [
            {"tiny-reimagen-32": 16, "tiny-reimagen": 32, "tiny-reimagen-128": 64}[name]
        ]
    elif name == "tiny-copies":
        from bowerbird.encoders.copy_descriptor import CopyDescriptor
        from bowerbird.evaluation import features

        assert isinstance(features.load(f"copies:{model}"), CopyDescriptor)
        assert features.load(f"copies:{model}").embed_images([Image.new("RGB", (40, 30), "red")] * 2).shape == (2, 16)
    elif name == "evaluator":
        from bowerbird.evaluation.judge import Judge

        assert Judge(model)(torch.zeros(3, 3, 64, 64, dtype=torch.uint8))[1].shape == (3, 2)
    else:
        assert json.loads((model / "config.json").read_text())["scaling_factor"] > 0


@pytest.mark.parametrize("name", KINDS)
def test_objective_overfits_one_batch(name: str, drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe(name, tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    batch = objective.batch(0, 6)
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(40):
        loss = objective(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_cut_run_ends_with_the_same_weights(drawn_folder: Path, tmp_path: Path) -> None:
    base = recipes.recipe("tiny-rdm", tiny=True)
    recipe = base.model_copy(
        update={"train": base.train.model_copy(update={"steps": 4, "save_every": 2, "precision": "no"})}
    )
    whole, _ = run(recipe, drawn_folder, tmp_path / "whole")
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path / "cut")
    steps = train(objective, recipe.train, tmp_path / "cut", device="cpu")
    for _ in range(3):  # the third step is lost: the checkpoint is of step 2
        next(steps)
    steps.close()
    resumed, reports = run(recipe, drawn_folder, tmp_path / "cut")
    assert [r.step for r in reports] == [3, 4]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    first = files.load_tensors(tmp_path / "whole" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    second = files.load_tensors(tmp_path / "cut" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_killed_while_saving_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    code = (
        "import torch; from bowerbird.core import files\n"
        "for i in range(10_000):\n"
        f"    files.save_tensors({str(file)!r}, {{'x': torch.full((500_000,), float(i))}}, {{'step': str(i)}})\n"
        "    print(i, flush=True)\n"
    )
    for delay in (0.0, 0.007, 0.013, 0.021, 0.037):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        x = files.load_tensors(file)["x"]
        assert (x == float(files.read_tensor_metadata(file)["step"])).all()


def test_learning_rate_warms_up_and_cools_down() -> None:
    config = TrainConfig(steps=100, learning_rate=1.0, warmup_steps=10, cooldown_fraction=0.2)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[99] == pytest.approx(0.05)


def test_without_neighbors_every_draw_is_the_null(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-rdm-no-neighbors", tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    batch = objective.batch(0, 50)
    assert batch["null"].all()
    with_neighbors = build_objective(
        recipes.recipe("tiny-rdm", tiny=True), read_pictures(recipe, drawn_folder), tmp_path
    )
    share = float(torch.cat([with_neighbors.batch(i, 200)["null"] for i in range(10)]).float().mean())
    assert 0.07 < share < 0.13


def test_bank_never_holds_the_item_among_its_neighbors(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-rdm", tiny=True)
    cache = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path).cache
    own = torch.arange(len(cache.ids))[:, None]
    assert not any((table == own).any() for table in cache.tables)


def test_settings_are_strict() -> None:
    recipe = recipes.recipe("tiny-rdm")
    changed = with_settings(recipe, ["train.steps=7", "system.k=2", "where=style = 'noto'"])
    # type: ignore[union-attr]
    assert (changed.train.steps, changed.system.k, changed.where) == (7, 2, "style = 'noto'")
    for setting, message in (
        ("train.stepz=7", "no train.stepz"),
        ("train.steps", "key=value"),
        ("train.steps=many", "integer"),
        ("a.b.c=1", "no a.b.c"),
    ):
        with pytest.raises(BowerbirdError, match=message):
            with_settings(recipe, [setting])


def test_recipe_json_round_trip_refuses_unknown_keys(tmp_path: Path) -> None:
    for name in recipes.NAMES:
        recipe = recipes.recipe(name)
        files.write_json(tmp_path / "recipe.json", recipe.model_dump(mode="json"))
        assert load_recipe(tmp_path / "recipe.json") == recipe
    values = {**recipe.model_dump(mode="json"), "color": 1}
    files.write_json(tmp_path / "recipe.json", values)
    with pytest.raises(BowerbirdError, match="color"):
        load_recipe(tmp_path / "recipe.json")


def test_checkpoint_of_another_recipe_is_refused(drawn_folder: Path, tmp_path: Path) -> None:
    run(recipes.recipe("tiny-autoencoder", tiny=True), drawn_folder, tmp_path)
    with pytest.raises(BowerbirdError, match="another recipe"):
        run(recipes.recipe("evaluator", tiny=True), drawn_folder, tmp_path)


def test_data_without_readable_rows_is_refused(drawn_folder: Path) -> None:
    with pytest.raises(BowerbirdError, match="no readable picture"):
        load_pictures(drawn_folder, where="class = 'no such class'")
