"""What a run measures and writes: losses, held-out pictures, schedules, a model card, trackers, sweeps."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures
from bowerbird.systems import registry
from bowerbird.training import recipes
from bowerbird.training.config import TrainConfig
from bowerbird.training.data import held_out_rows, hold_out
from bowerbird.training.loop import train as train_loop
from bowerbird.training.losses import read_losses
from bowerbird.training.model_card import write_card
from bowerbird.training.recipe import Recipe, build_objective, read_pictures, with_settings
from bowerbird.training.run import train_recipe
from bowerbird.training.schedule import learning_rate
from bowerbird.training.sweep import parse, runs
from bowerbird.training.validation import Validation
from tests.test_train import KINDS, TOY
from tests.test_train_inputs import draw, train

EXACT = ["train.precision=no", "train.steps=4", "train.save_every=2"]


def tiny(*settings: str) -> Recipe:
    return with_settings(recipes.recipe("tiny-rdm", tiny=True), [*EXACT, *settings])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return files.load_tensors(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def test_schedules_are_those_of_diffusers() -> None:
    from diffusers.optimization import get_scheduler

    for name in ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"):
        config = TrainConfig.model_validate({"steps": 12, "schedule": name, "warmup_steps": 3, "learning_rate": 0.5})
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        theirs = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=12)
        for step in range(12):
            assert learning_rate(config, step) == pytest.approx(theirs.get_last_lr()[0]), (name, step)
            optimizer.step()
            theirs.step()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system of somebody's own as a module in the current directory, and a recipe of it."""
    (tmp_path / "toy_runs").mkdir()
    for file, text in TOY.items():
        (tmp_path / "toy_runs" / file).write_text(text.replace("toy.", "toy_runs."))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(registry, "_JOINED", [])
    for name in ("toy_runs", "toy_runs.objective"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    short = {"steps": 1, "batch_size": 2, "gradient_accumulation": 3, "clip_norm": 1e9, "precision": "no"}
    files.write_json("toy.json", {"name": "toy", "system": {"kind": "toy"}, "train": short, "size": 16})
    return tmp_path / "toy.json"


def test_accumulated_gradients_are_the_mean_over_their_batches(toy: Path, drawn_folder: Path) -> None:
    registry.register_named("toy_runs:REGISTRATION")
    recipe = recipes.open_recipe("toy.json")
    pictures = read_pictures(recipe, drawn_folder)
    (report,) = train_recipe(recipe, pictures, "run")
    objective = build_objective(recipe, pictures, Path("other"))
    losses = [objective(objective.batch(number, 2)) for number in range(3)]
    torch.stack(losses).mean().backward()
    gradient = next(objective.parameters()).grad
    assert gradient is not None
    assert report.loss == pytest.approx(float(torch.stack(losses).mean().detach()))
    moment = files.load_tensors("run/checkpoint.safetensors")["optimizer.color.exp_avg"]
    torch.testing.assert_close(moment, 0.1 * gradient)  # Adam's first moment after one step


def test_a_system_of_ones_own_trains_from_the_command_line(toy: Path, drawn_folder: Path) -> None:
    assert "kind 'toy' is nothing" in train("toy.json", "--data", str(drawn_folder), expect=2)
    assert "toy_runs" not in sys.modules
    train("toy.json", "--data", str(drawn_folder), "--system", "toy_runs:REGISTRATION")
    assert Path("runs/toy/model/color.safetensors").is_file()
    assert "is str; name a" in train("toy.json", "--data", "x", "--system", "toy_runs:__name__", expect=2)
    Path("own_recipe.py").write_text(
        "from bowerbird.training.recipes import open_recipe\ndef mine():\n    return open_recipe('toy.json')\n"
    )
    for spec in ("own_recipe.py:mine", "own_recipe:mine"):
        train(spec, "--data", str(drawn_folder), "--out", spec.replace(":", "-"))


def test_a_cut_run_with_everything_on_is_the_whole_run(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = tiny("train.gradient_accumulation=2", "train.schedule=cosine", "train.validate_every=1", "held_out=0.2")
    pictures = read_pictures(recipe, drawn_folder)
    list(train_recipe(recipe, pictures, tmp_path / "whole", sheets=False))
    cut = train_recipe(recipe, pictures, tmp_path / "cut", sheets=False)
    for _ in range(3):  # the third step is lost: the checkpoint is of step 2
        next(cut)
    cut.close()
    assert [each.step for each in read_losses(tmp_path / "cut")] == [1, 2, 3]
    with (tmp_path / "cut" / "losses.csv").open("a") as file:
        file.write("4,0.1")  # what a kill leaves
    assert [each.step for each in train_recipe(recipe, pictures, tmp_path / "cut", sheets=False)] == [3, 4]
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], two[name]) for name in one)
    logs = []
    for run in ("whole", "cut"):
        with (tmp_path / run / "losses.csv").open() as file:
            logs.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == ["1", "2", "3", "4"]
    assert all(float(row["validation_loss"]) > 0 for row in logs[0])


