"""`evaluator`: the network that measures and is never a condition."""

from __future__ import annotations

from bowerbird.recipe import Recipe
from bowerbird.systems.classifier import ClassifierConfig
from bowerbird.train import TrainConfig


def evaluator(*, tiny: bool = False) -> Recipe:
    """Names entity and style; trained on all public pictures, rare entities and openmoji included.

    Command: bowerbird train evaluator --data ../shared/data/emoji.parquet --out runs/evaluator
    With --set system.held_out=0.2 the same network leaves a fifth of the pictures out, which gives its figure on unseen ones.
    """
    train = TrainConfig(
        steps=1400, batch_size=128, learning_rate=2e-3, warmup_steps=50, cooldown_fraction=0.5, weight_decay=0.05, ema_decay=0.99,
        save_every=200, sheet_every=700,
    )  # fmt: skip
    if not tiny:
        return Recipe(name="evaluator", system=ClassifierConfig(), train=train)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 8, "warmup_steps": 1})
    return Recipe(name="evaluator", system=ClassifierConfig(channels=(8, 8, 8, 8), entity_key="class", style_key="class"), train=shorter, limit=64)
