"""Reports to TensorBoard and Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from bowerbird.training.config import TrainConfig
    from bowerbird.training.losses import StepReport

NAMES = ("tensorboard", "wandb")


def check_trackers(names: Sequence[str]) -> None:
    """Raises: BowerbirdError for a tracker that accelerate or this machine does not have."""
    for name in names:
        if name not in NAMES:
            raise BowerbirdError(f"report_to {name!r} is not known; choose from {', '.join(NAMES)}")
        try:
            importlib.import_module(name)
        except Exception as error:  # another package's code runs here
            raise BowerbirdError(
                f"report_to {name!r}: it cannot be imported ({type(error).__name__}: {error}); run pip install {name}"
            ) from error


def start(accelerator: Accelerator, config: TrainConfig, out: Path) -> None:
    """Open the trackers that `accelerator` was made with, on its main process; the run is called as its folder is."""
    settings = {key: value for key, value in config.model_dump().items() if isinstance(value, (int, float, str, bool))}
    accelerator.init_trackers(
        "bowerbird", config=settings, init_kwargs={"wandb": {"name": out.resolve().name, "dir": str(out)}}
    )


def report(accelerator: Accelerator, step: StepReport) -> None:
    """Log a step to every tracker."""
    values: dict[str, Any] = {"loss": step.loss, "learning_rate": step.learning_rate, "seconds": step.seconds}
    if step.validation_loss is not None:
        values["validation_loss"] = step.validation_loss
    accelerator.log(values, step=step.step)
