"""Re-Imagen, claim 11: more neighbours at inference make rare things more faithful."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from bowerbird import plots
from bowerbird.claims.bench import Bench
from bowerbird.claims.frame import Claim, Effect, Finding
from bowerbird.claims.lab import Lab

KS = (1, 2, 3, 4)


def measure(lab: Lab) -> Finding:
    """Top-1 of the judge for k = 1 to 4 neighbours, in training 1 or 2; the found drawings are a random order's first k."""
    bench = Bench(lab)
    truth = np.arange(len(bench.entities))
    right: dict[int, list[np.ndarray]] = {k: [] for k in KS}
    for seed in lab.settings.seeds:
        hits = bench.found(bench.names, max(KS))
        order = np.random.default_rng(seed).permutation(max(KS))
        shuffled = hits.select(order.tolist())
        for k in KS:
            right[k].append(bench.named(bench.paint(shuffled.select(list(range(k))), seed)) == truth)
    found = {k: bench.per_entity(values) for k, values in right.items()}
    gain = [b.astype(float) - a for a, b in zip(right[min(KS)], right[max(KS)], strict=True)]
    effects = [Effect(f"top-1, k = {max(KS)} − k = {min(KS)}", bench.per_entity(gain))]
    lines = {"top-1 of the judge": [(float(k), e.mean, e.low, e.high) for k, e in found.items()]}
    plot = partial(plots.curves, lines=lines, title="Rare entities named, by neighbours", x="k at inference", y="share of pictures")
    notes = f"{len(truth)} rare entities asked for by name; trained with k of 1 and 2. The judge names {bench.real():.0%} of the real drawings."
    return Finding(effects, {f"k = {k}": asdict(value) for k, value in found.items()}, notes, plot)


CLAIM = Claim(
    name="how-many",
    says="Faithfulness to rare entities rises with the number of neighbours from 1 to 4.",
    source="Re-Imagen, arXiv 2209.14491, section 5.4",
    varies="k at inference",
    measures="share of pictures that an independent evaluator names as the entity of the prompt, among the rare ones",
    measure=measure,
)
