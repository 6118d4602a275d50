"""RDM, claim 3: pseudo-queries from p_D beat uniform ones; keeping its top m trades diversity for fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Database, Domain, Experiment
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds
from bowerbird.evaluation.metrics.manifold import manifold

TOP_M = (1.0, 0.3, 0.1, 0.03)
MEASURES = ("distance", "precision", "recall")


NOTE = (
    "p_D says which part of a general database looks like the training data. Where D is a random half of that data"
    " there is nothing to say, and uniform draws are as good (context); where another domain's pictures lie in D too,"
    " as OpenImages beside ImageNet in the paper, it matters."
)


def measure(experiment: Experiment) -> Finding:
    """Unconditional samples for uniform pseudo-queries and for p_D at several m."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for domain in experiment.domains:
        found = [_by_share(domain, domain.database(seed), (None, *TOP_M), seed) for seed in experiment.settings.seeds]
        by = {m: {name: [row[m][name] for row in found] for name in MEASURES} for m in (None, *TOP_M)}

        def gap(
            name: str, more: float | None, less: float | None, by: dict[float | None, dict[str, list[float]]] = by
        ) -> list[float]:
            return [a - b for a, b in zip(by[more][name], by[less][name], strict=True)]

        first, narrow = TOP_M[0], TOP_M[-1]
        effects += [
            Effect(
                f"{domain.name}: distance of uniform − of p_D, D like X",
                over_seeds(gap("distance", None, first)),
                False,
            ),
            Effect(
                f"{domain.name}: precision of top {narrow:.0%} − of all of p_D",
                over_seeds(gap("precision", narrow, first)),
            ),
            Effect(
                f"{domain.name}: recall of all of p_D − of top {narrow:.0%}", over_seeds(gap("recall", first, narrow))
            ),
            *(
                Effect(
                    f"{domain.name}: distance of uniform − of p_D top {m:.0%}",
                    over_seeds(gap("distance", None, m)),
                    False,
                )
                for m in TOP_M[1:]
            ),
        ]
        for other in experiment.domains:
            if other is not domain:
                rows = [
                    _by_share(domain, domain.merge_databases(other, seed), (None, first), seed)
                    for seed in experiment.settings.seeds
                ]
                mixed = {m: [row[m]["distance"] for row in rows] for m in (None, first)}
                gain = over_seeds([a - b for a, b in zip(mixed[None], mixed[first], strict=True)])
                effects.append(
                    Effect(f"{domain.name}: distance of uniform − of p_D, D with {other.name}'s D in it", gain)
                )
                for m, seen in mixed.items():
                    values[f"{domain.name}, D with {other.name}'s, {'uniform' if m is None else 'p_D'}"] = {
                        "by seed": seen,
                        **asdict(over_seeds(seen)),
                    }
        for m, measured in by.items():
            label = "uniform" if m is None else f"top {m:.0%}"
            values[f"{domain.name}, {label}"] = {
                name: {"by seed": seen, **asdict(over_seeds(seen))} for name, seen in measured.items()
            }
        for name in ("precision", "recall"):
            lines[f"{domain.name}, {name}"] = [
                (m, e.mean, e.low, e.high) for m in TOP_M for e in [over_seeds(by[m][name])]
            ]
    title = "What the top fraction of p_D trades"
    return Finding(
        effects,
        values,
        NOTE,
        plot=partial(plots.curves, lines=lines, title=title, x="m", y="share of pictures", log=True),
    )


def _by_share(
    domain: Domain, database: Database, shares: Sequence[float | None], seed: int
) -> dict[float | None, dict[str, float]]:
    """The measures at each fraction of p_D, from one database: opening one is the slow part."""
    return {m: _measures(domain, database, m, seed) for m in shares}


def _measures(domain: Domain, database: Database, top_m: float | None, seed: int) -> dict[str, float]:
    hits = database.sample(domain.settings.pictures, 4, seed=seed, top_m=top_m)
    made = domain.features(domain.model(seed), hits, seed=seed)
    shape = manifold(made, domain.real, k=3)
    return {"distance": frechet_distance(made, domain.real), "precision": shape.precision, "recall": shape.recall}


CLAIM = Claim(
    name="proposal",
    says=(
        "Pseudo-queries drawn from p_D beat uniform ones, and keeping only the top m of p_D trades diversity for"
        " fidelity."
    ),
    source="RDM, arXiv 2204.11824, sections 3.3 and 4.2",
    varies=(
        "pseudo-queries: uniform over D, p_D, its most frequent fraction m; D alone, and with the other domain's D"
        " in it"
    ),
    measures="Fréchet distance, precision and recall (k = 3) against held-out pictures",
    measure=measure,
)
