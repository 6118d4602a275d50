"""Recipes by name; each is a function that returns one frozen `Recipe`, with a `tiny=True` form that trains in
seconds."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core import plugins
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.training.recipe import Recipe

NAMES = {
    "small": ("bowerbird.training.recipes.small", "small"),
    "tiny-autoencoder": ("bowerbird.training.recipes.autoencoder", "tiny_autoencoder"),
    "rdm-drawings": ("bowerbird.training.recipes.drawings", "rdm_drawings"),
    "small-patches": ("bowerbird.training.recipes.drawings", "small_patches"),
    "small-patches-text": ("bowerbird.training.recipes.drawings", "small_patches_text"),
    "autoencoder-8": ("bowerbird.training.recipes.drawings", "autoencoder_8"),
    "tiny-decoder": ("bowerbird.training.recipes.drawings", "tiny_decoder"),
    "vq-drawings": ("bowerbird.training.recipes.drawings", "vq_drawings"),
    "reimagen-drawings-32": ("bowerbird.training.recipes.drawings", "reimagen_drawings_32"),
    "reimagen-drawings-64": ("bowerbird.training.recipes.drawings", "reimagen_drawings_64"),
    "reimagen-drawings-128": ("bowerbird.training.recipes.drawings", "reimagen_drawings_128"),
    "tiny-vq": ("bowerbird.training.recipes.autoencoder", "tiny_vq"),
    "tiny-rdm": ("bowerbird.training.recipes.rdm", "tiny_rdm"),
    "tiny-rdm-fast": ("bowerbird.training.recipes.rdm", "tiny_rdm_fast"),
    "tiny-rdm-no-neighbors": ("bowerbird.training.recipes.rdm", "tiny_rdm_no_neighbors"),
    "tiny-rarm": ("bowerbird.training.recipes.rarm", "tiny_rarm"),
    "tiny-knn": ("bowerbird.training.recipes.knn", "tiny_knn"),
    "tiny-knn-discrete": ("bowerbird.training.recipes.knn", "tiny_knn_discrete"),
    "tiny-reimagen-32": ("bowerbird.training.recipes.reimagen", "tiny_reimagen_32"),
    "tiny-reimagen": ("bowerbird.training.recipes.reimagen", "tiny_reimagen"),
    "tiny-reimagen-128": ("bowerbird.training.recipes.reimagen", "tiny_reimagen_128"),
    "reimagen-paper-64": ("bowerbird.training.recipes.reimagen", "reimagen_paper_64"),
    "reimagen-paper-256": ("bowerbird.training.recipes.reimagen", "reimagen_paper_256"),
    "reimagen-paper-1024": ("bowerbird.training.recipes.reimagen", "reimagen_paper_1024"),
    "tiny-sd": ("bowerbird.training.recipes.stable_diffusion", "tiny_sd"),
    "tiny-racm3": ("bowerbird.training.recipes.racm3", "tiny_racm3"),
    "instruct": ("bowerbird.training.recipes.instruct", "instruct"),
    "tiny-instruct": ("bowerbird.training.recipes.instruct", "tiny_instruct"),
    "tiny-ip-adapter": ("bowerbird.training.recipes.stable_diffusion", "tiny_ip_adapter"),
    "dreambooth": ("bowerbird.training.recipes.dreambooth", "dreambooth"),
    "tiny-copies": ("bowerbird.training.recipes.copy_descriptor", "tiny_copies"),
    "reranker": ("bowerbird.training.recipes.reranker", "reranker"),
    "judge": ("bowerbird.training.recipes.judge", "judge"),
    "style-judge": ("bowerbird.training.recipes.judge", "style_judge"),
}


def recipe(name: str, *, tiny: bool = False) -> Recipe:
    """The recipe called `name`. Raises: BowerbirdError when there is none."""
    if name not in NAMES:
        raise BowerbirdError(
            f"recipe {name!r} is not known; choose one of {', '.join(NAMES)}, a recipe.json, or file.py:function"
        )
    place, function = NAMES[name]
    found: Recipe = getattr(importlib.import_module(place), function)(tiny=tiny)
    return found


def open_recipe(name: str, *, tiny: bool = False, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by its name, from `file.py:function` (which runs that file), or from a `recipe.json`, with `key=value`
    settings over it. `tiny` is for names.

    Raises: BowerbirdError when there is none, or it has unknown settings.
    """
    from bowerbird.training.recipe import load_recipe, with_settings

    if name.endswith(".json"):
        if tiny:
            raise BowerbirdError(f"{name}: a recipe.json has no tiny form; set its sizes, or give a recipe by name")
        return load_recipe(name, settings)
    found = _own(*name.rsplit(":", 1)) if ":" in name else recipe(name, tiny=tiny)
    return with_settings(found, settings) if settings else found


def absent_networks(recipe: Recipe) -> list[str]:
    """A line for each network that `recipe` takes from where another of our recipes would have left it, and that is not
    there, with the command that trains it."""
    from bowerbird.systems.settings import names

    lines = []
    for key, name in names(recipe.system, "network"):
        left = re.fullmatch(r"runs/([\w-]+)/model", name)
        if left is not None and left[1] in NAMES and not Path(name).is_dir():
            lines.append(
                f"{recipe.name}: {key} {name} is not there; train it first: bowerbird train {left[1]}, or name another:"
                f" --set {key}=…"
            )
    return lines


def _own(path: str, function: str) -> Recipe:
    if not Path(path).is_file():
        if plugins.is_path(f"{path}:{function}"):
            return _made(plugins.load_object(f"{path}:{function}", "recipe"), path, function)
        raise BowerbirdError(f"{path}: no such file; a recipe of your own is file.py:function or module:function")
    spec = importlib.util.spec_from_file_location("bowerbird_user_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise BowerbirdError(f"{path}: it has no function {function!r}")
    return _made(getattr(module, function), path, function)


def _made(make: Callable[[], object], path: str, function: str) -> Recipe:
    from bowerbird.training.recipe import Recipe

    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError) as error:
        raise BowerbirdError(f"{path}: {function} is called without arguments to make a Recipe ({error})") from error
    found = make()
    if not isinstance(found, Recipe):
        raise BowerbirdError(f"{path}: {function}() gives {type(found).__name__}; return a Recipe")
    return found
