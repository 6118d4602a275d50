"""The claims about single things, of Re-Imagen and KNN-Diffusion, run small: the bookkeeping of entities, styles, arms
and seeds, on random networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation import claims, neighbor_labels
from bowerbird.evaluation.claims import benchmark as benchmark_module
from bowerbird.evaluation.claims import edit_pairs, edits, faithful, learned_reranking, new_entities, without_text
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment, Settings
from bowerbird.evaluation.metrics.intervals import over_seeds
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.systems.knn.pipeline import KNNDiffusionPipeline
from bowerbird.training import recipes
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.judge import judge as judge_recipe

STYLES = ("flat", "fluent", "noto", "twemoji", "openmoji")


@pytest.fixture(scope="module")
def drawings() -> Pictures:
    """Six things, each in five drawings that stand for five styles."""
    drawn = load_pictures("drawn")
    things: dict[str, list[int]] = {}
    for i, row in enumerate(drawn.metadata):
        things.setdefault(str(row["thing"]), []).append(i)
    chosen = [(thing, rows[:5]) for thing, rows in things.items() if len(rows) >= 5][:6]
    some = drawn.select([row for _, rows in chosen for row in rows])
    metadata = tuple({"hexcode": thing, "style": style, "split": "rare"} for thing, _ in chosen for style in STYLES)
    return replace(some, metadata=metadata, captions=tuple(str(row["hexcode"]) for row in metadata))


def short() -> Recipe:
    recipe = judge_recipe(tiny=True)
    return recipe.model_copy(
        update={
            "system": recipe.system.model_copy(update={"entity_key": "hexcode", "style_key": "style"}),
            "limit": None,
        }
    )


@pytest.fixture
def experiment(
    drawings: Pictures, random_reimagen: Path, random_rdm: Path, monkeypatch: pytest.MonkeyPatch
) -> Experiment:
    monkeypatch.setattr(faithful, "RDM", str(random_rdm))
    monkeypatch.setattr(
        benchmark_module.Benchmark.generate, "__kwdefaults__", {"model": str(random_reimagen), "sources": None}
    )
    monkeypatch.setattr(benchmark_module, "judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "style_judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "STYLE_JUDGE_STEPS", 2)
    return Experiment(Settings(seeds=(0, 1), sampling_steps=2), [], drawings)


def test_each_claim_measures_and_says_what(experiment: Experiment, tmp_path: Path) -> None:
    found = claims.run(claims.load(["faithful", "balance", "how-many", "domain"]), experiment, tmp_path)
    assert all(np.isfinite(effect["mean"]) for document in found for effect in document["effects"])
    assert all((tmp_path / f"{document['name']}.png").stat().st_size > 5000 for document in found)
    again = claims.run(
        claims.load(["how-many"]), experiment, tmp_path
    )  # from the cache: the same pictures, the same figures
    assert again[0]["effects"] == found[2]["effects"]


def test_bench_finds_what_it_says(experiment: Experiment) -> None:
    benchmark = benchmark_module.Benchmark(experiment)
    hits = benchmark.search(benchmark.names, 2, styles=("noto", "flat"), leave_out=["noto"] * len(benchmark.names))
    assert [row[0]["hexcode"] for row in hits.metadata] == benchmark.entities
    assert all(row[0]["style"] == "flat" for row in hits.metadata)
    assert all(
        row[1].get("hexcode") != entity for row, entity in zip(hits.metadata, benchmark.entities, strict=True)
    )  # one drawing is all that is left
    assert set(benchmark.rows_of(benchmark.entities[0])) == set(STYLES)


def test_claims_without_rare_entities_are_refused(experiment: Experiment, drawings: Pictures, tmp_path: Path) -> None:
    common = replace(drawings, metadata=tuple({**row, "split": "train"} for row in drawings.metadata))
    with pytest.raises(BowerbirdError, match="split = 'rare'"):
        claims.run(claims.load(["faithful"]), replace(experiment, drawings=common), tmp_path)


def marked(split: str) -> Pictures:
    """Six things in five styles that agree but for a mark: a disc of the style's color, and for each thing a square at
    a place of its own."""
    pixels = torch.full((30, 3, 64, 64), 255, dtype=torch.uint8)
    yy, xx = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = (xx - 32) ** 2 + (yy - 32) ** 2 < 26**2
    metadata = []
    for i in range(30):
        thing, style = divmod(i, 5)
        pixels[i, :, disc] = torch.tensor([40 * style, 200 - 30 * style, 90], dtype=torch.uint8)[:, None]
        y, x = 18 + 18 * (thing // 3), 14 + 14 * (thing % 3)
        pixels[i, :, y : y + 8, x : x + 8] = torch.tensor([250, 30 * thing, 20], dtype=torch.uint8)[:, None, None]
        metadata.append(
            {
                "hexcode": f"thing{thing}",
                "style": STYLES[style],
                "split": split if thing < 4 else "train",
                "subgroup": "marks",
            }
        )
    return Pictures(pixels, tuple(f"mark {row['hexcode']}" for row in metadata), tuple(metadata), tuple(range(1, 31)))


@pytest.fixture(scope="module")
def quick_knn(tiny_knn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_knn` with a small random autoencoder: decoding takes most of the time of two steps."""
    pipe = KNNDiffusionPipeline.from_pretrained(tiny_knn)
    sizes = {"block_out_channels": [8] * len(pipe.vae.config.block_out_channels), "norm_num_groups": 4}
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        pipe.register_modules(vae=type(pipe.vae).from_config({**pipe.vae.config, **sizes, "layers_per_block": 1}))
    path = tmp_path_factory.mktemp("quick") / "model"
    pipe.save_pretrained(path)
    return path


