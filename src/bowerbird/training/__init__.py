"""Training: a `Recipe` says what is trained, on which rows, for how long; `train` runs an `Objective`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Objective": "bowerbird.systems.objective",
    "ObjectiveConfig": "bowerbird.systems.objective",
    "RunContext": "bowerbird.systems.objective",
    "StepReport": "bowerbird.training.losses",
    "TrainConfig": "bowerbird.training.config",
    "train": "bowerbird.training.loop",
    "Recipe": "bowerbird.training.recipe",
    "build_objective": "bowerbird.training.recipe",
    "load_recipe": "bowerbird.training.recipe",
    "train_recipe": "bowerbird.training.run",
}

__all__ = [
    "Objective",
    "ObjectiveConfig",
    "Recipe",
    "RunContext",
    "StepReport",
    "TrainConfig",
    "build_objective",
    "load_recipe",
    "train",
    "train_recipe",
]

if TYPE_CHECKING:
    from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
    from bowerbird.training.config import TrainConfig
    from bowerbird.training.loop import train
    from bowerbird.training.losses import StepReport
    from bowerbird.training.recipe import Recipe, build_objective, load_recipe
    from bowerbird.training.run import train_recipe


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'bowerbird.training' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
