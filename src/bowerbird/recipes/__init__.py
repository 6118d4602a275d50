"""Recipes by name; each is a function that returns one frozen `Recipe`, with a `tiny=True` form that trains in seconds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bowerbird.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.recipe import Recipe

NAMES = {
    "small": ("bowerbird.recipes.small", "small"),
    "tiny-autoencoder": ("bowerbird.recipes.autoencoder", "tiny_autoencoder"),
    "tiny-vq": ("bowerbird.recipes.autoencoder", "tiny_vq"),
    "tiny-rdm": ("bowerbird.recipes.rdm", "tiny_rdm"),
    "tiny-rdm-fast": ("bowerbird.recipes.rdm", "tiny_rdm_fast"),
    "tiny-rdm-no-neighbors": ("bowerbird.recipes.rdm", "tiny_rdm_no_neighbors"),
    "tiny-knn": ("bowerbird.recipes.knn", "tiny_knn"),
    "tiny-knn-discrete": ("bowerbird.recipes.knn", "tiny_knn_discrete"),
    "tiny-reimagen-32": ("bowerbird.recipes.reimagen", "tiny_reimagen_32"),
    "tiny-reimagen": ("bowerbird.recipes.reimagen", "tiny_reimagen"),
    "tiny-reimagen-128": ("bowerbird.recipes.reimagen", "tiny_reimagen_128"),
    "reimagen-paper-64": ("bowerbird.recipes.reimagen", "reimagen_paper_64"),
    "reimagen-paper-256": ("bowerbird.recipes.reimagen", "reimagen_paper_256"),
    "reimagen-paper-1024": ("bowerbird.recipes.reimagen", "reimagen_paper_1024"),
    "tiny-copies": ("bowerbird.recipes.copies", "tiny_copies"),
    "evaluator": ("bowerbird.recipes.evaluator", "evaluator"),
    "style-evaluator": ("bowerbird.recipes.evaluator", "style_evaluator"),
}


def recipe(name: str, *, tiny: bool = False) -> Recipe:
    """The recipe called `name`. Raises: BowerbirdError when there is none."""
    if name not in NAMES:
        raise BowerbirdError(f"recipe {name!r} is not known; choose one of {', '.join(NAMES)}, a recipe.json, or file.py:function")
    module, function = NAMES[name]
    made: Recipe = getattr(importlib.import_module(module), function)(tiny=tiny)
    return made