def test_measuring_held_out_pictures_changes_nothing(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = tiny("held_out=0.25", "train.validate_every=1")
    pictures = read_pictures(recipe, drawn_folder)
    list(train_recipe(recipe, pictures, tmp_path / "measured"))
    trained, held = hold_out(recipe, pictures)
    assert held is not None
    objective = build_objective(recipe, trained, tmp_path / "plain")
    list(train_loop(objective, recipe.train, tmp_path / "plain", device="cpu"))
    one, two = weights(tmp_path / "measured"), weights(tmp_path / "plain")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_measures_held_out_pictures(name: str, drawn_folder: Path, tmp_path: Path) -> None:
    recipe = with_settings(recipes.recipe(name, tiny=True), ["held_out=0.3"])
    trained, held = hold_out(recipe, read_pictures(recipe, drawn_folder))
    assert held is not None
    objective = build_objective(recipe, trained, tmp_path)
    scored = build_objective(recipe, held, tmp_path, database=trained)
    validation = Validation(scored, len(held), 0)
    assert validation.fits(objective)
    generator = torch.random.get_rng_state()

    def loss_of(each: Any, batch: Any) -> Any:
        return each(batch)

    first, again = (validation.loss(objective, 4, loss_of) for _ in range(2))
    assert first == again > 0
    assert torch.equal(torch.random.get_rng_state(), generator)
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert validation.loss(objective, 4, loss_of) != first  # the weights of the moment


def test_held_out_pictures_find_neighbors_in_what_is_trained_on(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = with_settings(tiny(), ["held_out=0.2", "system.max_similarity=null"])
    trained, held = hold_out(recipe, read_pictures(recipe, drawn_folder))
    assert held is not None
    cache = build_objective(recipe, held, tmp_path, database=trained).cache
    assert cache.latents.shape[1] == len(held)
    assert set(cache.ids.tolist()) == {*held.ids, *trained.ids}
    near = {int(cache.ids[row]) for row in cache.tables[0].flatten().tolist() if row >= 0}
    assert near & set(trained.ids)


def split(*names: str | None) -> Pictures:
    n = len(names)
    rows = tuple({} if name is None else {"split": name} for name in names)
    return Pictures(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), ("",) * n, rows, tuple(range(1, n + 1)))


def test_which_rows_are_held_out() -> None:
    recipe = recipes.recipe("tiny-rdm", tiny=True)
    assert held_out_rows(recipe, split("train", "Validation", "test", None, "rare")) == ([0, 3, 4], [1])
    assert held_out_rows(recipe, split("train", "test", "train")) == ([0, 2], [1])  # no validation: the tests
    assert held_out_rows(recipe, split("test", "test")) == ([0, 1], [])  # somebody means just these
    every = with_settings(recipe, ["split_column=null"])
    assert held_out_rows(every, split("train", "test")) == ([0, 1], [])
    share = with_settings(recipe, ["held_out=0.25"])
    left, held = held_out_rows(share, split(*["train"] * 400))
    assert 60 < len(held) < 140
    assert sorted([*left, *held]) == list(range(400))
    more = held_out_rows(share, split(*["train"] * 500))[1]
    assert [row for row in more if row < 400] == held  # more pictures change nothing for those there are
    for count in (2, 3):
        left, held = held_out_rows(share, split(*["train"] * count))
        assert left
        assert held
    assert held_out_rows(share, split("train")) == ([0], [])


def test_the_fingerprint_of_older_trainings_stands() -> None:
    recipe = recipes.recipe("tiny-rdm", tiny=True)
    same = with_settings(recipe, ["train.validate_every=7"])
    assert same.fingerprint() == recipe.fingerprint()
    for setting in ("held_out=0.1", "split_column=null", "train.schedule=cosine", "train.gradient_accumulation=2"):
        assert with_settings(recipe, [setting]).fingerprint() != recipe.fingerprint(), setting


def test_the_model_card_says_what_the_run_was(tmp_path: Path) -> None:
    own = draw(tmp_path / "secret-place" / "own", 5)
    lines = ["file_name,text,license", *(f"{i}.png,square {i},{'CC0' if i else 'a|b <b>'}" for i in range(5))]
    (own / "metadata.csv").write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    small = ("--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "train.validate_every=1")
    train("tiny-rdm", "--tiny", "--data", str(own), "--out", str(run), *small, "--set", "held_out=0.3")
    card = (run / "model" / "README.md").read_text()
    losses = read_losses(run)
    for line in (
        "library_name: diffusers",
        "| source | own |",
        "| pictures | 5 |",
        "| steps | 2 of 2 |",
        f"| loss, last 50 steps | {(losses[0].loss + losses[1].loss) / 2:.4f} |",
        f"| validation loss, last | {losses[1].validation_loss:.4f} |",
        "bowerbird train tiny-rdm --tiny --data own --out run",
        "| CC0 |",
    ):
        assert line in card, line
    assert "secret-place" not in card
    assert str(tmp_path) not in card
    note = json.loads((run / "data.json").read_text())
    note["licenses"] = {"x\n# heading | <script>`\x1b[31m": 3}
    files.write_json(run / "data.json", note)
    write_card(run, run / "model", "a `command`\n```\n# not a heading")
    card = (run / "model" / "README.md").read_text()
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        "# tiny-rdm",
        "## Data",
        "## Training",
        "## Use",
    ]
    assert "\x1b" not in card


def test_reports_go_to_tensorboard(drawn_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tiny("train.validate_every=2", "held_out=0.2")
    steps = train_recipe(recipe, read_pictures(recipe, drawn_folder), tmp_path, sheets=False, report_to=["tensorboard"])
    reports = list(steps)
    events = EventAccumulator(str(tmp_path / "logs" / "bowerbird")).Reload()
    shown = [(each.step, each.value) for each in events.Scalars("loss")]
    assert shown == [(each.step, pytest.approx(each.loss)) for each in reports]
    assert [each.step for each in events.Scalars("validation_loss")] == [2, 4]


def test_what_is_not_there_to_report_to_is_said_before_the_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    said = train("tiny-rdm", "--data", "nowhere", "--report-to", "clearml", expect=2)
    assert "choose from tensorboard, wandb" in said
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    assert "pip install wandb" in train("tiny-rdm", "--data", "nowhere", "--report-to", "wandb", expect=2)


def test_a_sweep_is_a_run_for_each_value_and_a_table(tmp_path: Path) -> None:
    own, out = draw(tmp_path / "own", 6), tmp_path / "sweep"
    sweep = ("--data", str(own), "--out", str(out), "--sweep", "k=1,4")
    said = train("tiny-rdm", "--tiny", *sweep)
    with (out / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["k"], row["steps"], row["model"]) for row in rows] == [
        ("1", "2", "k=1/model"),
        ("4", "2", "k=4/model"),
    ]
    assert f"{float(rows[0]['loss']):.3f}"[:4] in said
    from bowerbird import RDMPipeline

    assert [RDMPipeline.from_pretrained(out / row["model"]).config.k for row in rows] == [1, 4]
    before = (out / "k=1" / "checkpoint.safetensors").stat().st_mtime_ns
    train("tiny-rdm", "--tiny", *sweep)  # finished runs are not trained again
    assert (out / "k=1" / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_a_sweep_of_guidance_measures_one_model(tmp_path: Path) -> None:
    own, out = draw(tmp_path / "own", 6), tmp_path / "run"
    train("tiny-rdm", "--tiny", "--data", str(own), "--out", str(out), "--sweep", "guidance_scale=0,3")
    with (out / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["guidance_scale"] for row in rows] == ["0.0", "3.0"]
    assert all(float(row["frechet distance"]) > 0 for row in rows)
    assert rows[0]["frechet distance"] != rows[1]["frechet distance"]


@pytest.mark.parametrize(
    "text", ["k", "k=", "k=1,1", "k=0,1", "nothing=1", "steps=1,01", "guidance_scale=nan", "where=a,b"]
)
def test_a_sweep_that_cannot_be_is_refused_before_the_data_is_read(text: str) -> None:
    said = train("tiny-rdm", "--data", "nowhere", "--sweep", text, expect=2)
    assert said.count("\n") == 1
    assert "nowhere" not in said


def test_values_of_a_sweep_stay_in_its_folder() -> None:
    recipe = recipes.recipe("tiny-rdm", tiny=True)
    assert parse("where=style = 'x',a=1") == ("where", ["style = 'x'", "a=1"])
    found = runs(recipe, "system.encoder", ["../../x", "y"], Path("out"))
    assert [run.out for run in found] == [Path("out/system.encoder=.._.._x"), Path("out/system.encoder=y")]
    with pytest.raises(BowerbirdError, match="the same run"):
        runs(recipe, "encoder", ["a b", "a_b"], Path("out"))
