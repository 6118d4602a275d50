"""RA-CM3: dropping words of the query, and skipping documents over 0.9 similarity, help training."""

from __future__ import annotations

from functools import partial
from typing import Any

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.racm3_networks import Measured, by_seed, open_trained
from bowerbird.evaluation.metrics.intervals import over_seeds

K = 2
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "both": ("usual", {}),
    "no word dropped": ("whole-queries", {"query_dropout": 0.0}),
    "nothing skipped": ("no-limit", {"max_similarity": None}),
}


def measure(experiment: Experiment) -> Finding:
    """Bits of held-out pictures by decoders trained with both, and without each."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    rows = []
    for domain in experiment.domains:
        measured = Measured(domain)
        hits = measured.documents(K)
        found = {
            label: [
                measured.code_bits(open_trained(domain, seed, name, **changes), hits)
                for seed in experiment.settings.seeds
            ]
            for label, (name, changes) in ARMS.items()
        }
        for label, bits in found.items():
            value = by_seed(bits)
            values[f"{domain.name}, {label}"] = value
            rows.append((f"{domain.name}, {label}", value["mean"], value["low"], value["high"]))
            if label != "both":
                less = over_seeds([a - b for a, b in zip(bits, found["both"], strict=True)])
                effects.append(Effect(f"{domain.name}: bits a code, {label} − both", less))
    plot = partial(plots.intervals, rows=rows, title="What training leaves out of queries and documents", label="bits")
    return Finding(effects, values, NOTE, plot)


NOTE = "Every network is measured on the same documents, of which none is over 0.9 similar to the picture or another."
CLAIM = Claim(
    name="racm3-training",
    says="Dropping a fifth of a query's words and skipping documents that are too similar both help training.",
    source="RA-CM3, arXiv 2211.12561, section 3.2 and its ablation",
    varies="words dropped from queries in training; the limit of similarity in training; steps and seeds alike",
    measures="exact bits a code of held-out pictures given their captions and two documents",
    measure=measure,
)
