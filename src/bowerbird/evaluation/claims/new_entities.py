"""KNN-Diffusion, claim 7: it generates new things once they are in the database, without training."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import Benchmark, per_entity, temporary_knowledge_base, write_table
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.metrics.intervals import Estimate
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.systems import loading
from bowerbird.systems.queries import Request

MODELS = ("tiny-knn", "tiny-rdm")
K = 4
STAGES = ("before", "after", "removed again")


def measure(experiment: Experiment) -> Finding:
    """One knowledge base without the rare entities, then with them, then without again; the same prompts and weights
    throughout."""
    benchmark = Benchmark(experiment)
    truth = np.arange(len(benchmark.entities))
    rare = [i for i, m in enumerate(experiment.drawings.metadata) if m.get("split") == "rare"]
    others = sorted(set(range(len(experiment.drawings))) - set(rare))
    found: dict[str, dict[str, Neighbors]] = {}
    with temporary_knowledge_base(experiment.drawings.select(others)) as kb:
        new = write_table(experiment.drawings.select(rare), Path(kb.path).parent / "new.parquet")
        found["before"] = _retrieve(kb, benchmark)
        start = time.perf_counter()
        kb.add(str(new))
        seconds = time.perf_counter() - start
        found["after"] = _retrieve(kb, benchmark)
        kb.remove(where="split = 'rare'")
        found["removed again"] = _retrieve(kb, benchmark)
    back = all(np.array_equal(found["before"][model].ids, found["removed again"][model].ids) for model in MODELS)
    right: dict[tuple[str, str], list[np.ndarray]] = {}
    among_all: dict[tuple[str, str], list[np.ndarray]] = {}
    codes = np.array([benchmark.judge.entities.index(code) for code in benchmark.entities])
    for seed in experiment.settings.seeds:
        for model in MODELS:
            for stage in STAGES:
                images = benchmark.generate(found[stage][model], seed, model=model)
                right.setdefault((model, stage), []).append(benchmark.name_entities(images) == truth)
                among_all.setdefault((model, stage), []).append(
                    benchmark.judge(benchmark.judge.prepare(images))[1].argmax(1).numpy() == codes
                )

    def gain(model: str) -> Estimate:
        return per_entity(
            [b.astype(float) - a for a, b in zip(right[model, "before"], right[model, "after"], strict=True)]
        )

    own = np.array(
        [
            [m.get("hexcode") == code for m in row]
            for code, row in zip(benchmark.entities, found["after"][MODELS[1]].metadata, strict=True)
        ]
    )
    effects = [
        Effect("top-1, after adding the drawings − before", gain(MODELS[0])),
        Effect("the same for RDM", gain(MODELS[1]), needed=False),
    ]
    values: dict[str, Any] = {
        f"{model}, {stage}": asdict(per_entity(right[model, stage])) for model in MODELS for stage in STAGES
    }
    rows = [(name, value["mean"], value["low"], value["high"]) for name, value in values.items()]
    values |= {
        f"{model}, {stage}, named among all entities": asdict(per_entity(among_all[model, stage]))
        for model in MODELS
        for stage in STAGES
    }
    plot = partial(plots.intervals, rows=rows, title="Rare entities that the judge names", label="share of pictures")
    notes = (
        f"{len(truth)} entities that no model was trained on, asked for by name, hybrid search, k = {K}, in a knowledge"
        f" base of {len(others)} other drawings; adding their {len(rare)} drawings took {seconds:.0f} s, and no weight"
        f" changed. Of the neighbors found then, {own.mean():.0%} are of the thing itself. With them removed again,"
        f" every search finds {'the same items as' if back else 'OTHER items than'} before. The judge chooses among the"
        f" rare entities; among all {len(benchmark.judge.entities)} it is stricter, as the values show."
        f" {benchmark.describe_judges()}"
    )
    return Finding(effects, values, notes, plot)


def _retrieve(kb: KnowledgeBase, benchmark: Benchmark) -> dict[str, Neighbors]:
    """What each model retrieves for the names."""
    request = Request(prompts=tuple(benchmark.names), k=K, allow_no_neighbors=True)
    return {model: loading.open_pipeline(model).retrieve(request, kb) for model in MODELS}


CLAIM = Claim(
    name="new-entities",
    says="New things work as soon as they are in the database, without training.",
    source="KNN-Diffusion, arXiv 2204.02849, sections 1 and 4.3",
    varies="the database: without the rare entities, with them, without them again",
    measures="share of pictures that an independent judge names as the thing asked for, among the rare ones",
    measure=measure,
)
