"""`tiny-reimagen`: Re-Imagen's cascade at 32 and 64 px, one recipe a stage; `reimagen-paper`: the published sizes."""

from __future__ import annotations

from bowerbird.recipe import Recipe
from bowerbird.recipes.small import NEVER_TRAINED_ON
from bowerbird.systems.reimagen import ReImagenConfig, TowerSizes, UNetSizes
from bowerbird.train import TrainConfig


def tiny_reimagen_32(*, tiny: bool = False) -> Recipe:
    """The first stage: 32 px pictures from a text and neighbours' pictures, with its text tower.

    Command: bowerbird train tiny-reimagen-32 --data ../shared/data/emoji.parquet --out runs/tiny-reimagen-32
    """
    train = TrainConfig(
        steps=6500, batch_size=48, learning_rate=6e-4, warmup_steps=200, cooldown_fraction=0.3, ema_decay=0.999, save_every=100, sheet_every=1000,
    )  # fmt: skip
    if not tiny:
        return Recipe(name="tiny-reimagen-32", system=ReImagenConfig(), train=train, size=32, where=NEVER_TRAINED_ON)
    system = ReImagenConfig(unet=_small(16, 0), tower=TowerSizes(buckets=64, dim=16, heads=2), style_key=None)
    return Recipe(name="tiny-reimagen-32", system=system, train=_short(train), size=16, limit=32)


def tiny_reimagen(*, tiny: bool = False) -> Recipe:
    """The whole cascade: adds to the first stage (`system.base`) the one from 32 to 64 px, which sees the same text and neighbours.

    Command: bowerbird train tiny-reimagen --set system.base=runs/tiny-reimagen-32/model --data ../shared/data/emoji.parquet --out runs/tiny-reimagen
    """
    train = TrainConfig(
        steps=2500, batch_size=32, learning_rate=6e-4, warmup_steps=100, cooldown_fraction=0.4, ema_decay=0.998, save_every=100, sheet_every=500,
    )  # fmt: skip
    unet = UNetSizes(
        sample_size=64, low_size=32, block_out_channels=(32, 64, 96), attention=(False, True, True), itself=(False, False, True)
    )  # fmt: skip
    if not tiny:
        system = ReImagenConfig(unet=unet, base="runs/tiny-reimagen-32/model")
        return Recipe(name="tiny-reimagen", system=system, train=train, size=64, where=NEVER_TRAINED_ON)
    tower = TowerSizes(buckets=64, dim=16, heads=2)
    system = ReImagenConfig(unet=_small(32, 16), tower=tower, style_key=None)
    return Recipe(name="tiny-reimagen", system=system, train=_short(train), size=32, limit=32)


def _small(size: int, low_size: int) -> UNetSizes:
    return UNetSizes(
        sample_size=size, low_size=low_size, block_out_channels=(16, 16), layers_per_block=(1, 1), attention=(False, True),
        itself=(False, True), head_channels=8, text_dim=16, time_dim=16,
    )  # fmt: skip


def _short(train: TrainConfig) -> TrainConfig:
    return train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
