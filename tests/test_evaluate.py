"""Evaluations end to end on drawn pictures: the same figures twice, faithfulness counted rightly, near copies handled,
claims judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase, RDMPipeline
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation import entity_draw, evaluate, plots, reports
from bowerbird.evaluation.claims import claim
from bowerbird.evaluation.copies import guard
from bowerbird.evaluation.metrics.faithfulness import faithfulness, hits
from bowerbird.evaluation.metrics.intervals import Estimate
from bowerbird.evaluation.settings import Settings as EvaluationSettings
from bowerbird.evaluation.settings import needs_judge, parse_metrics
from bowerbird.systems import generation, records


@pytest.fixture(scope="module")
def drawn() -> Pictures:
    return load_pictures("drawn")


def test_faithfulness_counts_hits_pictures_and_groups() -> None:
    logits = np.array([[3.0, 1, 0], [0, 1, 2], [0, 0, 0]])
    truth = np.array([0, 1, 2])
    assert hits(logits, truth, 1).tolist() == [True, False, False]  # a tie is no hit
    assert hits(logits, truth, 2).tolist() == [True, True, False]
    many = np.zeros((4, 3, 10))
    many[0, :, 0] = many[1, 0, 1] = many[2, 2, 0] = 1.0  # prompts 0 and 2 are of entity 0, 1 and 3 of entity 1
    found = faithfulness(many, np.array([0, 1, 0, 1]), np.array([0, 1, 0, 1]))
    assert found.top1.mean == pytest.approx((3 + 1 + 1 + 0) / 12)
    assert found.best.mean == pytest.approx(3 / 4)


def test_entitydraw_is_built_from_any_column(drawn: Pictures) -> None:
    assert entity_draw.entity_key(drawn) is None
    assert entity_draw.entity_key(drawn, "thing") == "thing"
    benchmark = entity_draw.entity_draw(drawn, key="thing", templates=("{name}", "a picture of {name}"))
    assert len(benchmark.prompts) == 2 * len(benchmark.entities) == len(benchmark.truth)
    first = benchmark.prompts[benchmark.truth.tolist().index(benchmark.entities.index("apple"))]
    assert first.endswith("apple")
    with pytest.raises(BowerbirdError, match="it has color, style, thing"):
        entity_draw.entity_key(drawn, "nope")
    with pytest.raises(BowerbirdError, match="name"):
        entity_draw.entity_draw(drawn, key="thing", templates=("no name",))


class Colors:
    """Features of few dimensions: the colors of the four quarters of a picture."""

    name, fingerprint, dim, preprocessing = "colors", "colors", 12, "2 x 2"

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        small = [p.convert("RGB").resize((2, 2), Image.Resampling.BOX) for p in pictures]
        return np.stack([np.asarray(p, np.float32).ravel() for p in small])


def test_evaluating_twice_gives_the_same_bytes(
    drawn: Pictures, kb_path: Path, random_rdm: Path, tmp_path: Path
) -> None:
    pipe, kb = RDMPipeline.from_pretrained(random_rdm), KnowledgeBase.open(kb_path)
    settings = EvaluationSettings(n=20, baseline=20, copies_per_kind=1, generate=generation.Settings(steps=2, seed=5))
    pictures = drawn.select(list(range(0, 216, 6)))
    for name in ("one", "two"):
        found = evaluate.evaluate(pipe, kb, pictures, Colors(), settings, descriptor=Colors())
        files = reports.write_evaluation(found, tmp_path / name)
    for file in files:
        assert file.read_bytes() == (tmp_path / "one" / file.name).read_bytes(), file.name
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert report["settings"]["generate"]["seed"] == 5
    distance = report["distribution"]["frechet distance"]
    assert distance["low"] < distance["mean"] < distance["high"]
    settings = replace(settings, n=20, generate=generation.Settings(steps=2, seed=6))
    other = evaluate.evaluate(pipe, kb, pictures, Colors(), settings, descriptor=Colors())
    assert other.report["distribution"]["frechet distance"] != distance


def test_own_pictures_are_measured_with_what_they_have(
    drawn: Pictures, kb_path: Path, random_rdm: Path, tmp_path: Path
) -> None:
    """No captions, no column of entities, few pictures: what is left out is named, and the rest is measured."""
    pipe, kb = RDMPipeline.from_pretrained(random_rdm), KnowledgeBase.open(kb_path)
    plain = replace(drawn.select([0, 7, 30]), captions=("", "", ""), metadata=({}, {}, {}))
    settings = EvaluationSettings(n=4, k=2, baseline=4, copies_per_kind=1, generate=generation.Settings(steps=1))
    lines: list[str] = []
    found = evaluate.evaluate(pipe, kb, plain, None, settings, descriptor=Colors(), on_message=lines.append)
    assert found.report["features"]["name"] == "small"
    assert found.report["settings"]["query"] == "image"
    assert [line.partition(":")[0] for line in found.report["left out"]] == [
        "captions",
        "clip-score",
        "certainty",
        "faithfulness, inception-score",
    ]
    assert [f"left out: {line}" for line in found.report["left out"]] == lines[-4:]
    assert np.isfinite(found.report["distribution"]["frechet distance"]["mean"])
    assert "faithfulness" not in found.report
    assert (tmp_path / "r" / "copies.png") in reports.write_evaluation(found, tmp_path / "r")
    few = replace(settings, metrics=parse_metrics("fid, KID,hubness"))
    one = evaluate.evaluate(pipe, kb, plain.select([0]), Colors(), few, on_message=lines.append)
    assert "distribution" not in one.report  # one real picture is no set
    assert one.copies is None
    assert not one.images  # nothing that is left looks at any
    assert [path.name for path in reports.write_evaluation(one, tmp_path / "one")] == ["report.json", "report.md"]
    assert set(one.report["retrieval"]) == {"hubness of the database"}
    named = replace(plain, captions=("a red apple", "", ""))
    asked = evaluate.evaluate(pipe, kb, named, Colors(), few, on_message=lines.append)
    assert set(asked.hits.queries) == {"a red apple"}
    assert {"frechet distance", "kid x 1000"} <= set(asked.report["distribution"])
    assert "vendi score" not in asked.report["distribution"]
    with pytest.raises(BowerbirdError, match=r"'fdi': there is no such metric; choose from fid,kid,cmmd"):
        parse_metrics("fdi")
    assert not needs_judge(("copies", "fid"))
    assert needs_judge(("fid", "faithfulness"))


def test_near_copies_are_dropped_or_drawn_again(
    kb_path: Path, random_rdm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, kb = RDMPipeline.from_pretrained(random_rdm), KnowledgeBase.open(kb_path)
    found = kb.search(text=["a red apple", "a blue fish"], k=3)
    near = found.images()

    def forger(
        pipe: object,
        hits: object,
        settings: object,
        *,
        sources: object = None,
        picture_seeds: list[int] | None = None,
        progress: object = None,
    ) -> list[Image.Image]:
        """Copies the first neighbor that counts, for even seeds; generates noise for others."""
        made = []
        for row, weights in enumerate(
            getattr(hits, "weights", None) if getattr(hits, "weights", None) is not None else np.ones((len(hits), 3))
        ):  # type: ignore[arg-type]
            number = picture_seeds[row] if picture_seeds else row * 2
            # type: ignore[attr-defined]
            source = near[[tuple(r) for r in found.ids.tolist()].index(tuple(hits.ids[row].tolist()))]
            image = source[int(np.flatnonzero(weights)[0])]
            noise = Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8))
            made.append(image if number % 2 == 0 and image is not None else noise)
        return made

    monkeypatch.setattr(generation, "generate", forger)
    settings = generation.Settings(seed=0)
    kept = guard.generate(pipe, found, settings, threshold=0.9)
    made = records.generation_records(
        pipe, "random", kb, kept.hits, kept.images, settings, {}, picture_seeds=kept.seeds, copies=kept.copies
    )
    for row, record in enumerate(made):
        named = repr(found.captions[row][0])
        assert records.say_near_copy(record).startswith(f"is a near copy of neighbor {named}")
        assert not records.say_near_copy(record | {"copy": record["copy"] | {"score": 0.8}})
        assert not records.say_near_copy({key: value for key, value in record.items() if key != "copy"})
    assert kept.copies[0] is not None
    assert (kept.copies[0]["score"], kept.copies[0]["neighbor"]) == (1.0, int(found.ids[0, 0]))
    again = guard.generate(pipe, found, settings, policy="resample", threshold=0.9)
    assert again.seeds == [guard.NEXT_SEED, 1 + 2 * guard.NEXT_SEED]  # the second was a copy once more
    dropped = guard.generate(pipe, found, settings, policy="drop", threshold=0.9)
    assert dropped.hits.weights is not None
    assert dropped.hits.weights[0].tolist() == [0, 0, 1]
    assert guard.generate(pipe, found, settings, policy="off").copies == [None, None]
    with pytest.raises(BowerbirdError, match="resample"):
        guard.generate(pipe, found, settings, policy="panic")


def test_plots_take_names_as_they_are(tmp_path: Path) -> None:
    plots.intervals(tmp_path / "p.png", [("$_$ {x} \\frac", 0.5, 0.4, 0.6)], title="$\\oops$", label="$$")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_verdicts_follow_from_intervals() -> None:
    sure, against, open_ = (claim.Effect("e", Estimate(m, m - 1, m + 1)) for m in (2, -2, 0.5))
    assert claim.Finding([sure, sure]).verdict() == claim.HOLDS
    assert claim.Finding([sure, open_]).verdict() == claim.UNDECIDED
    assert claim.Finding([open_, against]).verdict() == claim.FAILS
    assert claim.Finding([sure, replace(against, needed=False)]).verdict() == claim.HOLDS


def test_claims_run_small_and_write_their_page(drawn: Pictures, tmp_path: Path) -> None:
    from bowerbird.evaluation import claims
    from bowerbird.evaluation.claims.experiment import Domain, Experiment, Settings

    settings = Settings(seeds=(0, 1), train_steps=2, pictures=12, sampling_steps=2, judge_steps=2)
    small = Domain(
        "drawn",
        load_pictures("drawn", size=32),
        settings,
        size=32,
        autoencoder="pixels-2",
        in_channels=12,
        label_key="thing",
    )
    experiment = Experiment(settings, [small], drawn)
    chosen = claims.load(["retrieval-beats-none", "database"])
    found = claims.run(chosen, experiment, tmp_path)
    assert [d["name"] for d in found] == ["retrieval-beats-none", "database"]
    assert {d["verdict"] for d in found} <= {claim.HOLDS, claim.FAILS, claim.UNDECIDED}
    assert len(found[0]["values"]["drawn with retrieval"]["by seed"]) == 2
    assert (tmp_path / "database.png").stat().st_size > 5000
    assert "retrieval-beats-none" in (tmp_path / "claims.md").read_text()
    again = claims.run(
        chosen[:1], Experiment(settings, [small], drawn), tmp_path
    )  # from the cache, and the other claim is kept
    assert again[0]["effects"] == found[0]["effects"]
    assert [d["name"] for d in json.loads((tmp_path / "claims.json").read_text())["claims"]] == [
        "retrieval-beats-none",
        "database",
    ]
    with pytest.raises(BowerbirdError, match="choose from"):
        claims.load(["cold-fusion"])


def test_the_claim_about_likelihood_runs_small(drawn: Pictures, tmp_path: Path) -> None:
    """RARM with and without neighbors over one tokenizer: untrained, both know nothing, and nothing holds."""
    from bowerbird.evaluation import claims
    from bowerbird.evaluation.claims.experiment import Domain, Experiment, Settings

    settings = Settings(seeds=(0, 1), train_steps=1, pictures=6)
    pictures = load_pictures("drawn", size=32)
    how: dict[str, Any] = {"autoencoder": "pixels-2", "in_channels": 12, "label_key": "thing"}
    small = Domain("drawn", pictures, settings, size=32, **how)
    [found] = claims.run(claims.load(["likelihood"]), Experiment(settings, [small], drawn), tmp_path)
    bits = {name: values["mean"] for name, values in found["values"].items()}
    assert set(bits) == {
        "drawn, own neighbors",
        "drawn, another's neighbors",
        "drawn, the same, neighbors dropped",
        "drawn, trained without",
    }
    assert all(8.5 < each < 11 for each in bits.values())  # 512 symbols are 9 bits to a network that knows none
    assert len(set(bits.values())) == 4
    assert found["verdict"] != claim.HOLDS
