"""RA-CM3: it generates things it was never trained on from documents that show them, and not from their names."""

from __future__ import annotations

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.diffusion.guidance import Guidance
from bowerbird.evaluation.claims.benchmark import Benchmark
from bowerbird.evaluation.claims.claim import Claim, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.rare_named import finding

MODEL = "tiny-racm3"
K = 2
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
    notes = (
        f"{len(truth)} entities that no model was trained on, asked for by name; BM25 finds their documents, k = {K}."
        f" The model's usual guidance and sampling. Intervals over entities. {benchmark.describe_judges()}"
    )
    return finding(right, LABELS, "with documents of the thing", "without documents", "of another", notes)


CLAIM = Claim(
    name="racm3-rare",
    says="A decoder with retrieved documents in its prompt generates rare things, and hardly any without.",
    source="RA-CM3, arXiv 2211.12561 (knowledge-intensive generation)",
    varies="documents: two drawings of the thing with its name, two of another thing, or none",
    measures="share of pictures that an independent judge names as the thing, among the rare ones",
    measure=measure,
    models=(MODEL,),
)
