"""RARM: it generates things it was never trained on from their neighbors, and not without."""

from __future__ import annotations

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.evaluation.claims.benchmark import Benchmark, encoder_of
from bowerbird.evaluation.claims.claim import Claim, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.rare_named import finding

MODEL = "tiny-rarm"
K = 4
GUIDANCE = 2.0
LABELS = {
    "with": f"four drawings of the thing, scale {GUIDANCE:g}",
    "plain": "the same, unguided",
    "others": "four drawings of another thing",
    "without": "no neighbors",
}


def measure(experiment: Experiment) -> Finding:
    """Top-1 of the judge among the rare entities, from their drawings, another's, and none."""
    model = experiment.model(MODEL)
    benchmark = Benchmark(experiment, encoder=encoder_of(model))
    truth = np.arange(len(benchmark.entities))
    hits = benchmark.with_embeddings(benchmark.search(benchmark.names, K))
    others = hits.rows(np.roll(truth, 1))
    right: dict[str, list[np.ndarray]] = {name: [] for name in LABELS}
    for seed in experiment.settings.seeds:

        def named(given: Neighbors, scale: float, seed: int = seed) -> np.ndarray:
            made = benchmark.generate(given, seed, model=model, guidance_scale=scale)
            found: np.ndarray = benchmark.name_entities(made) == truth
            return found

        right["with"].append(named(hits, GUIDANCE))
        right["plain"].append(named(hits, 1.0))
        right["others"].append(named(others, GUIDANCE))
        right["without"].append(named(hits, 0.0))
    notes = (
        f"{len(truth)} entities that no model was trained on; BM25 finds their drawings by name, k = {K}, and the model"
        f" reads the drawings' embeddings alone. Intervals over entities. {benchmark.describe_judges()}"
    )
    return finding(right, LABELS, "with its drawings as neighbors", "without neighbors", "with another's", notes)


CLAIM = Claim(
    name="rarm-rare",
    says="An autoregressive model generates rare things from their neighbors, and hardly any without.",
    source="RDM, arXiv 2204.11824, section 4.3, for its autoregressive half",
    varies="neighbors: drawings of the thing, of another, or none",
    measures="share of pictures that an independent judge names as the thing, among the rare ones",
    measure=measure,
    models=(MODEL,),
)
