"""Which drawings the models of the next generation learn from, and the recipes of their autoencoder.

The data are the emoji and the icons of `bowerbird datasets drawings`, as one table. Besides the rare entities and openmoji,
two icon styles are left out of every training, one of filled discs and one of thin lines: they stand for a stranger's
drawings whenever a setting has to be chosen, so that openmoji is never chosen by.
"""

from __future__ import annotations

from bowerbird.training.loop import TrainConfig
from bowerbird.training.objectives.autoencoder import AutoencoderConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.small import NEVER_TRAINED_ON

HELD_OUT_STYLES = ("streamline-kameleon-color", "streamline-cyber-color")
"""Icon styles no model learns from, by which settings are chosen."""

TRAINED_ON = f"{NEVER_TRAINED_ON} and style not in {HELD_OUT_STYLES}"
HELD_OUT = f"split != 'rare' and style in {HELD_OUT_STYLES}"


def autoencoder_8(*, tiny: bool = False) -> Recipe:
    """An autoencoder with 8 channels a place for any drawing: colors, grounds, lines, sizes, several things; latents of
    unit variance in each channel, by the weights themselves.

    Command: bowerbird train autoencoder-8 --data drawings.parquet --out runs/autoencoder-8
    """
    train = TrainConfig(
        steps=9000,
        batch_size=32,
        learning_rate=1e-3,
        warmup_steps=100,
        cooldown_fraction=0.4,
        ema_decay=0.998,
        save_every=200,
        sheet_every=500,
    )
    system = AutoencoderConfig(
        block_out_channels=(24, 64, 96),
        latent_channels=8,
        varied=0.5,
        coarse_weight=0.25,
        equivariance=0.2,
        unit_channels=True,
    )
    if not tiny:
        return Recipe(
            name="autoencoder-8", system=system, train=train, size=128, where=TRAINED_ON, transparency=True
        )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    small = system.model_copy(update={"block_out_channels": (8, 8, 8), "equivariance": 1.0})
    return Recipe(name="autoencoder-8", system=small, train=shorter, size=128, limit=32, transparency=True)
