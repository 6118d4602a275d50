"""Two things that a base was never shown, in one picture: a reference for each phrase against one query for both."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import numpy as np
from PIL import Image

from bowerbird.core import contact_sheet
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import paired, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.grounding import GUIDANCE, MODELS, grounding, pairs, side_by_side
from bowerbird.systems.reference_settings import ReferenceSettings

PAIRS, SHOWN = 60, 16
SCALE = 1.0
"""That adapters are trained at."""
ALONE, ONE, PHRASES, NO_REGIONS = (
    "the base alone",
    "one query",
    "a reference a phrase",
    "a reference a phrase, without regions",
)


def measure(experiment: Experiment) -> Finding:
    """Every arm has two references at most, and the same noise."""
    right: dict[str, list[np.ndarray]] = {}
    first: dict[str, list[Image.Image]] = {}
    with grounding(experiment) as setup:
        codes = setup.rare
        chosen = pairs(list(codes), list(codes), PAIRS)
        wanted = [(codes[a], codes[b]) for a, b in chosen]
        prompts = [side_by_side(pair) for pair in chosen]
        by_phrase = setup.ground([setup.plan(prompt) for prompt in prompts])
        arms = {
            ALONE: setup.search(prompts, 0),
            ONE: setup.search(prompts, 2),
            PHRASES: by_phrase,
            NO_REGIONS: replace(by_phrase, regions=None),
        }
        for seed in experiment.settings.seeds:
            for arm, hits in arms.items():
                images = setup.generate(hits, seed, how=ReferenceSettings(scale=SCALE))
                first.setdefault(arm, images)
                seen = setup.both_right(images, wanted, list(codes.values()))
                right.setdefault(arm, []).append(seen.astype(float))
        covered = {arm: _covered(hits.metadata, wanted) for arm, hits in arms.items() if hits.k}
        ceiling = setup.ceiling(wanted, list(codes.values()))
    estimates = {arm: per_entity(values) for arm, values in right.items()}
    effects = [
        Effect(f"both right: {PHRASES} − {ONE}", paired(right[PHRASES], right[ONE])),
        Effect(f"both right: {PHRASES} − {NO_REGIONS}", paired(right[PHRASES], right[NO_REGIONS]), needed=False),
        Effect(f"both right: {PHRASES} − {ALONE}", paired(right[PHRASES], right[ALONE]), needed=False),
    ]
    rows = [(arm, e.mean, e.low, e.high) for arm, e in estimates.items()]
    title = "Two rare things asked for, both named in their halves"
    plot = partial(plots.intervals, rows=rows, title=title, label="share of pictures", mark=ceiling)
    shown = np.linspace(0, len(prompts) - 1, min(SHOWN, len(prompts))).astype(int).tolist()
    lines = [(prompts[i], [images[i] for images in first.values()], list(first)) for i in shown]
    values = {arm: {**asdict(e), "references of both": covered.get(arm)} for arm, e in estimates.items()}
    notes = (
        f'{len(prompts)} prompts, "a … left of a …", of entities that neither the base nor its adapter was trained'
        f" on; two references at scale {SCALE:g}, guidance {GUIDANCE:g}, {experiment.settings.sampling_steps} steps."
        f" References of both things: {covered[ONE]:.0%} of the prompts by {ONE}, {covered[PHRASES]:.0%} by phrases."
        f" What stands in each half is cut out and named among {len(codes)}; of pictures in which the real drawings"
        f" stand side by side, the judge names both in {ceiling:.0%}. Intervals over prompts."
    )
    return Finding(effects, values, notes, plot, lambda path: contact_sheet.labeled_grid(lines).save(path))


def _covered(metadata: tuple[tuple[dict[str, str], ...], ...], wanted: list[tuple[str, str]]) -> float:
    """The share of prompts with a reference of each thing."""
    found = [{row.get("hexcode") for row in line} for line in metadata]
    return float(np.mean([set(pair) <= codes for pair, codes in zip(wanted, found, strict=True)]))


CLAIM = Claim(
    name="grounded-phrases",
    says="For a prompt of two things, a reference for each phrase gives both more often than one query for the whole.",
    source="ImageRAG, arXiv 2502.09411, section 3; Cross-modal RAG, arXiv 2505.21956",
    varies="what the knowledge base is asked for: the prompt, or its phrases one by one, with the side of each",
    measures="share of pictures in which an independent judge names both things, each in its half",
    measure=measure,
    models=MODELS,
)
