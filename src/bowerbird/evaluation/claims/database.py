"""RDM, claim 2: larger and better-matched databases generate better pictures, without training again."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Database, Domain, Experiment
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds

SHARES = (1.0, 0.1, 0.01)


def measure(experiment: Experiment) -> Finding:
    """The same queries (pictures of X) answered by all of D, by parts of it, and by the other domain's D."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for domain in experiment.domains:
        by_share = {share: experiment.each_seed(partial(_of_share, domain, share)) for share in SHARES}
        whole, least = by_share[SHARES[0]], by_share[SHARES[-1]]
        effects.append(
            Effect(
                f"{domain.name}: distance with 1% − with all of D",
                over_seeds([b - a for a, b in zip(whole, least, strict=True)]),
            )
        )
        tenth = by_share[SHARES[1]]
        effects.append(
            Effect(
                f"{domain.name}: distance with 10% − with all of D",
                over_seeds([b - a for a, b in zip(whole, tenth, strict=True)]),
                False,
            )
        )
        estimates = {share: over_seeds(found) for share, found in by_share.items()}
        values |= {
            f"{domain.name}, {share:.0%} of D": {"by seed": by_share[share], **asdict(e)}
            for share, e in estimates.items()
        }
        lines[domain.name] = [(share, e.mean, e.low, e.high) for share, e in estimates.items()]
        for other in experiment.domains:
            if other is not domain:
                foreign = experiment.each_seed(partial(_of_other, domain, other))
                gain = over_seeds([b - a for a, b in zip(whole, foreign, strict=True)])
                effects.append(Effect(f"{domain.name}: distance with {other.name}'s D − with its own", gain))
                values[f"{domain.name} with {other.name}'s D"] = {"by seed": foreign, **asdict(over_seeds(foreign))}
    title = "Size of the database at inference"
    plot = partial(plots.curves, lines=lines, title=title, x="share of D", y="Fréchet distance", log=True)
    return Finding(effects, values, plot=plot)


def _of_share(domain: Domain, share: float, seed: int) -> float:
    database = domain.database(seed)
    part = database if share == 1.0 else database.subset(max(8, round(share * len(database.embeddings))), seed=seed)
    return _distance(domain, part, seed)


def _of_other(domain: Domain, other: Domain, seed: int) -> float:
    return _distance(domain, other.database(seed), seed)


def _distance(domain: Domain, database: Database, seed: int) -> float:
    hits = database.nearest(domain.queries(seed, domain.settings.pictures), 4)
    return frechet_distance(domain.features(domain.model(seed), hits, seed=seed), domain.real)


CLAIM = Claim(
    name="database",
    says="Larger databases, and databases nearer to the data, give better pictures.",
    source="RDM, arXiv 2204.11824, section 4.1",
    varies="the database at inference: all of D, random parts of it, another domain's D",
    measures="Fréchet distance of pictures generated from the neighbors of pictures of X, to held-out pictures",
    measure=measure,
)
