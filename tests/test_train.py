"""Recipes train, resume exactly, survive being killed, and say what is wrong with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bowerbird import encoders
from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import load_pictures
from bowerbird.systems import registry
from bowerbird.training import recipes
from bowerbird.training.config import TrainConfig
from bowerbird.training.loop import train
from bowerbird.training.losses import StepReport
from bowerbird.training.recipe import (
    Recipe,
    build_objective,
    load_recipe,
    preview,
    read_pictures,
    with_settings,
)
from bowerbird.training.run import train_recipe
from bowerbird.training.schedule import learning_rate

RATES = {"tiny-vq": 3e-4, "vq-drawings": 3e-4, "tiny-decoder": 3e-4, "tiny-knn-discrete": 1e-2, "tiny-rarm": 1e-2}
"""Learning rates at which eight steps show; the tokenizer starts from trained weights, which large steps only spoil."""
KINDS = [
    "small",
    "tiny-autoencoder",
    "tiny-vq",
    "tiny-rdm",
    "tiny-rdm-fast",
    "tiny-rarm",
    "tiny-knn",
    "tiny-knn-discrete",
    "tiny-reimagen-32",
    "tiny-reimagen",
    "tiny-reimagen-128",
    "tiny-sd",
    "tiny-copies",
    "judge",
    "autoencoder-8",
    "tiny-decoder",
    "vq-drawings",
    "tiny-racm3",
    "small-patches",
    "rdm-drawings",
    "reimagen-drawings-32",
    "reimagen-drawings-64",
    "reimagen-drawings-128",
]


def run(recipe: Recipe, source: Path, out: Path) -> tuple[Any, list[StepReport]]:
    objective = build_objective(recipe, read_pictures(recipe, source), out)
    return objective, list(train(objective, recipe.train, out, device="cpu"))


@pytest.mark.parametrize("name", KINDS)
def test_tiny_form_trains_writes_opens_shows_and_overfits(name: str, drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe(name, tiny=True)
    objective, reports = run(recipe, drawn_folder, tmp_path)
    assert [r.step for r in reports] == [1, 2]
    opens(name, tmp_path / "model")
    sheet = preview(recipe)
    assert sheet is not None
    sheet(objective.eval(), tmp_path / "sheet.png", **({"rows": 1} if "systems" in sheet.__module__ else {}))
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.convert("L").getextrema()[0] < 255
    overfits(objective.train(), RATES.get(name, 3e-3))


def opens(name: str, model: Path) -> None:
    """What was written is what its users open."""
    if name == "small":
        assert encoders.load(model).embed_text(["x"]).shape == (1, 32)
    elif name == "small-patches":
        encoder = encoders.load(model)
        assert encoder.embed_text(["x"]).shape == (1, encoder.layout.dim) == (1, 16 + 16 * 4 + 8)  # type: ignore[attr-defined]
    elif name.startswith(("tiny-rdm", "rdm-")):
        from bowerbird import RDMPipeline

        pipe = RDMPipeline.from_pretrained(model)
        assert sum(pipe.proposal_counts.values()) > 0
        assert pipe.config.encoder_fingerprint == encoders.load("small").fingerprint
    elif name == "tiny-rarm":
        from bowerbird.systems import loading

        pipe = loading.open_pipeline(str(model))
        assert (type(pipe).__name__, pipe.capabilities.sizes) == ("RARMPipeline", (64,))
        assert sum(pipe.proposal_counts.values()) > 0
    elif name.startswith("tiny-knn"):
        from bowerbird.systems import loading

        assert loading.open_pipeline(str(model)).config.shared_dim == encoders.load("small").shared_dim
    elif name in ("tiny-vq", "vq-drawings"):
        from diffusers import VQModel

        assert VQModel.from_pretrained(model).config.num_vq_embeddings == 16
    elif "reimagen" in name:
        from bowerbird import ReImagenPipeline

        sizes = {"tiny-reimagen-32": 16, "tiny-reimagen": 32, "tiny-reimagen-128": 64}
        sizes |= {"reimagen-drawings-32": 16, "reimagen-drawings-64": 32}
        opened = ReImagenPipeline.from_pretrained(model).sizes
        assert opened == ([32, 64, 128] if name == "reimagen-drawings-128" else [sizes[name]])
    elif name == "tiny-racm3":
        from bowerbird.systems import loading

        assert loading.open_pipeline(str(model)).tokenizer("fox").input_ids[0] == 528  # the start of a document
    elif name == "tiny-sd":
        from bowerbird.systems import loading

        assert loading.open_pipeline(str(model)).capabilities.sizes == (64,)
    elif name == "tiny-copies":
        from bowerbird.encoders.copy_descriptor import CopyDescriptor
        from bowerbird.evaluation import features

        assert isinstance(features.load(f"copies:{model}"), CopyDescriptor)
        assert features.load(f"copies:{model}").embed_images([Image.new("RGB", (40, 30), "red")] * 2).shape == (2, 16)
    elif name == "judge":
        from bowerbird.evaluation.judge import Judge

        assert Judge(model)(torch.zeros(3, 3, 64, 64, dtype=torch.uint8))[1].shape == (3, 2)
    else:
        assert json.loads((model / "config.json").read_text())["scaling_factor"] > 0


def overfits(objective: Any, learning_rate: float) -> None:
    """The loss of one batch falls where nothing else is learned."""
    batch = objective.batch(0, 4)
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=learning_rate)
    losses = []
    for _ in range(8):
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
    steps = train(objective, recipe.train, tmp_path / "cut", device="cpu", workers=2)  # batches do not depend on them
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
    code = f"""
