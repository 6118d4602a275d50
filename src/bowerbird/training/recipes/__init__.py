"""Recipes by name; each is a function that returns one frozen `Recipe`, with a `tiny=True` form that trains in
seconds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.training.recipe import Recipe

NAMES = {
    "small": ("bowerbird.training.recipes.small", "small"),
    "tiny-autoencoder": ("bowerbird.training.recipes.autoencoder", "tiny_autoencoder"),
    "tiny-vq": ("bowerbird.training.recipes.autoencoder", "tiny_vq"),
    "tiny-rdm": ("bowerbird.training.recipes.rdm", "tiny_rdm"),
    "tiny-rdm-fast": ("bowerbird.training.recipes.rdm", "tiny_rdm_fast"),
    "tiny-rdm-no-neighbors": ("bowerbird.training.recipes.rdm", "tiny_rdm_no_neighbors"),
    "tiny-knn": ("bowerbird.training.recipes.knn", "tiny_knn"),
    "tiny-knn-discrete": ("bowerbird.training.recipes.knn", "tiny_knn_discrete"),
    "tiny-reimagen-32": ("bowerbird.training.recipes.reimagen", "tiny_reimagen_32"),
    "tiny-reimagen": ("bowerbird.training.recipes.reimagen", "tiny_reimagen"),
    "tiny-reimagen-128": ("bowerbird.training.recipes.reimagen", "tiny_reimagen_128"),
    "reimagen-paper-64": ("bowerbird.training.recipes.reimagen", "reimagen_paper_64"),
    "reimagen-paper-256": ("bowerbird.training.recipes.reimagen", "reimagen_paper_256"),
    "reimagen-paper-1024": ("bowerbird.training.recipes.reimagen", "reimagen_paper_1024"),
    "tiny-copies": ("bowerbird.training.recipes.copy_descriptor", "tiny_copies"),
    "evaluator": ("bowerbird.training.recipes.judge", "evaluator"),
    "style-evaluator": ("bowerbird.training.recipes.judge", "style_evaluator"),
}


def recipe(name: str, *, tiny: bool = False) -> Recipe:
    """The recipe called `name`. Raises: BowerbirdError when there is none."""
    if name not in NAMES:
        raise BowerbirdError(
            f"recipe {name!r} is not known; choose one of {', '.join(NAMES)}, a recipe.json, or file.py:function"
        )
    module, function = NAMES[name]
    made: Recipe = getattr(importlib.import_module(module), function)(tiny=tiny)
    return made
