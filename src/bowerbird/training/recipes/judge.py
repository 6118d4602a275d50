"""`judge` and `style-judge`: the networks that measure and are never a condition."""

from __future__ import annotations

from bowerbird.training.config import TrainConfig
from bowerbird.training.objectives.judge import JudgeConfig
from bowerbird.training.recipe import Recipe


def judge(*, tiny: bool = False) -> Recipe:
    """Names the entity; trained on all public pictures, rare entities and openmoji included.

    Command: bowerbird train judge --data drawings.parquet --out runs/judge
    With --set system.held_out=0.2 the same network leaves a fifth of the pictures out, which gives its figure on unseen
    ones.
    """
    train = TrainConfig(
        steps=1200,
        batch_size=128,
        learning_rate=2e-3,
        warmup_steps=50,
        cooldown_fraction=0.5,
        weight_decay=0.05,
        ema_decay=0.99,
        save_every=200,
        sheet_every=700,
    )
    if not tiny:
        return Recipe(name="judge", system=JudgeConfig(), train=train)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 8, "warmup_steps": 1})
    return Recipe(
        name="judge",
        system=JudgeConfig(channels=(8, 8, 8, 8), entity_key="class", style_key="class"),
        train=shorter,
        limit=64,
    )


def style_judge(*, tiny: bool = False) -> Recipe:
    """Names the drawing style; a network of its own, because one that must name 1,850 entities forgets how they are
    drawn.

    Style is in gradients and outlines, so pictures are hardly blurred or moved here.

    Command: bowerbird train style-judge --data drawings.parquet --out runs/style-judge
    A tenth of the pictures is held out: its figure on them is the one to quote.
    """
    base = judge(tiny=tiny)
    system = base.system.model_copy(
        update={"entity_key": "class" if tiny else "style", "style_key": "class" if tiny else "style"}
    )
    if not tiny:
        system = system.model_copy(
            update={"channels": (32, 64, 96, 128), "held_out": 0.1, "degraded": 0.1, "jitter": 0.4}
        )
    train = base.train if tiny else base.train.model_copy(update={"steps": 2400, "learning_rate": 3e-3})
    return base.model_copy(update={"name": "style-judge", "system": system, "train": train})
