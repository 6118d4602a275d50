"""Re-Imagen, claim 10: eta trades the text for the entity, and balanced guidance does better than joint."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from bowerbird.diffusion.guidance import Guidance
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import TRAINED_STYLES, Benchmark, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.metrics.intervals import Estimate

ENTITIES = 40
SCALE = 4.0
ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
JOINT = (1.0, 2.0, 4.0, 8.0)


def measure(experiment: Experiment) -> Finding:
    """Prompts that name another style than the one neighbor's: is it the entity, is it the style, for every
    balance."""
    benchmark = Benchmark(experiment)
    drawn = [benchmark.rows_of(entity) for entity in benchmark.entities]
    used = np.array(benchmark.sample([i for i, have in enumerate(drawn) if len(have) > 1], ENTITIES))
    wanted = [TRAINED_STYLES[n % len(TRAINED_STYLES)] for n in range(len(used))]
    others = [sorted(set(drawn[i]) - {style}) for i, style in zip(used, wanted, strict=True)]
    own = [styles[n % len(styles)] for n, styles in enumerate(others)]  # the neighbor's style: never the prompt's
    prompts = [f"{benchmark.names[i]}, {style} style" for i, style in zip(used, wanted, strict=True)]
    hits = benchmark.neighbors_at(prompts, np.array([[drawn[i][style]] for i, style in zip(used, own, strict=True)]))
    forms = [(kind, eta, Guidance(kind, SCALE, SCALE, eta)) for kind in ("interleaved", "weighted") for eta in ETAS]
    forms += [("joint", scale, Guidance("joint", scale)) for scale in JOINT]
    entity: dict[tuple[str, float], list[np.ndarray]] = {}
    style: dict[tuple[str, float], list[np.ndarray]] = {}
    kept: dict[tuple[str, float], list[np.ndarray]] = {}
    for kind, value, guidance in forms:
        for seed in experiment.settings.seeds:
            images = benchmark.generate(hits, seed, guidance)
            seen = benchmark.name_styles(images)
            entity.setdefault((kind, value), []).append(benchmark.name_entities(images) == used)
            style.setdefault((kind, value), []).append(seen == np.array(wanted))
            kept.setdefault((kind, value), []).append(seen == np.array(own))
    both = {key: [e & s for e, s in zip(entity[key], style[key], strict=True)] for key in entity}

    def between(
        values: dict[tuple[str, float], list[np.ndarray]], a: tuple[str, float], b: tuple[str, float]
    ) -> Estimate:
        return per_entity([x.astype(float) - y for x, y in zip(values[a], values[b], strict=True)])

    effects = []
    for kind in ("interleaved", "weighted"):
        effects.append(Effect(f"{kind}: style of the prompt, eta 1 − eta 0", between(style, (kind, 1.0), (kind, 0.0))))
        effects.append(Effect(f"{kind}: entity named, eta 0 − eta 1", between(entity, (kind, 0.0), (kind, 1.0))))
        effects.append(
            Effect(
                f"{kind}: style of the neighbor, eta 0 − eta 1", between(kept, (kind, 0.0), (kind, 1.0)), needed=False
            )
        )
        effects.append(
            Effect(
                f"{kind} at eta 1/2 − joint at the same weight: entity and style both right",
                between(both, (kind, 0.5), ("joint", SCALE)),
            )
        )
    lines = {
        kind: [
            (e.mean, s.mean, s.low, s.high)
            for (k, _), e, s in ((key, per_entity(entity[key]), per_entity(style[key])) for key in entity)
            if k == kind
        ]
        for kind in ("interleaved", "weighted", "joint")
    }
    plot = partial(
        plots.curves, lines=lines, title="Text against entity, by guidance", x="entity named", y="style of the prompt"
    )
    values = {
        f"{kind} {value:g}": {
            "entity": asdict(per_entity(entity[kind, value])),
            "style": asdict(per_entity(style[kind, value])),
            "neighbor's style": asdict(per_entity(kept[kind, value])),
            "both": asdict(per_entity(both[kind, value])),
        }
        for kind, value in entity
    }
    ahead = sorted(
        f"{kind} {value:g}"
        for kind, value in entity
        if kind != "joint"
        and any(
            np.mean(entity[kind, value]) >= np.mean(entity["joint", w])
            and np.mean(style[kind, value]) >= np.mean(style["joint", w])
            and np.mean(both[kind, value]) > np.mean(both["joint", w])
            for w in JOINT
        )
    )
    notes = (
        f"{len(used)} rare entities drawn at random, one neighbor in another style than the prompt names, k = 1,"
        f" weights {SCALE:g}; joint at weights {', '.join(f'{w:g}' for w in JOINT)}. Not behind some joint point in"
        f" entity and in style (point estimates): {', '.join(ahead) or 'none'}. {benchmark.describe_judges()}"
    )
    return Finding(effects, values, notes, plot)


CLAIM = Claim(
    name="balance",
    says="eta trades text for entity; interleaved and weighted guidance give a better balance than joint guidance.",
    source="Re-Imagen, arXiv 2209.14491, sections 3.3 and 5.4",
    varies="the form of guidance, eta, and the weight of joint guidance",
    measures=(
        "shares of pictures named as the entity, and seen in the style, that the prompt asks for, by independent judges"
    ),
    measure=measure,
)
