"""RA-CM3: it generates things it was never trained on from documents that show them, and not from their names."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.diffusion.guidance import Guidance
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import Benchmark, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.metrics.intervals import Estimate

MODEL = "tiny-racm3"
K = 2
LEAST, MOST = 0.70, 0.03
"""Of the pictures with documents at least so many are to be named as the thing, without at most."""
LABELS = {"with": "two documents of the thing", "others": "two of another thing", "without": "no documents"}


def measure(experiment: Experiment) -> Finding:
    """Top-1 of the judge among the rare entities, by name, with documents of the thing, of another, and none."""
    benchmark, model = Benchmark(experiment), experiment.model(MODEL)
    truth = np.arange(len(benchmark.entities))
    usual = Guidance.from_scale(benchmark.pipeline(model).defaults.guidance_scale)
    found_by_name = benchmark.search(benchmark.names, K)
    arms = {
        "with": found_by_name,
        "others": benchmark.neighbors_at(benchmark.names, np.roll(found_by_name.ids, 1, axis=0)),
        "without": benchmark.search(benchmark.names, 0),
    }

    def named(hits: Neighbors, seed: int) -> np.ndarray:
        images = benchmark.generate(hits, seed, usual, model=model)
        found: np.ndarray = (benchmark.name_entities(images) == truth).astype(float)
        return found

    right = {name: [named(hits, seed) for seed in experiment.settings.seeds] for name, hits in arms.items()}
    found = {name: per_entity(values) for name, values in right.items()}

    def difference(a: str, b: str) -> Estimate:
        return per_entity([x - y for x, y in zip(right[a], right[b], strict=True)])

    effects = [
        Effect("top-1, with documents of the thing − without documents", difference("with", "without")),
        Effect(f"top-1, with documents of the thing − {LEAST:.0%}", per_entity([x - LEAST for x in right["with"]])),
        Effect(f"{MOST:.0%} − top-1 without documents", per_entity([MOST - x for x in right["without"]])),
        Effect("top-1, with documents of the thing − of another", difference("with", "others"), needed=False),
    ]
    rows = [(label, found[name].mean, found[name].low, found[name].high) for name, label in LABELS.items()]
    plot = partial(plots.intervals, rows=rows, title="Rare entities that the judge names", label="share of pictures")
    notes = (
        f"{len(truth)} entities that no model was trained on, asked for by name; BM25 finds their documents, k = {K}."
        f" The model's usual guidance and sampling. Intervals over entities. {benchmark.describe_judges()}"
    )
    return Finding(effects, {label: asdict(found[name]) for name, label in LABELS.items()}, notes, plot)


CLAIM = Claim(
    name="racm3-rare",
    says="A decoder with retrieved documents in its prompt generates rare things, and hardly any without.",
    source="RA-CM3, arXiv 2211.12561, section 4.4 (knowledge-intensive generation)",
    varies="documents: two drawings of the thing with its name, two of another thing, or none",
    measures="share of pictures that an independent judge names as the thing, among the rare ones",
    measure=measure,
    models=(MODEL,),
)
