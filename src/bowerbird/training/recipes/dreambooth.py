"""`dreambooth`: a subject of one's own in a Stable Diffusion."""

from __future__ import annotations

from bowerbird.systems.dreambooth.config import DreamBoothConfig
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe


def dreambooth(*, tiny: bool = False) -> Recipe:
    """diffusers' LoRA recipe: rank 4 in the attention, 500 steps of one picture and one of the class. Whole: system.
    method=full, train.learning_rate=5e-6, train.steps=800.

    Command: bowerbird train dreambooth --base sd15 --subject my-toy/ --class toy --out runs/my-toy
    """
    train = TrainConfig(
        steps=500,
        batch_size=1,
        learning_rate=1e-4,
        warmup_steps=0,
        ema_decay=0.0,
        save_every=100,
        sheet_every=100,
    )
    system = DreamBoothConfig()
    if not tiny:
        return Recipe(name="dreambooth", system=system, train=train, size=512)
    small = system.model_copy(update={"class_pictures": 2, "class_steps": 2})
    return Recipe(name="dreambooth", system=small, train=train.model_copy(update={"steps": 2}), size=64)
