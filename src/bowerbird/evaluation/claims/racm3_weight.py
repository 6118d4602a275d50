"""RA-CM3: learning retrieved documents a little, with weight 0.1 in the loss, beats not at all and as much as the
target."""

from __future__ import annotations

from functools import partial
from typing import Any

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.racm3_networks import Measured, by_seed, open_trained
from bowerbird.evaluation.metrics.intervals import over_seeds

K = 2
USUAL = 0.1
WEIGHTS = (0.0, USUAL, 1.0)


def measure(experiment: Experiment) -> Finding:
    """Bits of held-out pictures by decoders trained with each weight."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    rows = []
    for domain in experiment.domains:
        measured = Measured(domain)
        hits = measured.documents(K)
        found: dict[float, list[float]] = {}
        for weight in WEIGHTS:
            name = "usual" if weight == USUAL else f"weight-{weight:g}"
            found[weight] = [
                measured.code_bits(open_trained(domain, seed, name, retrieved_weight=weight), hits)
                for seed in experiment.settings.seeds
            ]
        for weight in (WEIGHTS[0], WEIGHTS[-1]):
            less = over_seeds([a - b for a, b in zip(found[weight], found[USUAL], strict=True)])
            effects.append(Effect(f"{domain.name}: bits a code, weight {weight:g} − weight {USUAL:g}", less))
        for weight in WEIGHTS:
            value = by_seed(found[weight])
            values[f"{domain.name}, weight {weight:g}"] = value
            rows.append((f"{domain.name}, weight {weight:g}", value["mean"], value["low"], value["high"]))
    plot = partial(plots.intervals, rows=rows, title="Weight of documents in the loss", label="bits a code")
    return Finding(effects, values, plot=plot)


CLAIM = Claim(
    name="racm3-weight",
    says="Retrieved documents are best learned with a weight of 0.1 beside the target's 1.",
    source="RA-CM3, arXiv 2211.12561, section 3.3 and its ablation",
    varies="the weight of retrieved documents in the loss: 0, 0.1, 1; steps, sequences and seeds alike",
    measures="exact bits a code of held-out pictures given their captions and two documents",
    measure=measure,
)
