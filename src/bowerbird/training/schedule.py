"""The learning rate of a step: our own warm-up and cool-down, or a schedule of diffusers by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, Protocol

Schedule = Literal[
    "cooldown", "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]
"""`cooldown` is ours; the others are those of `diffusers.optimization.get_scheduler`."""


class RateSettings(Protocol):
    """The settings that shape the learning rate; see `config.TrainConfig`."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def cooldown_fraction(self) -> float: ...


def learning_rate(config: RateSettings, step: int) -> float:
    """The rate of a step, counted from 0, which depends on its number alone, so that a run may be cut anywhere.

    `cooldown`: linear warm-up, constant, then linear to zero over the last `cooldown_fraction` of the steps; others
    take `warmup_steps` where they have a warm-up.
    """
    if config.schedule != "cooldown":
        return config.learning_rate * _factor(config.schedule, config.learning_rate, config.warmup_steps, config.steps)(
            step
        )
    cooldown = max(1, round(config.steps * config.cooldown_fraction)) if config.cooldown_fraction else 0
    factor = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if cooldown and step >= config.steps - cooldown:
        factor = min(factor, (config.steps - step) / cooldown)
    return config.learning_rate * factor


@cache
def _factor(name: str, rate: float, warmup: int, steps: int) -> Callable[[int], float]:
    """What diffusers multiplies the learning rate by; its schedules are functions of the step, kept by an optimizer
    that does nothing here."""
    import torch
    from diffusers.optimization import get_scheduler

    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    found: Callable[[int], float] = get_scheduler(
        name, unused, num_warmup_steps=warmup, num_training_steps=steps
    ).lr_lambdas[0]
    return found
