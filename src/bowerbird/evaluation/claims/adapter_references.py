"""An adapter that was trained on neighbors of its targets, against one that was trained on the targets themselves, as
published adapters are: what is copied, and what is kept of the text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bowerbird.core import contact_sheet, seeds
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.words import COLORS, are_distinct, nearest_color, with_article
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import paired, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.grounding import (
    BASE,
    GUIDANCE,
    MODELS,
    Grounding,
    at_edge,
    generate,
    ground_of,
    grounding,
    likeness,
    open_base,
)
from bowerbird.evaluation.copies.detect import DESCRIPTOR
from bowerbird.evaluation.metrics.intervals import Estimate
from bowerbird.systems.grounded.adapter_file import ADAPTER
from bowerbird.systems.reference_settings import ReferenceSettings
from bowerbird.training.cached import train_once
from bowerbird.training.recipe import Recipe, with_settings
from bowerbird.training.recipes import recipe

ARMS = {"a neighbor": {}, "the target itself": {"exact": 1.0, "nameless": 0.0, "varied_nameless": 0.0, "other": 0.0}}
"""What a reference was in training. The second as in IP-Adapter's script: every caption names what is drawn, and the
picture beside it is the one to be generated."""
NEIGHBOR, ITSELF = ARMS
TINY = False
"""Whether the recipe is taken in its tiny form, as tests do."""
THINGS, SCENES = 120, 400
"""Entities that adapters learn from, in all their styles, and scenes composed of them."""
STEPS, BATCH, RATE = 250, 16, 1e-3
ENTITIES, SHOWN = 60, 16
SCALE = 1.0
"""That adapters are trained at."""
WHITE = 245
"""From this value on a channel is white."""
MEASURES = ("likeness to the reference", "ground as asked", "named")


def measure(experiment: Experiment) -> Finding:
    """Two adapters a seed, of equal size, data and steps; each is asked for rare things on colored grounds."""
    found: dict[str, dict[str, list[np.ndarray]]] = {arm: {name: [] for name in MEASURES} for arm in ARMS}
    first: dict[str, list[Image.Image]] = {}
    with grounding(experiment) as setup:
        benchmark = setup.benchmark
        chosen = np.array(benchmark.sample(range(len(benchmark.entities)), ENTITIES))
        rng = seeds.numpy_generator(0, "grounds")
        colors = [str(color) for color in rng.choice(_grounds(), len(chosen))]
        prompts = [
            f"{with_article(benchmark.names[i])} on {with_article(color)} background"
            for i, color in zip(chosen, colors, strict=True)
        ]
        # what is looked for is the thing: the ground is in the prompt alone
        hits = replace(setup.search([benchmark.names[i] for i in chosen], 1), queries=tuple(prompts))
        data = training_pictures(experiment, setup.edge)
        for seed in experiment.settings.seeds:
            for arm, own in ARMS.items():
                made = adapter_recipe(setup, own, seed, experiment.settings.train_steps)
                folder = train_once(made, data, device=experiment.device, progress=experiment.progress)
                images = generate(
                    experiment, open_base(experiment, folder / ADAPTER), hits, seed, how=ReferenceSettings(scale=SCALE)
                )
                first.setdefault(arm, images)
                here = found[arm]
                here["likeness to the reference"].append(likeness(images, hits))
                here["ground as asked"].append(np.array([_ground(a) == b for a, b in zip(images, colors, strict=True)]))
                here["named"].append(benchmark.name_entities(images) == chosen)
        pictures = [row[0] for row in hits.images()]
    estimates = {arm: {name: per_entity(values) for name, values in each.items()} for arm, each in found.items()}
    effects = [
        Effect(
            f"likeness to the reference: {ITSELF} − {NEIGHBOR}",
            paired(found[ITSELF][MEASURES[0]], found[NEIGHBOR][MEASURES[0]]),
        ),
        Effect(
            f"ground as asked: {NEIGHBOR} − {ITSELF}", paired(found[NEIGHBOR][MEASURES[1]], found[ITSELF][MEASURES[1]])
        ),
        Effect(
            f"named: {NEIGHBOR} − {ITSELF}",
            paired(found[NEIGHBOR][MEASURES[2]], found[ITSELF][MEASURES[2]]),
            needed=False,
        ),
    ]
    rows = [(f"{name}, {arm}", e.mean, e.low, e.high) for name in MEASURES for arm, e in _column(estimates, name)]
    title = "Adapters by their references in training"
    plot = partial(plots.intervals, rows=rows, title=title, label="cosine, share of pictures")
    shown = np.linspace(0, len(prompts) - 1, min(SHOWN, len(prompts))).astype(int).tolist()
    lines = [
        (prompts[i], [e for e in (pictures[i], *(images[i] for images in first.values())) if e], ["reference", *first])
        for i in shown
    ]
    steps = min(STEPS, experiment.settings.train_steps)
    notes = (
        f"Two adapters a seed, {steps} steps of {BATCH} on {len(data)} drawings and {SCENES} scenes, from nothing."
        f' {len(prompts)} entities that neither they nor the base were trained on, "a … on a … background", one'
        f" reference at scale {SCALE:g}, guidance {GUIDANCE:g}. Likeness: cosine of the copy descriptor {DESCRIPTOR!r}."
        " The ground is as asked where the nearest color to the median of the picture's edge is it. Intervals over"
        " prompts."
    )
    values = {arm: {name: asdict(value) for name, value in each.items()} for arm, each in estimates.items()}
    return Finding(effects, values, notes, plot, lambda path: contact_sheet.labeled_grid(lines).save(path))


def training_pictures(experiment: Experiment, edge: int) -> Pictures:
    """The drawings of some things that may be trained on, at the base's edge, free of their white ground."""
    trainable = experiment.trainable
    codes = trainable.column("hexcode")
    entities = sorted(set(codes))
    order = seeds.numpy_generator(0, "adapters").permutation(len(entities))[:THINGS]
    chosen = {entities[at] for at in order.tolist()}
    some = at_edge(trainable.select([i for i, code in enumerate(codes) if code in chosen]), edge)
    return replace(some, alpha=_opacity(some.pixels))


