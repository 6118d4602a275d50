"""Re-Imagen, claim 12: an in-domain database serves better than one of another domain, and either better than none."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import TRAINED_STYLES, UNSEEN_STYLE, Benchmark
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds

PROMPTS = 200
NAMES = ("in domain", "another domain", "none")


def measure(experiment: Experiment) -> Finding:
    """Fréchet distance to the real drawings of the rare entities, prompts naming entity and style, by database; lower
    is better."""
    benchmark = Benchmark(experiment)
    drawings = benchmark.drawings
    rows = benchmark.sample([i for i, style in enumerate(drawings.column("style")) if style in TRAINED_STYLES], PROMPTS)
    real = benchmark.judge(drawings.pixels[rows])[0].numpy()
    styles = [drawings.column("style")[i] for i in rows]
    prompts = [f"{drawings.captions[i]}, {style} style" for i, style in zip(rows, styles, strict=True)]
    truth = np.array([benchmark.entities.index(drawings.column("hexcode")[i]) for i in rows])
    hits = {
        "in domain": benchmark.search(prompts, 1, styles=TRAINED_STYLES, leave_out=styles),
        "another domain": benchmark.search(prompts, 1, styles=(UNSEEN_STYLE,)),
        "none": benchmark.search(prompts, 0),
    }
    distance: dict[str, list[float]] = {name: [] for name in NAMES}
    named: dict[str, list[float]] = {name: [] for name in NAMES}
    for seed in experiment.settings.seeds:
        for name in NAMES:
            images = benchmark.generate(hits[name], seed)
            distance[name].append(frechet_distance(benchmark.judge(benchmark.judge.prepare(images))[0].numpy(), real))
            named[name].append(float((benchmark.name_entities(images) == truth).mean()))

    def gap(a: str, b: str) -> list[float]:
        return [y - x for x, y in zip(distance[a], distance[b], strict=True)]

    effects = [
        Effect("Fréchet distance, another domain − in domain", over_seeds(gap("in domain", "another domain"))),
        Effect("Fréchet distance, none − in domain", over_seeds(gap("in domain", "none"))),
        Effect("Fréchet distance, none − another domain", over_seeds(gap("another domain", "none"))),
        Effect(
            "entity named, another domain − none",
            over_seeds([a - b for a, b in zip(named["another domain"], named["none"], strict=True)]),
            needed=False,
        ),
    ]
    found = {name: over_seeds(distance[name]) for name in NAMES}
    plot = partial(
        plots.intervals,
        rows=[(n, e.mean, e.low, e.high) for n, e in found.items()],
        title="Distance to real drawings, by database",
        label="Fréchet",
    )
    values = {
        name: {"frechet distance": asdict(found[name]), "entity named": asdict(over_seeds(named[name]))}
        for name in NAMES
    }
    notes = (
        f"{len(rows)} prompts on rare entities, k = 1. In domain: drawings in the other trained styles, never the"
        f" drawing asked for; another domain: {UNSEEN_STYLE} alone, a style never trained on; none: k = 0. The distance"
        " is to drawings in the trained styles, so a picture in its neighbor's own style is far from them however"
        f" right the thing is. {benchmark.describe_judges()}"
    )
    return Finding(effects, values, notes, plot)


CLAIM = Claim(
    name="domain",
    says="A database of the target's domain serves better than one of another domain, and either better than none.",
    source="Re-Imagen, arXiv 2209.14491, table 1 (COCO: 5.25 in domain, 6.88 from LAION, 7.27 without retrieval)",
    varies="the database behind the neighbors",
    measures="Fréchet distance to real drawings in the features of a judge trained on all drawings",
    measure=measure,
)
