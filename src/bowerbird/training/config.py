"""How long a training takes and how it goes, whatever is trained; stored in `recipe.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bowerbird.systems.settings import Amount, Share
from bowerbird.training.schedule import Schedule


class TrainConfig(BaseModel):
    """How long and how; one for every recipe.

    `batch_size` is per process, as in accelerate, and of each of the `gradient_accumulation` batches of a step.
    `schedule`: `cooldown` (linear warm-up, constant, linear to zero over the last `cooldown_fraction`) or a name of
    diffusers. `validate_every`: steps between losses on the held-out pictures. `compile`: minutes at the start, for
    long runs on a GPU.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    steps: Annotated[int, Field(ge=1, le=10**9)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    gradient_accumulation: Annotated[int, Field(ge=1, le=65_536)] = 1
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 3e-4
    schedule: Schedule = "cooldown"
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    cooldown_fraction: Share = 0.0
    weight_decay: Amount = 0.01
    ema_decay: Share = 0.999
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["auto", "bf16", "no"] = "auto"
    compile: bool = False
    save_every: Annotated[int, Field(ge=1)] = 500
    validate_every: Annotated[int, Field(ge=1)] = 500
    sheet_every: Annotated[int, Field(ge=1)] = 500
    keep_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
