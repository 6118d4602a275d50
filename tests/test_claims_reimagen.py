"""Re-Imagen's four claims, run small: the bookkeeping of entities, styles, arms and seeds, on random networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bowerbird import claims
from bowerbird.claims import bench as benches
from bowerbird.claims.lab import Lab, Settings
from bowerbird.data import Pictures, load_pictures
from bowerbird.errors import BowerbirdError
from bowerbird.recipe import Recipe
from bowerbird.recipes.evaluator import evaluator

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
    recipe = evaluator(tiny=True)
    return recipe.model_copy(update={"system": recipe.system.model_copy(update={"entity_key": "hexcode", "style_key": "style"}), "limit": None})


@pytest.fixture
def lab(drawings: Pictures, random_reimagen: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(benches.Bench.paint, "__kwdefaults__", {"model": str(random_reimagen)})
    monkeypatch.setattr(benches, "evaluator", short)
    monkeypatch.setattr(benches, "style_evaluator", short)
    monkeypatch.setattr(benches, "STYLE_JUDGE_STEPS", 2)
    return Lab(Settings(seeds=(0, 1), sampling_steps=2), [], drawings)


def test_each_claim_measures_and_says_what(lab: Lab, tmp_path: Path) -> None:
    found = claims.run(claims.load(["faithful", "balance", "how-many", "domain"]), lab, tmp_path)
    assert all(np.isfinite(effect["mean"]) for document in found for effect in document["effects"])
    assert all((tmp_path / f"{document['name']}.png").stat().st_size > 5000 for document in found)
    again = claims.run(claims.load(["how-many"]), lab, tmp_path)  # from the cache: the same pictures, the same figures
    assert again[0]["effects"] == found[2]["effects"]


def test_bench_finds_what_it_says(lab: Lab) -> None:
    bench = benches.Bench(lab)
    hits = bench.found(bench.names, 2, styles=("noto", "flat"), leave_out=["noto"] * len(bench.names))
    assert [row[0]["hexcode"] for row in hits.metadata] == bench.entities
    assert all(row[0]["style"] == "flat" for row in hits.metadata)
    assert all(row[1].get("hexcode") != entity for row, entity in zip(hits.metadata, bench.entities, strict=True))  # one drawing is all that is left
    assert set(bench.rows_of(bench.entities[0])) == set(STYLES)


def test_claims_without_rare_entities_are_refused(lab: Lab, drawings: Pictures, tmp_path: Path) -> None:
    common = replace(drawings, metadata=tuple({**row, "split": "train"} for row in drawings.metadata))
    with pytest.raises(BowerbirdError, match="split = 'rare'"):
        claims.run(claims.load(["faithful"]), replace(lab, drawings=common), tmp_path)
