"""`tiny-copies`: the bundled descriptor of near copies."""

from __future__ import annotations

from bowerbird.training.config import TrainConfig
from bowerbird.training.objectives.copy_descriptor import CopyConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.small import NEVER_TRAINED_ON


def tiny_copies(*, tiny: bool = False) -> Recipe:
    """SSCD's idea at 64 px, on the emoji (noto, twemoji, fluent, flat) without the rare entities and on scenes made of
    them.

    Command: bowerbird train tiny-copies --data drawings.parquet --out runs/tiny-copies
    """
    train = TrainConfig(
        steps=1600,
        batch_size=192,
        learning_rate=2e-3,
        warmup_steps=100,
        cooldown_fraction=0.4,
        weight_decay=0.05,
        ema_decay=0.99,
        save_every=200,
        sheet_every=10**6,
    )
    if not tiny:
        return Recipe(name="tiny-copies", system=CopyConfig(), train=train, where=NEVER_TRAINED_ON)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 8, "warmup_steps": 1})
    return Recipe(
        name="tiny-copies",
        system=CopyConfig(channels=(8, 8, 8, 8), dim=16, entity_key="class"),
        train=shorter,
        limit=64,
    )
