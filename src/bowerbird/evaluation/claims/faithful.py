"""Re-Imagen, claim 9: it generates rare things faithfully with retrieval, and not without."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import Benchmark, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.entity_draw import TEMPLATES
from bowerbird.evaluation.metrics.intervals import Estimate

K = 2
EACH = 4
"""Pictures of the bare name and a seed, for the best of them."""
RDM = "tiny-rdm"
LABELS = {
    "with": f"Re-Imagen, k = {K}",
    "best": f"best of {EACH}",
    "without": "the same, k = 0",
    "rdm": f"RDM, k = {K}",
    "swapped in": "swapped in: as those",
    "swapped": "swapped in: as prompted",
}


def measure(experiment: Experiment) -> Finding:
    """Top-1 of the judge among the rare entities, every arm on every template: with retrieval, without, with another
    entity's pictures, and RDM."""
    benchmark = Benchmark(experiment)
    truth = np.arange(len(benchmark.entities))
    turned = np.roll(truth, 1)
    right: dict[str, list[np.ndarray]] = {name: [] for name in LABELS}
    for seed in experiment.settings.seeds:
        outcomes: dict[str, list[np.ndarray]] = {name: [] for name in LABELS}
        for template in TEMPLATES:
            prompts = [template.replace("{name}", name) for name in benchmark.names]
            each = EACH if template == TEMPLATES[0] else 1
            hits = benchmark.search(prompts, K)
            named = (
                benchmark.name_entities(benchmark.generate(hits.repeat(each), seed)).reshape(len(truth), each)
                == truth[:, None]
            )
            outcomes["with"].append(named.mean(1))
            if each == EACH:
                outcomes["best"].append(named.any(1))
            outcomes["without"].append(
                benchmark.name_entities(benchmark.generate(benchmark.search(prompts, 0), seed)) == truth
            )
            outcomes["rdm"].append(
                benchmark.name_entities(benchmark.generate(benchmark.with_embeddings(hits), seed, model=RDM)) == truth
            )
            swapped = benchmark.name_entities(benchmark.generate(_of_others(benchmark, prompts, turned), seed))
            outcomes["swapped"].append(swapped == truth)
            outcomes["swapped in"].append(swapped == turned)
        for name, values in outcomes.items():
            right[name].append(np.mean(values, axis=0))
    found = {name: per_entity(values) for name, values in right.items()}

    def difference(a: str, b: str) -> Estimate:
        return per_entity([x - y for x, y in zip(right[a], right[b], strict=True)])

    effects = [
        Effect("top-1, with retrieval − the same network without", difference("with", "without")),
        Effect("top-1, Re-Imagen − RDM, same prompts and drawings", difference("with", "rdm")),
        Effect(
            "another entity's drawings swapped in: share named as that one − as the one prompted",
            difference("swapped in", "swapped"),
            needed=False,
        ),
    ]
    rows = [(label, found[name].mean, found[name].low, found[name].high) for name, label in LABELS.items()]
    plot = partial(plots.intervals, rows=rows, title="Rare entities that the judge names", label="share of pictures")
    notes = (
        f"{len(truth)} entities that no model was trained on, {len(TEMPLATES)} templates ({EACH} pictures of the bare"
        f" name, for the best of them), intervals over entities. {benchmark.describe_judges()} The database"
        f" holds their drawings in every style; BM25 finds them by name, k = {K}. RDM gets the same ones as embeddings."
    )
    return Finding(effects, {label: asdict(found[name]) for name, label in LABELS.items()}, notes, plot)


def _of_others(benchmark: Benchmark, prompts: list[str], other: np.ndarray) -> Neighbors:
    """The drawings of entity `other[i]`, labeled as what prompt i asks for."""
    hits = benchmark.search([benchmark.names[i] for i in other], K)
    return replace(hits, queries=tuple(prompts), captions=tuple((name,) * K for name in benchmark.names))


CLAIM = Claim(
    name="faithful",
    says="With retrieval the model generates rare entities faithfully; the same network without it does not.",
    source="Re-Imagen, arXiv 2209.14491, section 5.3 (EntityDrawBench)",
    varies="neighbors: two found by name, none, another entity's; and RDM with the same two",
    measures="share of pictures that an independent judge names as the entity of the prompt, among the rare ones",
    measure=measure,
)
