"""`small`: the bundled picture and text encoder."""

from __future__ import annotations

from bowerbird.models.small_encoder import SmallEncoderConfig
from bowerbird.training.config import TrainConfig
from bowerbird.training.objectives.small_encoder import ContrastiveConfig
from bowerbird.training.recipe import Recipe

NEVER_TRAINED_ON = "split != 'rare' and style != 'openmoji'"
"""The rows no model of ours learns from: the rare entities, and the share-alike style."""


def small(*, tiny: bool = False) -> Recipe:
    """CLIP's objective, principal components and drawing styles, on the emoji (noto, twemoji, fluent, flat) without
    the rare entities.

    Command: bowerbird train small --data drawings.parquet --out runs/small
    Takes: 25 minutes on two CPU cores (192 entities a batch).
    Reached (2026-11-20, benchmarks/encoder_quality.py): see docs/models.md.
    """
    train = TrainConfig(
        steps=1500,
        batch_size=192,
        learning_rate=1.5e-3,
        warmup_steps=50,
        cooldown_fraction=0.3,
        weight_decay=0.05,
        ema_decay=0.99,
        save_every=100,
        sheet_every=500,
    )
    if not tiny:
        return Recipe(name="small", system=ContrastiveConfig(), train=train, where=NEVER_TRAINED_ON)
    encoder = SmallEncoderConfig(
        channels=(8, 8, 8, 8),
        layout_channels=8,
        meaning_dim=16,
        look_dim=8,
        look_size=8,
        hand_dim=8,
        buckets=64,
        text_dim=8,
    )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 1})
    return Recipe(
        name="small",
        system=ContrastiveConfig(encoder=encoder, entity_key="class", style_key=None),
        train=shorter,
        limit=64,
    )
