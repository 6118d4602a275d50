"""A base model with a knowledge base names what it was never shown, without being trained on it."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np
from PIL import Image

from bowerbird.core import contact_sheet
from bowerbird.data.scenes.words import with_article
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.grounding import GUIDANCE, MODELS, grounding
from bowerbird.evaluation.metrics.intervals import Estimate
from bowerbird.systems.reference_settings import ReferenceSettings

K, SCALE = 2, 1.0
"""References of each, and the scale that adapters are trained at."""
MOST_WITHOUT, LEAST_WITH = 0.03, 0.7
"""What the base alone may reach, and what it should with references."""
SHOWN = 16


def measure(experiment: Experiment) -> Finding:
    """Each rare entity by its name alone, with and without what a search by that name finds."""
    with grounding(experiment) as setup:
        benchmark = setup.benchmark
        prompts = [with_article(name) for name in benchmark.names]
        found = setup.search(prompts, K)
        arms = {"without": setup.search(prompts, 0), "with references": found}
        right: dict[str, list[np.ndarray]] = {arm: [] for arm in arms}
        first: dict[str, list[Image.Image]] = {}
        for seed in experiment.settings.seeds:
            for arm, hits in arms.items():
                images = setup.generate(hits, seed, how=ReferenceSettings(scale=SCALE))
                first.setdefault(arm, images)
                seen = benchmark.name_entities(images)
                right[arm].append((seen == np.arange(len(prompts))).astype(float))
        wanted = np.array(benchmark.entities)[:, None]
        codes = np.array([[row.get("hexcode", "") for row in line] for line in found.metadata])
        pictures = [row[0] for row in found.images()]
        named, own, items = benchmark.share_named(), float((codes == wanted).mean()), len(setup.kb)
    with_, without = right["with references"], right["without"]
    estimates = {arm: per_entity(values) for arm, values in right.items()}
    gain = per_entity([a - b for a, b in zip(with_, without, strict=True)])
    effects = [
        Effect("named: with references − without", gain),
        Effect(f"named with references − {LEAST_WITH:.0%}", _above(estimates["with references"], LEAST_WITH)),
        Effect(f"{MOST_WITHOUT:.0%} − named without", _below(estimates["without"], MOST_WITHOUT)),
    ]
    rows = [(arm, e.mean, e.low, e.high) for arm, e in estimates.items()]
    title = "Rare entities named, by a base that was never shown them"
    plot = partial(plots.intervals, rows=rows, title=title, label="share of pictures", mark=LEAST_WITH)
    shown = np.linspace(0, len(prompts) - 1, min(SHOWN, len(prompts))).astype(int).tolist()
    columns = ["first reference", *first]
    lines = [
        (prompts[i], [each for each in (pictures[i], *(images[i] for images in first.values())) if each], columns)
        for i in shown
    ]
    notes = (
        f"{len(prompts)} entities that neither the base nor its adapter was trained on, by name; K = {K} of {items}"
        f" items at scale {SCALE:g}, guidance {GUIDANCE:g}, {experiment.settings.sampling_steps} steps. Of the"
        f" references {own:.0%} are drawings of the entity. Of the real drawings the judge names {named:.0%},"
        " all seen in its training. Intervals over entities."
    )
    values = {arm: asdict(value) for arm, value in estimates.items()}
    return Finding(effects, values, notes, plot, lambda path: contact_sheet.labeled_grid(lines).save(path))


def _above(value: Estimate, least: float) -> Estimate:
    return Estimate(value.mean - least, value.low - least, value.high - least)


def _below(value: Estimate, most: float) -> Estimate:
    return Estimate(most - value.mean, most - value.high, most - value.low)


CLAIM = Claim(
    name="grounded-rare",
    says=(
        "With references from a knowledge base a text-to-image model that is not trained further gives rare things: at"
        f" most {MOST_WITHOUT:.0%} are named without, at least {LEAST_WITH:.0%} with."
    ),
    source="ImageRAG, arXiv 2502.09411, section 4; IP-Adapter, arXiv 2308.06721. The two thresholds are ours",
    varies="whether the base reads references that a search by the name finds",
    measures="share of pictures that an independent judge names as the entity of the prompt, among the rare ones",
    measure=measure,
    models=MODELS,
)
