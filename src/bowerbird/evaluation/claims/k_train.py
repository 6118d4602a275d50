"""RDM, claim 4: training with more neighbors trades precision for recall."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Domain, Experiment
from bowerbird.evaluation.metrics.intervals import over_seeds
from bowerbird.evaluation.metrics.manifold import manifold

K = (1, 4, 16)


def measure(experiment: Experiment) -> Finding:
    """Precision and recall of networks trained and used with 1, 4 and 16 neighbors."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for domain in experiment.domains:
        found = {k: [_shape(domain, k, seed) for seed in experiment.settings.seeds] for k in K}
        by = {
            name: {k: [row[i] for row in rows] for k, rows in found.items()}
            for i, name in enumerate(("precision", "recall"))
        }
        few, many = K[0], K[-1]
        precision = [a - b for a, b in zip(by["precision"][few], by["precision"][many], strict=True)]
        recall = [b - a for a, b in zip(by["recall"][few], by["recall"][many], strict=True)]
        effects += [
            Effect(f"{domain.name}: precision at k = {few} − at k = {many}", over_seeds(precision)),
            Effect(f"{domain.name}: recall at k = {many} − at k = {few}", over_seeds(recall)),
        ]
        for name, rows in by.items():
            lines[f"{domain.name}, {name}"] = [
                (k, e.mean, e.low, e.high) for k, seen in rows.items() for e in [over_seeds(seen)]
            ]
            values |= {
                f"{domain.name}, {name}, k = {k}": {"by seed": seen, **asdict(over_seeds(seen))}
                for k, seen in rows.items()
            }
    title = "Neighbors in training and sampling"
    return Finding(
        effects, values, plot=partial(plots.curves, lines=lines, title=title, x="k", y="share of pictures", log=True)
    )


def _shape(domain: Domain, k: int, seed: int) -> tuple[float, float]:
    hits = domain.database(seed).sample(domain.settings.pictures, k, seed=seed)
    made = domain.features(domain.model(seed, k=k), hits, seed=seed)
    shape = manifold(made, domain.real, k=3)
    return shape.precision, shape.recall


CLAIM = Claim(
    name="k-train",
    says="More neighbors in training trade precision for recall.",
    source="RDM, arXiv 2204.11824, section 4.1 and appendix",
    varies="k in training, and the same k at sampling",
    measures="precision and recall (k = 3 balls) of unconditional samples (x̃ ~ p_D) against held-out pictures",
    measure=measure,
)
