"""RDM, claim 1: at equal size and steps, the network that sees neighbors generates nearer to the data than the one that
sees none."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Domain, Experiment
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds

NOTE = (
    "With retrieval, half of the training pictures are mirrored together with their neighbors; without, none is, since"
    " a network that is told nothing would generate mirrored pictures too, which the data does not hold. This favors"
    " the network without retrieval, if either."
)


class Trained(Protocol):
    """The directory of a domain's model that was trained with a seed, with or without neighbors."""

    def __call__(self, domain: Domain, seed: int, /, *, neighbors: bool) -> Path: ...


def measure(experiment: Experiment) -> Finding:
    """RDM, with and without."""
    return compare(experiment, Domain.model, NOTE)


def compare(experiment: Experiment, trained: Trained, notes: str) -> Finding:
    """Fréchet distance to held-out pictures, unconditionally: neighbors of x ~ p_D against the null."""
    effects, values, rows = [], {}, []
    for domain in experiment.domains:
        with_neighbors = experiment.each_seed(partial(_distance, domain, trained, True))
        without = experiment.each_seed(partial(_distance, domain, trained, False))
        effects.append(
            Effect(
                f"{domain.name}: distance without − with retrieval",
                over_seeds([b - a for a, b in zip(with_neighbors, without, strict=True)]),
            )
        )
        effects.append(
            Effect(
                f"{domain.name}: share of the distance taken away",
                over_seeds([1 - a / b for a, b in zip(with_neighbors, without, strict=True)]),
                False,
            )
        )
        for name, found in (("with", with_neighbors), ("without", without)):
            estimate = over_seeds(found)
            values[f"{domain.name} {name} retrieval"] = {"by seed": found, **asdict(estimate)}
            rows.append((f"{domain.name}, {name} retrieval", estimate.mean, estimate.low, estimate.high))
    return Finding(
        effects,
        values,
        notes,
        plot=partial(
            plots.intervals, rows=rows, title="Retrieval against none, equal size and steps", label="Fréchet distance"
        ),
    )


def _distance(domain: Domain, trained: Trained, neighbors: bool, seed: int) -> float:
    hits = domain.database(seed).sample(domain.settings.pictures, 4, seed=seed)
    model = trained(domain, seed, neighbors=neighbors)
    return frechet_distance(
        domain.features(model, hits, seed=seed, guidance_scale=None if neighbors else 0.0), domain.real
    )


CLAIM = Claim(
    name="retrieval-beats-none",
    says="A retrieval-augmented diffusion model beats the same model without retrieval, at equal size and training.",
    source="RDM, arXiv 2204.11824, sections 1 and 4.2",
    varies=(
        "neighbors of the training picture against the trained null; network, pictures, steps and seeds alike (mirror"
        " images: see below)"
    ),
    measures="Fréchet distance of unconditional samples (x̃ ~ p_D) to held-out pictures, on our judge's features",
    measure=measure,
)