@pytest.fixture
def knn_experiment(quick_knn: Path, random_rdm: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr(benchmark_module, "judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "style_judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "STYLE_JUDGE_STEPS", 2)
    for claim in (without_text, edits):
        monkeypatch.setattr(claim, "MODEL", str(quick_knn))
    monkeypatch.setattr(edits, "STRENGTHS", (0.5, 0.7))
    monkeypatch.setattr(new_entities, "MODELS", (str(quick_knn), str(random_rdm)))
    return Experiment(Settings(seeds=(0, 1), sampling_steps=2, train_steps=1), [], marked("rare"))


def test_each_claim_of_knn_diffusion_measures_and_says_what(knn_experiment: Experiment, tmp_path: Path) -> None:
    found = claims.run(claims.load(["without-text", "new-entities", "edits"]), knn_experiment, tmp_path)
    assert all(np.isfinite(effect["mean"]) for document in found for effect in document["effects"])
    assert all((tmp_path / f"{document['name']}.png").stat().st_size > 5000 for document in found)
    assert "the same items as before" in found[1]["notes"]


def test_pairs_agree_but_for_the_change_and_no_model_saw_their_targets() -> None:
    drawings = marked("train")  # no rare things: openmoji alone is unseen
    pairs = edit_pairs.find(
        replace(drawings, metadata=tuple({**row, "split": "rare"} for row in drawings.metadata)), 40
    )
    style, thing = (np.array(drawings.column(key)) for key in ("style", "hexcode"))
    assert (style[pairs.source] == style[pairs.target]).all()
    assert (thing[pairs.source] != thing[pairs.target]).all()
    apart = (drawings.pixels[pairs.source] != drawings.pixels[pairs.target]).any(1).numpy()
    assert (apart <= pairs.changed).all()
    assert 0.03 < pairs.changed.mean() < 0.15  # two squares of 8 by 8, grown by two pixels
    assert len(set(pairs.target.tolist())) == len(pairs.target)
    with pytest.raises(BowerbirdError, match="pairs of drawings"):
        edit_pairs.find(drawings, 40)  # six drawings in openmoji are too few


def test_an_eraser_is_no_editor(knn_experiment: Experiment) -> None:
    """Blank pictures, and other pictures, become what was asked no more often than chance; the real drawings do, where
    the judge knows them."""
    pairs = edit_pairs.find(knn_experiment.drawings, 40)
    judge = FirstMark(knn_experiment.drawings)
    benchmark = SimpleNamespace(judge=judge)
    real = edits.success(benchmark, knn_experiment, pairs, knn_experiment.drawings.pixels[pairs.target])  # type: ignore[arg-type]
    # type: ignore[arg-type]
    blank = edits.success(
        benchmark, knn_experiment, pairs, torch.full((len(pairs.target), 3, 64, 64), 255, dtype=torch.uint8)
    )
    source = edits.success(benchmark, knn_experiment, pairs, knn_experiment.drawings.pixels[pairs.source])  # type: ignore[arg-type]
    assert real.all()
    assert blank.mean() < 0.4
    assert not source.any()


def test_a_mixture_of_rivals_keeps_exactly_as_much() -> None:
    means = {"a": 20.0, "b": 24.0, "c": 30.0}
    found = edits.mix(25.5, means)
    assert (found.first, found.second, found.share) == ("c", "b", 0.25)
    values = {name: [np.full(3, mean)] for name, mean in means.items()}
    np.testing.assert_allclose(found.of(values)[0], 25.5)
    assert edits.mix(10.0, means) == edits.Mixture("a", "a", 1.0)
    assert edits.mix(31.0, means).first == "c"


class FirstMark:
    """A judge that knows the marked drawings by heart: nearest drawing, in pixels."""

    def __init__(self, drawings: Pictures) -> None:
        self.entities = sorted(set(drawings.column("hexcode")))
        self.drawings = drawings

    def __call__(self, pixels: torch.Tensor) -> tuple[None, torch.Tensor]:
        near = -torch.cdist(pixels.flatten(1).float(), self.drawings.pixels.flatten(1).float())
        code = self.drawings.column("hexcode")
        return None, torch.stack(
            [near[:, [i for i, c in enumerate(code) if c == entity]].amax(1) for entity in self.entities], 1
        )


def test_hits_of_an_edit_never_hold_the_picture_asked_for(knn_experiment: Experiment) -> None:
    pairs = edit_pairs.find(knn_experiment.drawings, 40)
    hits = edits.hits_of(knn_experiment, pairs)
    assert (hits.ids[:, 0] == -2).all()
    assert not (hits.ids[:, 1:] == pairs.target[:, None]).any()
    code = np.array(knn_experiment.drawings.column("hexcode"))
    assert (code[hits.ids[:, 1]] == code[pairs.target]).all()  # the thing, in another style


def test_the_claim_of_instructed_edits_measures_and_draws_a_sheet(
    knn_experiment: Experiment, tiny_knn: Path, drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bowerbird.evaluation.claims import instructed_edits
    from bowerbird.training import recipes
    from bowerbird.training.recipe import read_pictures, with_settings
    from bowerbird.training.run import train_recipe

    recipe = with_settings(recipes.recipe("tiny-instruct", tiny=True), ["train.steps=1"])
    list(train_recipe(recipe, read_pictures(recipe, drawn_folder), tmp_path / "run", sheets=False))
    models = {"tiny-instruct": str(tmp_path / "run" / "model"), "knn": str(tiny_knn)}
    for name, value in {"IMAGE_SCALES": (1.0, 1.5), "STRENGTHS": (0.5, 0.7), "RIVAL": "knn"}.items():
        monkeypatch.setattr(instructed_edits, name, value)
    monkeypatch.setattr(edits, "PAIRS", 24)
    given = replace(knn_experiment, models=models, settings=replace(knn_experiment.settings, seeds=(0,)))
    chosen = claims.load(["instructed-edits"])
    (found,) = claims.run(chosen, given, tmp_path / "claims")
    assert all(np.isfinite(effect["mean"]) for effect in found["effects"])
    assert all((tmp_path / "claims" / found[each]).stat().st_size > 5000 for each in ("plot", "sheet"))
    page = (tmp_path / "claims" / "claims.md").read_text()
    assert "tiny-instruct" in page
    assert len({*found["settings"]["models"].values()}) == 2  # told apart by their weights
    assert str(tmp_path) not in page + (tmp_path / "claims" / "claims.json").read_text()  # no place on this machine
    with pytest.raises(BowerbirdError, match="knn=DIR"):
        claims.run(chosen, replace(given, models={}), tmp_path / "none")


def test_the_learned_reranker_sees_nothing_of_what_it_is_measured_on(
    random_rdm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns from the things that are not rare alone, and then orders drawings of all."""
    collected: list[Pictures] = []

    def collect(recipe: Recipe, kb: KnowledgeBase, pipe: Any, pictures: Pictures, out: Path, **options: Any) -> None:
        collected.append(pictures)
        neighbor_labels.collect_labels(recipe, kb, pipe, pictures, out, **options)

    def tiny() -> Recipe:
        recipe, whole = recipes.recipe("reranker", tiny=True), recipes.recipe("reranker")
        system = recipe.system.model_copy(update={"entity_key": "hexcode"})
        return recipe.model_copy(update={"system": system, "where": whole.where})

    for name, value in {"MODEL": str(random_rdm), "QUERIES": 4, "CANDIDATES": 3, "JUDGE_STEPS": 2}.items():
        monkeypatch.setattr(learned_reranking, name, value)
    monkeypatch.setattr(learned_reranking, "collect_labels", collect)
    monkeypatch.setattr(learned_reranking, "reranker_recipe", tiny)
    monkeypatch.setattr(learned_reranking, "judge_recipe", short)
    monkeypatch.setattr(neighbor_labels, "judge_recipe", short)
    finding = learned_reranking.measure(Experiment(Settings(seeds=(0, 1)), [], marked("rare")))
    assert [np.isfinite(effect.estimate.mean) for effect in finding.effects] == [True, True]
    assert {row["hexcode"] for row in collected[0].metadata} == {"thing4", "thing5"}
    assert set(collected[0].column("style")) == {"flat", "fluent", "noto", "twemoji"}
    assert [0 <= value["neighbors of the entity"] <= 1 for value in finding.values.values()] == [True] * 4


def test_the_claim_of_subjects_measures_the_class_and_the_seconds(
    knn_experiment: Experiment,
    random_rdm: Path,
    random_reimagen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import doubles

    from bowerbird.evaluation.claims import subject

    doubles.sd().save_pretrained(tmp_path / "sd")
    small = {"WORD": "the", "SUBJECTS": 1, "PICTURES": 2, "AT": (250, 500), "REIMAGEN": str(random_reimagen)}
    for name, value in {**small, "RDM": str(random_rdm), "TINY": True}.items():
        monkeypatch.setattr(subject, name, value)
    settings = replace(knn_experiment.settings, train_steps=2, seeds=(0,))
    given = replace(knn_experiment, models={"tiny-sd": str(tmp_path / "sd")}, settings=settings)
    (found,) = claims.run(claims.load(["subject"]), given, tmp_path / "claims")
    assert all(np.isfinite(effect["mean"]) for effect in found["effects"])
    assert (tmp_path / "claims" / "subject.png").stat().st_size > 5000
    seconds = [found["values"][f"fine-tuned without, {step} steps"]["seconds"]["mean"] for step in (1, 2)]
    assert 0 < seconds[0] < seconds[1]


def test_a_page_keeps_claims_measured_under_other_settings_and_says_which(drawings: Pictures, tmp_path: Path) -> None:
    def claim(name: str) -> Claim:
        measure = lambda experiment: Finding([Effect("more", over_seeds([1.0, 2.0]))])  # noqa: E731
        return Claim(name, f"{name} is so.", "nobody", "nothing", "nothing", measure)

    few, many = (Experiment(Settings(seeds=tuple(range(n))), [], drawings) for n in (3, 8))
    claims.run([claim("first"), claim("second")], few, tmp_path)
    claims.run([claim("second")], many, tmp_path)
    claims.run([claim("third")], few, tmp_path)
    written = json.loads((tmp_path / "claims.json").read_text())
    assert written["settings"]["seeds"] == [0, 1, 2]
    seeds = {d["name"]: d.get("settings", written["settings"])["seeds"] for d in written["claims"]}
    assert seeds == {"first": [0, 1, 2], "second": list(range(8)), "third": [0, 1, 2]}
    sections = (tmp_path / "claims.md").read_text().split("## ")
    said = [section.split()[0] for section in sections if "Other settings here: seeds [0, 1, 2, 3, 4" in section]
    assert said == ["second"]
