"""RARM: guidance of the logits trades diversity for fidelity."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims import rarm_networks
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Domain, Experiment
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds
from bowerbird.evaluation.metrics.manifold import manifold

SCALES = (1.0, 1.5, 2.0, 3.0)
PRECISION, RECALL, DISTANCE = "precision", "recall", "distance"


def measure(experiment: Experiment) -> Finding:
    """Precision, recall and distance of the same samples at each scale."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    off, most = SCALES[0], SCALES[-1]
    for domain in experiment.domains:
        found = {scale: [_shape(domain, scale, seed) for seed in experiment.settings.seeds] for scale in SCALES}

        def apart(name: str, a: float, b: float, found: dict[float, Any] = found) -> list[float]:
            return [x[name] - y[name] for x, y in zip(found[a], found[b], strict=True)]

        effects += [
            Effect(f"{domain.name}: precision at {most:g} − at {off:g}", over_seeds(apart(PRECISION, most, off))),
            Effect(f"{domain.name}: recall at {off:g} − at {most:g}", over_seeds(apart(RECALL, off, most))),
        ]
        effects += [
            Effect(f"{domain.name}: distance at {off:g} − at {scale:g}", over_seeds(apart(DISTANCE, off, scale)), False)
            for scale in SCALES[1:]
        ]
        for name in (PRECISION, RECALL, DISTANCE):
            by = {scale: [each[name] for each in rows] for scale, rows in found.items()}
            values |= {
                f"{domain.name}, {name}, scale {scale:g}": {"by seed": seen, **asdict(over_seeds(seen))}
                for scale, seen in by.items()
            }
            if name != DISTANCE:
                lines[f"{domain.name}, {name}"] = [
                    (scale, e.mean, e.low, e.high) for scale, seen in by.items() for e in [over_seeds(seen)]
                ]
    title = "Guidance of an autoregressive model"
    return Finding(effects, values, plot=partial(plots.curves, lines=lines, title=title, x="scale", y="share"))


def _shape(domain: Domain, scale: float, seed: int) -> dict[str, float]:
    hits = domain.database(seed).sample(domain.settings.pictures, rarm_networks.K, seed=seed)
    made = domain.features(rarm_networks.model(domain, seed), hits, seed=seed, guidance_scale=scale)
    shape = manifold(made, domain.real, k=3)
    return {PRECISION: shape.precision, RECALL: shape.recall, DISTANCE: frechet_distance(made, domain.real)}


CLAIM = Claim(
    name="rarm-guidance",
    says="Guiding the logits of an autoregressive model by its neighbors trades diversity for fidelity.",
    source="RDM, arXiv 2204.11824, section 3.4 and appendix, for its autoregressive half",
    varies="the guidance scale, 1 to 3; network, neighbors and seeds alike",
    measures="precision and recall (k = 3 balls) of samples (x̃ ~ p_D) against held-out pictures; Fréchet distance",
    measure=measure,
)
