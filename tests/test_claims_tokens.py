"""The claims about RARM and RA-CM3, run small: what the claims share is the same in each, on networks that know
nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation import claims
from bowerbird.evaluation.claims import benchmark as benchmark_module
from bowerbird.evaluation.claims import (
    patch_decoding,
    racm3_documents,
    racm3_networks,
    racm3_style,
    racm3_training,
    rarm_and_rdm,
    rarm_guidance,
    rarm_networks,
    rarm_rare,
    style,
)
from bowerbird.evaluation.claims.experiment import Domain, Experiment, Settings
from bowerbird.systems.racm3.objective import DecoderSizes
from bowerbird.systems.rarm.objective import RARMSizes
from bowerbird.training import recipes
from bowerbird.training.recipe import read_pictures
from bowerbird.training.run import train_recipe
from tests.test_claims import marked, short

SETTINGS = Settings(seeds=(0, 1), train_steps=1, pictures=4, sampling_steps=2, judge_steps=2)


@pytest.fixture(scope="module")
def drawn() -> Pictures:
    return load_pictures("drawn", size=32).select(list(range(0, 216, 5)))


@pytest.fixture
def experiment(drawn: Pictures, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr(rarm_networks, "SIZES", RARMSizes(channels=32, layers=1, head_channels=16))
    monkeypatch.setattr(racm3_networks, "SIZES", DecoderSizes(channels=32, layers=1, head_channels=16))
    monkeypatch.setattr(racm3_networks, "SEQUENCES", 2)
    monkeypatch.setattr(racm3_networks, "SYMBOLS", 32)
    monkeypatch.setattr(racm3_documents, "COUNTS", (0, 2))
    how: dict[str, Any] = {"autoencoder": "pixels-2", "in_channels": 12, "label_key": "thing"}
    return Experiment(SETTINGS, [Domain("drawn", drawn, SETTINGS, size=32, **how)], drawn)


def by_seed(document: dict[str, Any], name: str) -> list[float]:
    found: list[float] = document["values"][f"drawn{name}"]["by seed"]
    assert len(found) == 2
    return found


def test_claims_of_rarm_share_networks_and_samples(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rarm_guidance, "SCALES", (1.0, 3.0))
    monkeypatch.setattr(patch_decoding, "WEIGHTS", (0.0, 0.3))
    monkeypatch.setattr(rarm_and_rdm, "PROBE", 1)
    monkeypatch.setattr(rarm_and_rdm, "nearest_sizes", lambda *_, **__: rarm_networks.SIZES)
    names = ["rarm-beats-none", "rarm-guidance", "patch-decoding", "rarm-and-rdm"]
    beats, guided, windows, beside = claims.run(claims.load(names), experiment, tmp_path)
    plain = by_seed(beats, " with retrieval")
    assert plain == by_seed(guided, ", distance, scale 1") == by_seed(windows, ", weight 0")
    others = [by_seed(beats, " without retrieval"), by_seed(guided, ", distance, scale 3")]
    assert all(each != plain for each in [*others, by_seed(windows, ", weight 0.3")])
    assert [effect["needed"] for effect in guided["effects"]] == [True, True, False]
    facts = beside["values"]["drawn, RARM"]
    assert facts["steps"][0] >= 1
    assert facts["parameters"][0] > 0
    assert facts["decoded"] != beside["values"]["drawn, RDM"]["decoded"]  # a codebook of 512 costs something


def test_networks_that_are_compared_are_of_one_size() -> None:
    from bowerbird.models.rarm_transformer import RARMTransformer

    for wanted in (900_000, 4_000_000):
        sizes = rarm_and_rdm.nearest_sizes(wanted, positions=64, width=385)
        network = RARMTransformer(512, 64, embed_dim=385, **sizes.model_dump())
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(wanted, rel=0.12)


def test_claims_of_racm3_share_networks_and_documents(experiment: Experiment, tmp_path: Path) -> None:
    names = ["racm3-beats-none", "racm3-weight", "racm3-training", "racm3-documents"]
    beats, weight, training, documents = claims.run(claims.load(names), experiment, tmp_path)
    usual = by_seed(beats, ", a code of the picture, its documents")
    assert usual == by_seed(weight, ", weight 0.1") == by_seed(training, ", both")
    assert usual == by_seed(documents, ", a code, K = 2")
    assert by_seed(beats, ", a code of the picture, no documents") == by_seed(documents, ", a code, K = 0")
    words = by_seed(beats, ", a word of the caption, its documents")
    assert words == by_seed(documents, ", a word, K = 2")
    assert all(abs(bits - 5) < 0.5 for bits in usual)  # 32 codes are 5 bits to a network that knows none
    for other in ("weight 0", "weight 1"):
        assert by_seed(weight, f", {other}") != usual
    # one step on two sequences need not meet what these leave out
    domain = experiment.domains[0]
    systems = [
        racm3_networks.recipe(domain, 0, name, **changes).system for name, changes in racm3_training.ARMS.values()
    ]
    said = [(each.query_dropout, each.max_similarity) for each in systems]  # type: ignore[attr-defined]
    assert said == [(0.2, 0.9), (0.0, 0.9), (0.2, None)]


def test_no_document_is_the_picture_nor_like_it(experiment: Experiment) -> None:
    measured = racm3_networks.Measured(experiment.domains[0])
    hits = measured.documents(4)
    assert len(hits) == len(measured.shown) == 4
    unit = hits.embeddings / np.linalg.norm(hits.embeddings, axis=2, keepdims=True).clip(min=1e-9)
    cosines = unit @ unit.transpose(0, 2, 1)
    there = hits.mask[:, None] & hits.mask[:, :, None] & ~np.eye(4, dtype=bool)
    assert (cosines[there] <= 0.9 + 1e-5).all()
    assert hits.queries == measured.shown.captions


def trained(name: str, out: Path, pictures: Pictures) -> str:
    recipe = recipes.recipe(name, tiny=True)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 1})})
    list(train_recipe(recipe, pictures, out, sheets=False))
    return str(out / "model")


def test_claims_about_trained_models_of_tokens_measure_and_name_what_is_missing(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (benchmark_module, style):
        monkeypatch.setattr(module, "style_judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "judge_recipe", short)
    monkeypatch.setattr(benchmark_module, "STYLE_JUDGE_STEPS", 2)
    monkeypatch.setattr(style, "JUDGE_STEPS", 2)
    monkeypatch.setattr(style, "ENTITIES", 3)
    monkeypatch.setattr(rarm_rare, "K", 2)
    drawings = marked("rare")
    two = [i for i, row in enumerate(drawings.metadata) if row["style"] in ("noto", "flat")]
    few = replace(SETTINGS, seeds=(0,))
    pictures = read_pictures(recipes.recipe("tiny-rarm", tiny=True), drawn_folder)
    models = {
        "tiny-rarm": trained("tiny-rarm", tmp_path / "rarm", pictures),
        "tiny-racm3": trained("tiny-racm3", tmp_path / "racm3", pictures),
    }
    rare = Experiment(few, [], drawings, models=models)
    in_two = replace(rare, drawings=drawings.select(two))
    [found, by_documents] = claims.run(claims.load(["rarm-rare", "racm3-rare"]), rare, tmp_path / "rare")
    values = {name: value["mean"] for name, value in found["values"].items()}
    [with_drawings, least, most, _] = [effect["mean"] for effect in found["effects"]]
    assert with_drawings == pytest.approx(values["four drawings of the thing, scale 2"] - values["no neighbors"])
    assert least == pytest.approx(values["four drawings of the thing, scale 2"] - 0.7)
    assert most == pytest.approx(0.03 - values["no neighbors"])
    values = {name: value["mean"] for name, value in by_documents["values"].items()}
    assert [effect["mean"] for effect in by_documents["effects"]] == pytest.approx(
        [
            values["two documents of the thing"] - values["no documents"],
            values["two documents of the thing"] - 0.7,
            0.03 - values["no documents"],
            values["two documents of the thing"] - values["two of another thing"],
        ]
    )
    for document in claims.run(claims.load(["rarm-style", "racm3-style"]), in_two, tmp_path / "style"):
        assert {effect["label"].split(":")[0] for effect in document["effects"]} == {"flat", "noto"}
        assert all(np.isfinite(effect["mean"]) for effect in document["effects"])
    with pytest.raises(BowerbirdError, match="tiny-rarm=DIR"):
        claims.run(claims.load(["rarm-style"]), replace(in_two, models={}), tmp_path / "none")


def test_documents_of_a_style_show_other_things() -> None:
    drawings = marked("rare")
    entities = sorted(set(drawings.column("hexcode")))
    hits = racm3_style.demonstrations(drawings, "noto", entities)
    for row, entity in enumerate(entities):
        shown = hits.metadata[row]
        assert {item["style"] for item in shown} == {"noto"}
        assert entity not in {item["hexcode"] for item in shown}
        assert hits.queries[row] == f"mark {entity}"