import os, signal, sys, time
import torch
from bowerbird.core import files
torch.set_num_threads(1)  # a fork does not take a pool of threads with it
for delay in (0.0, 0.007, 0.013, 0.021, 0.037):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        for i in range(10_000):
            files.save_tensors({str(file)!r}, {{"x": torch.full((500_000,), float(i))}}, {{"step": str(i)}})
            os.write(write, b".")
    os.close(write)
    assert os.read(read, 1), "the child ended by itself"  # one is whole
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    x, step = files.load_tensors({str(file)!r})["x"], files.read_tensor_metadata({str(file)!r})["step"]
    assert (x == float(step)).all(), step
    print("whole")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["whole"] * 5, done.stderr


def test_a_training_by_the_clock_cools_down_and_ends_with_it(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-autoencoder", tiny=True)
    config = recipe.train.model_copy(update={"steps": 100, "cooldown_fraction": 0.5})
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    hands = iter([0.0, 0.2, 0.25, 0.5, 0.75, 0.9, 0.9, 1.0])  # asked before and after each step
    reports = list(train(objective, config, tmp_path, device="cpu", spent=lambda: next(hands)))
    assert [r.learning_rate / config.learning_rate for r in reports] == pytest.approx([1.0, 1.0, 0.5, 0.2])
    assert files.read_tensor_metadata(tmp_path / "checkpoint.safetensors")["step"] == "4"
    assert (tmp_path / "model").is_dir()


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


def test_latent_cache_never_holds_the_item_among_its_neighbors(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-rdm", tiny=True)
    cache = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path).cache
    own = torch.arange(len(cache.ids))[:, None]
    assert not any((table == own).any() for table in cache.tables)


def test_settings_are_strict() -> None:
    recipe = recipes.recipe("tiny-rdm")
    changed = with_settings(recipe, ["train.steps=7", "system.k=2", "where=style = 'noto'"])
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
        text = getattr(recipe.system, "text_encoder", None)
        given = [f"system.text_encoder={text}"] if text else []  # a hub id, which a file alone may not ask for
        assert load_recipe(tmp_path / "recipe.json", given) == recipe
    values = {**recipe.model_dump(mode="json"), "color": 1}
    files.write_json(tmp_path / "recipe.json", values)
    with pytest.raises(BowerbirdError, match="color"):
        load_recipe(tmp_path / "recipe.json")


TOY = {
    "__init__.py": """
from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(objectives={"toy": ObjectiveEntry("toy.objective:ToyConfig", "toy.objective:build")})
""",
    "objective.py": """
from typing import Literal, TypedDict
import torch
from bowerbird.core import files, seeds, tensors
from bowerbird.training import Objective, ObjectiveConfig

class ToyConfig(ObjectiveConfig):
    kind: Literal["toy"] = "toy"
    width: int = 3

class ToyBatch(TypedDict):
    pixels: torch.Tensor

class ToyObjective(Objective[ToyBatch]):
    def __init__(self, config, pictures, seed):
        super().__init__()
        self.pictures, self.seed = pictures, seed
        self.color = torch.nn.Parameter(torch.zeros(config.width))

    def batch(self, step, size, rank=0):
        rows = seeds.numpy_generator(self.seed, "batch", step, rank).integers(len(self.pictures), size=size)
        return {"pixels": tensors.to_float(self.pictures.pixels[rows])}

    def forward(self, batch):
        return (batch["pixels"].mean((2, 3)) - self.color).square().mean()

    def export(self, out):
        files.save_tensors(out / "color.safetensors", {"color": self.color})

def build(config, pictures, run):
    return ToyObjective(config, pictures, run.seed)
""",
}


def test_a_system_of_somebody_else_trains_by_its_registration_alone(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy").mkdir()
    for file, text in TOY.items():
        (tmp_path / "toy" / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_JOINED", [])
    short = {"steps": 2, "batch_size": 4}
    values = {"name": "mine", "system": {"kind": "toy", "width": 3}, "train": short, "size": 16}
    files.write_json(tmp_path / "mine.json", values)
    with pytest.raises(BowerbirdError, match=r"mine\.json: system: kind 'toy' is nothing .* it is one of autoencoder"):
        load_recipe(tmp_path / "mine.json")
    assert "toy" not in sys.modules  # what is not registered is not imported

    import toy  # type: ignore[import-not-found]

    registry.register(toy.REGISTRATION)
    recipe = load_recipe(tmp_path / "mine.json")
    pictures = read_pictures(recipe, drawn_folder)
    assert [r.step for r in train_recipe(recipe, pictures, tmp_path / "run")] == [1, 2]
    assert load_recipe(tmp_path / "run" / "recipe.json") == recipe
    assert files.load_tensors(tmp_path / "run" / "model" / "color.safetensors")["color"].abs().min() > 0
    with pytest.raises(BowerbirdError, match=r"system\.depth"):
        load_recipe(_with(tmp_path / "mine.json", values, {"kind": "toy", "depth": 2}))
    with pytest.raises(BowerbirdError, match="other settings"):
        next(train_recipe(with_settings(recipe, ["train.seed=1"]), pictures, tmp_path / "run"))


def _with(path: Path, values: dict[str, Any], system: dict[str, Any]) -> Path:
    files.write_json(path, {**values, "system": system})
    return path


def test_checkpoint_of_another_recipe_is_refused(drawn_folder: Path, tmp_path: Path) -> None:
    run(recipes.recipe("tiny-autoencoder", tiny=True), drawn_folder, tmp_path)
    with pytest.raises(BowerbirdError, match="another recipe"):
        run(recipes.recipe("judge", tiny=True), drawn_folder, tmp_path)


def test_data_without_readable_rows_is_refused(drawn_folder: Path) -> None:
    with pytest.raises(BowerbirdError, match="no readable picture"):
        load_pictures(drawn_folder, where="class = 'no such class'")


def test_every_code_of_a_tokenizer_starts_in_use_and_a_code_left_behind_comes_back(
    drawn_folder: Path, tmp_path: Path
) -> None:
    from bowerbird.models.vq import to_tokens

    recipe = recipes.recipe("vq-drawings", tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    x = objective.batch(0, 64)["pixels"].render(64)
    assert len(to_tokens(objective.model, x).unique()) == 16
    objective.model.requires_grad_(False)
    codes = objective.model.quantize.embedding.weight.requires_grad_()
    codes.data[3] = 50.0
    assert 3 not in to_tokens(objective.model, x)
    optimizer = torch.optim.Adam([codes], lr=2.0)
    for step in range(40):
        optimizer.zero_grad()
        objective(objective.batch(step, 8)).backward()
        optimizer.step()
    assert float(codes[3].detach().abs().max()) < 10