def adapter_recipe(setup: Grounding, own: Mapping[str, float], seed: int, steps: int) -> Recipe:
    """The recipe `tiny-ip-adapter` of one arm."""
    total = min(STEPS, steps)
    experiment = setup.benchmark.experiment
    settings = {
        "system.base": experiment.model(BASE),
        "system.encoder": setup.encoder,
        "system.style_key": "style",
        "system.varied_views": 1,
        "system.forms": 1,
        "system.scenes": SCENES,
        **{f"system.{key}": value for key, value in own.items()},
        "size": setup.edge,
        "train.steps": total,
        "train.batch_size": BATCH,
        "train.learning_rate": RATE,
        "train.warmup_steps": min(20, total),
        "train.ema_decay": 0.98,
        "train.save_every": total,
        "train.seed": seed,
    }
    changes = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return with_settings(recipe("tiny-ip-adapter", tiny=TINY), changes)


def _opacity(pixels: Tensor) -> Tensor:
    """Alpha uint8 `(n, S, S)`: nothing where a picture is white all the way to its edge."""
    from scipy import ndimage

    found = []
    for picture in pixels.numpy():
        parts, _ = ndimage.label((picture > WHITE).all(0))
        outside = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
        found.append(~np.isin(parts, outside[outside > 0]))
    return torch.from_numpy(np.stack(found).astype(np.uint8) * 255)


def _grounds() -> list[str]:
    """The colors that differ from white, which every reference stands on."""
    return [color for color in COLORS if are_distinct(color, "white")]


def _ground(image: Image.Image) -> str:
    red, green, blue = ground_of(np.asarray(image.convert("RGB"))).tolist()
    return nearest_color((red, green, blue))


def _column(estimates: dict[str, dict[str, Estimate]], name: str) -> list[tuple[str, Estimate]]:
    return [(arm, each[name]) for arm, each in estimates.items()]


CLAIM = Claim(
    name="adapter-references",
    says=(
        "An adapter that learned from neighbors of its targets copies less than the usual one, and keeps more of the"
        " text."
    ),
    source="IP-Adapter, arXiv 2308.06721, and its issue 94, where the author names the cause; the remedy is ours",
    varies="what a reference is in training, and with it whether all captions say the name: a neighbor of the target"
    ", some captions without; or the target itself, all with it, as published adapters are trained",
    measures="likeness to the reference, whether the ground is as the text says, what a judge names",
    measure=measure,
    models=MODELS,
)
