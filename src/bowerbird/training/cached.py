"""Trainings that are done once: a model by recipe and data, from the cache or trained into it.

The key is everything that shapes the weights: the recipe, the pictures with their labels, and the frozen networks it
builds on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from bowerbird.core import cache
from bowerbird.core.progress import Progress
from bowerbird.data.pictures import Pictures
from bowerbird.training.checkpoint import CHECKPOINT
from bowerbird.training.recipe import Recipe, frozen_fingerprints
from bowerbird.training.run import train_recipe


def key(recipe: Recipe, pictures: Pictures) -> str:
    """16 hex digits that change with any setting, picture, caption, label or frozen network."""
    labels = json.dumps(pictures.metadata, sort_keys=True, default=str)
    parts = [recipe.fingerprint(), pictures.fingerprint(), labels, *frozen_fingerprints(recipe).values()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def train_once(recipe: Recipe, pictures: Pictures, *, device: str = "cpu", progress: Progress | None = None) -> Path:
    """The directory of the trained model; a training that was cut goes on from its checkpoint.

    `progress`: called with (steps done, steps in all, the recipe's name).
    """
    run = cache.directory("trainings") / f"{recipe.name}-{key(recipe, pictures)}"
    if (run / "model").is_dir():
        return run / "model"
    steps = train_recipe(recipe, pictures, run, device=device, caches=cache.directory("latents"), sheets=False)
    for report in steps:
        if progress is not None:
            progress(report.step, recipe.train.steps, recipe.name)
    (run / CHECKPOINT).unlink(missing_ok=True)  # a finished run needs it no more, and it is large
    return run / "model"
