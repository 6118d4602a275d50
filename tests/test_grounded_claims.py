"""The claims about base models with a knowledge base, at their smallest size, and what sees what stands in a half."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import doubles
import numpy as np
import pytest
import torch
from PIL import Image
from test_claims import marked, short

from bowerbird.core.types import Neighbors
from bowerbird.data.scenes.grammar import SHAPE, Scene, Thing
from bowerbird.data.scenes.render import render
from bowerbird.data.scenes.vocabulary import Vocabulary
from bowerbird.data.scenes.words import SHAPES
from bowerbird.evaluation import claims
from bowerbird.evaluation.claims import (
    adapter_references,
    grounded_critic,
    grounded_phrases,
    grounded_rare,
    grounded_scale,
    structure_leakage,
)
from bowerbird.evaluation.claims import benchmark as benchmark_module
from bowerbird.evaluation.claims.experiment import Experiment, Settings
from bowerbird.evaluation.claims.grounding import grounding, pairs
from bowerbird.systems.grounded.prompting import stack_rows
from bowerbird.systems.reference_settings import ReferenceSettings
from bowerbird.training import recipes
from bowerbird.training.recipe import read_pictures, with_settings
from bowerbird.training.run import train_recipe


@pytest.fixture(scope="module")
def models(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A random base of the standard form, and an adapter for it that was trained for a step."""
    base, run = tmp_path_factory.mktemp("sd"), tmp_path_factory.mktemp("adapter")
    doubles.sd().save_pretrained(base)
    recipe = with_settings(recipes.recipe("tiny-ip-adapter", tiny=True), [f"system.base={base}", "train.steps=1"])
    list(train_recipe(recipe, read_pictures(recipe, drawn_folder), run, sheets=False))
    return {"tiny-sd": str(base), "tiny-ip-adapter": str(run / "model")}


@pytest.fixture
def experiment(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr(benchmark_module, "judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "style_judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "STYLE_JUDGE_STEPS", 2)
    settings = Settings(seeds=(0, 1), sampling_steps=2, train_steps=1, judge_steps=2)
    return Experiment(settings, [], marked("rare"), models=models)


@pytest.mark.parametrize(
    ("name", "module", "small", "said"),
    [
        ("grounded-rare", grounded_rare, {"K": 1}, "K = 1 of 30 items"),
        ("grounded-scale", grounded_scale, {"SCALES": (0.3, 0.6, 1.0)}, "Likeness: cosine"),
        ("grounded-phrases", grounded_phrases, {"PAIRS": 3}, "100% by phrases"),
        ("grounded-critic", grounded_critic, {"PAIRS": 2}, "The loop took"),
        ("structure-leakage", structure_leakage, {"PROMPTS": 3}, "3 prompts"),
        (
            "adapter-references",
            adapter_references,
            {"TINY": True, "THINGS": 2, "SCENES": 4, "BATCH": 4},
            "1 steps of 4 on 8 drawings and 4 scenes",
        ),
    ],
)
def test_each_claim_of_grounding_measures_and_says_what(
    name: str,
    module: ModuleType,
    small: dict[str, Any],
    said: str,
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in small.items():
        monkeypatch.setattr(module, key, value)
    (found,) = claims.run(claims.load([name]), experiment, tmp_path)
    assert all(np.isfinite(effect["mean"]) for effect in found["effects"])
    assert (tmp_path / found["plot"]).stat().st_size > 5000
    assert said in found["notes"]


def test_a_row_is_the_same_picture_whichever_others_are_generated(experiment: Experiment) -> None:
    """Rows of one reference and of two, with and without regions, in one call; and one row of it by its number."""
    with grounding(experiment) as setup:
        assert set(setup.rare.values()) == {f"thing{i}" for i in range(4)}
        assert set(setup.known.values()) == {"thing4", "thing5"}
        plans = [setup.plan("a mark thing0 left of a mark thing1"), setup.plan("a mark thing2")]
        one = setup.search(["a mark thing3"], 1)
        hits = stack_rows([setup.ground(plans[:1]), setup.ground(plans[1:]), one, Neighbors.empty(["a heart"])])
        assert hits.mask.sum(1).tolist() == [2, 1, 1, 0]
        assert hits.regions is not None
        codes = [[row.get("hexcode") for row in line] for line in hits.metadata]
        assert codes[0] == ["thing0", "thing1"]
        how = ReferenceSettings(scale=1.0)
        together = setup.generate(hits, 0, how=how)
        for row in range(len(hits)):
            (alone,) = setup.generate(hits.rows([row]), 0, how=how, rows=[row])
            np.testing.assert_allclose(np.asarray(alone, int), np.asarray(together[row], int), atol=1)


def test_the_judge_of_halves_sees_shapes_and_colors_as_they_are_drawn() -> None:
    """No thing, the two exchanged, and one in the other's color, of every shape in both halves."""
    none = Vocabulary((), (), (), (), ())

    def draw(*things: tuple[str, str, int], ground: str = "white") -> Image.Image:
        scene = Scene(
            tuple(
                Thing(shape, SHAPE, color, box=(4 + 32 * half, 20, 26 + 32 * half, 42)) for color, shape, half in things
            ),
            ground=ground,
        )
        pixels = render([scene], none, marked("rare"), 64)[0]
        picture = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy().copy()
        picture[8:10, 2::12] = 120  # grain, far from the things
        return Image.fromarray(picture)

    for left, right in zip(SHAPES, SHAPES[1:] + SHAPES[:1], strict=True):
        asked = (("red", left), ("blue", right))
        cases = {
            (0, 0, 0, 1): draw(("red", left, 0), ("blue", right, 1)),
            (1, 1, 0, 0): draw(("blue", left, 0), ("red", right, 1)),
            (1, 0, 0, 0): draw(("blue", left, 0), ("blue", right, 1)),
            (0, 0, 1, 0): draw(("red", left, 0)),
        }
        for wanted, image in cases.items():
            found = structure_leakage.judge([image], [asked])
            assert tuple(int(values[0]) for values in found.values()) == wanted, (left, right, wanted)
    assert structure_leakage.look(draw(("red", "heart", 0), ground="yellow"), 0) == structure_leakage.Seen(
        "red", "heart"
    )


def test_things_are_paired_with_others_once_a_side() -> None:
    names = [f"n{i}" for i in range(9)]
    found = pairs(names, names, 20)
    assert len(found) == 9
    assert sorted(a for a, _ in found) == sorted(b for _, b in found) == names
    assert all(a != b for a, b in found)
    assert len(pairs(names, ["x", "y"], 20)) == 2


def test_the_usual_adapter_is_shown_its_targets(models: dict[str, str], drawn_folder: Path, tmp_path: Path) -> None:
    """With `exact` every reference of a drawing, a view and a scene is the target itself; without, none is."""
    from bowerbird.training.recipe import build_objective

    base = models["tiny-sd"]
    for exact in (0, 1):
        settings = [f"system.base={base}", f"system.exact={exact}"]
        recipe = with_settings(recipes.recipe("tiny-ip-adapter", tiny=True), settings)
        objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path / str(exact))
        data = objective.data  # type: ignore[attr-defined]
        shown = data.counts[0]
        own = data.shows[:shown] == torch.arange(shown)[:, None]
        assert bool(own.all()) is bool(exact)
        assert exact or not own.any()
        if exact:
            assert (data.shows == data.shows[:, :1]).all()
            assert data.shows[:, 0].unique().numel() == sum(data.counts)
            assert len(data.embeddings) > int(data.shows.max())
