"""How strongly a base attends to its references, and to how many: what is named, and what is copied."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from bowerbird.data.scenes.words import with_article
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import paired, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.grounding import GUIDANCE, MODELS, grounding, likeness
from bowerbird.evaluation.copies.detect import DESCRIPTOR
from bowerbird.evaluation.metrics.intervals import Estimate
from bowerbird.systems.reference_settings import ReferenceSettings

SCALES = (0.3, 0.6, 1.0, 1.4)
"""Beside 0, the base alone."""
LOW, USUAL, TRAINED = 0.3, 0.6, 1.0
KS = (1, 2, 4)
MIDDLE = 2
"""The number of references at which every scale is measured."""
ENTITIES = 50
Arm = tuple[float, int]
"""Scale and number of references."""


def measure(experiment: Experiment) -> Finding:
    """Every scale at one K, every K at one scale; what is generated once serves both lines."""
    arms: list[Arm] = [(0.0, 0), *((scale, MIDDLE) for scale in SCALES)]
    arms += [(TRAINED, k) for k in KS if k != MIDDLE]
    right: dict[Arm, list[np.ndarray]] = {arm: [] for arm in arms}
    alike: dict[Arm, list[np.ndarray]] = {arm: [] for arm in arms if arm[1]}
    with grounding(experiment) as setup:
        chosen = np.array(setup.benchmark.sample(range(len(setup.benchmark.entities)), ENTITIES))
        prompts = [with_article(setup.benchmark.names[i]) for i in chosen]
        found = {k: setup.search(prompts, k) for k in (0, *KS)}
        for seed in experiment.settings.seeds:
            for scale, k in arms:
                images = setup.generate(found[k], seed, how=ReferenceSettings(scale=scale))
                right[scale, k].append((setup.benchmark.name_entities(images) == chosen).astype(float))
                if k:
                    alike[scale, k].append(likeness(images, found[k]))
    estimates = {arm: per_entity(values) for arm, values in right.items()}
    copied = {arm: per_entity(values) for arm, values in alike.items()}
    effects = [
        Effect(f"named: scale {USUAL:g} − {LOW:g}, K = {MIDDLE}", paired(right[USUAL, MIDDLE], right[LOW, MIDDLE])),
        Effect(
            f"named: scale {TRAINED:g} − {USUAL:g}", paired(right[TRAINED, MIDDLE], right[USUAL, MIDDLE]), needed=False
        ),
        Effect(f"named: K = {MIDDLE} − K = 1, scale {TRAINED:g}", paired(right[TRAINED, MIDDLE], right[TRAINED, 1])),
        Effect(f"named: K = {max(KS)} − K = 1", paired(right[TRAINED, max(KS)], right[TRAINED, 1]), needed=False),
        Effect(
            f"likeness to the first reference: scale {TRAINED:g} − {LOW:g}",
            paired(alike[TRAINED, MIDDLE], alike[LOW, MIDDLE]),
            needed=False,
        ),
    ]
    values = {
        _label(arm): {
            "named": asdict(estimates[arm]),
            **({"likeness to the first reference": asdict(copied[arm])} if arm in copied else {}),
        }
        for arm in arms
    }
    lines = {
        f"named, K = {MIDDLE}": [_point(s, estimates[s, k]) for s, k in arms if k == MIDDLE or not k],
        **{f"named, K = {k}": [_point(TRAINED, estimates[TRAINED, k])] for k in KS if k != MIDDLE},
        f"likeness to the first reference, K = {MIDDLE}": [_point(s, copied[s, k]) for s, k in arms if k == MIDDLE],
    }
    title = "Rare entities named, by scale and number of references"
    plot = partial(plots.curves, lines=lines, title=title, x="scale", y="share of pictures, cosine")
    notes = (
        f"{len(prompts)} entities that neither the base nor its adapter was trained on, by name; guidance {GUIDANCE:g},"
        f" {experiment.settings.sampling_steps} steps. Likeness: cosine of the copy descriptor {DESCRIPTOR!r}, of the"
        " picture and the first item found. Intervals over entities."
    )
    return Finding(effects, values, notes, plot)


def _label(arm: Arm) -> str:
    return f"scale {arm[0]:g}, K = {arm[1]}"


def _point(x: float, value: Estimate) -> tuple[float, float, float, float]:
    return x, value.mean, value.low, value.high


CLAIM = Claim(
    name="grounded-scale",
    says="The more a base attends to its references, and the more it has, the more often rare things are named.",
    source="IP-Adapter, arXiv 2308.06721, section 4; Re-Imagen, arXiv 2209.14491, section 5.4, for the number",
    varies="the scale of the references, and how many there are",
    measures="share of pictures that an independent judge names as the entity; likeness to the reference",
    measure=measure,
    models=MODELS,
)
