"""`tiny-autoencoder`: 64 px pictures to 16 x 16 latents of four channels; `tiny-vq`: to as many symbols."""

from __future__ import annotations

from bowerbird.training.config import TrainConfig
from bowerbird.training.objectives.autoencoder import AutoencoderConfig
from bowerbird.training.objectives.vq import VQConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.small import NEVER_TRAINED_ON


def tiny_autoencoder(*, tiny: bool = False) -> Recipe:
    """A small AutoencoderKL with pixel and gradient losses, on the emoji without rare entities and openmoji.

    Command: bowerbird train tiny-autoencoder --data drawings.parquet --out runs/tiny-autoencoder
    Takes: 20 minutes on one CPU core (2,200 steps of 32 pictures).
    """
    train = TrainConfig(
        steps=2200,
        batch_size=32,
        learning_rate=1e-3,
        warmup_steps=50,
        cooldown_fraction=0.4,
        ema_decay=0.995,
        save_every=200,
        sheet_every=200,
    )
    if not tiny:
        return Recipe(name="tiny-autoencoder", system=AutoencoderConfig(), train=train, where=NEVER_TRAINED_ON)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(
        name="tiny-autoencoder",
        system=AutoencoderConfig(block_out_channels=(8, 8, 8), sample_size=64),
        train=shorter,
        limit=32,
    )


def tiny_vq(*, tiny: bool = False) -> Recipe:
    """The tokenizer of the discrete models: 64 px pictures to 16 x 16 of 512 symbols, from `tiny-autoencoder`.

    Command: bowerbird train tiny-vq --data drawings.parquet --out runs/tiny-vq
    """
    train = TrainConfig(
        steps=1200,
        batch_size=32,
        learning_rate=3e-4,
        warmup_steps=50,
        cooldown_fraction=0.5,
        ema_decay=0.995,
        save_every=100,
        sheet_every=200,
    )
    if not tiny:
        return Recipe(name="tiny-vq", system=VQConfig(), train=train, where=NEVER_TRAINED_ON)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(name="tiny-vq", system=VQConfig(symbols=16), train=shorter, limit=32)
