"""Re-Imagen, claim 11: more neighbors at inference make rare things more faithful."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import Benchmark, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment

KS = (1, 2, 3, 4)


def measure(experiment: Experiment) -> Finding:
    """Top-1 of the judge for k = 1 to 4 drawings of the entity, drawn at random without replacement for each entity
    and seed."""
    benchmark = Benchmark(experiment)
    rows = [list(benchmark.rows_of(entity).values()) for entity in benchmark.entities]
    used = np.array([i for i, own in enumerate(rows) if len(own) >= max(KS)])
    if len(used) < 2:
        raise BowerbirdError(
            f"this claim needs two rare entities with {max(KS)} drawings each; the data has {len(used)}"
        )
    names = [benchmark.names[i] for i in used]
    right: dict[int, list[np.ndarray]] = {k: [] for k in KS}
    for seed in experiment.settings.seeds:
        drawn = np.array(
            [
                seeds.numpy_generator(seed, "drawings", benchmark.entities[i]).permutation(rows[i])[: max(KS)]
                for i in used
            ]
        )
        for k in KS:
            right[k].append(
                benchmark.name_entities(benchmark.generate(benchmark.neighbors_at(names, drawn[:, :k]), seed)) == used
            )
    found = {k: per_entity(values) for k, values in right.items()}
    gain = [b.astype(float) - a for a, b in zip(right[min(KS)], right[max(KS)], strict=True)]
    effects = [Effect(f"top-1, k = {max(KS)} − k = {min(KS)}", per_entity(gain))]
    lines = {"top-1 of the judge": [(float(k), e.mean, e.low, e.high) for k, e in found.items()]}
    plot = partial(
        plots.curves, lines=lines, title="Rare entities named, by neighbors", x="k at inference", y="share of pictures"
    )
    notes = (
        f"{len(used)} rare entities with {max(KS)} drawings or more, asked for by name; trained with k of 1 and 2."
        f" {benchmark.describe_judges()}"
    )
    return Finding(effects, {f"k = {k}": asdict(value) for k, value in found.items()}, notes, plot)


CLAIM = Claim(
    name="how-many",
    says="Faithfulness to rare entities rises with the number of neighbors from 1 to 4.",
    source="Re-Imagen, arXiv 2209.14491, section 5.4",
    varies="k at inference",
    measures="share of pictures that an independent judge names as the entity of the prompt, among the rare ones",
    measure=measure,
)
