"""`tiny-reimagen`: Re-Imagen's cascade at 32, 64 and 128 px, one recipe a stage; `reimagen-paper`: the
published sizes."""

from __future__ import annotations

from typing import Any

from bowerbird.diffusion.guidance import Guidance
from bowerbird.systems.reimagen.config import NeighborKind, ReImagenConfig, TowerSizes, UNetSizes
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.small import NEVER_TRAINED_ON

PAPER: dict[str, Any] = {"head_channels": 64, "text_dim": 4096, "up_attention": False, "prediction_type": "epsilon"}
PAPER_SAMPLING = (
    (256, Guidance("interleaved", 30.0, 30.0, 0.5)),
    (128, Guidance("interleaved", 5.0, 5.0, 0.5)),
    (32, Guidance("interleaved", 3.0, 3.0, 0.5)),
)
"""Steps and guidance of each stage for EntityDrawBench."""


def tiny_reimagen_32(*, tiny: bool = False) -> Recipe:
    """The first stage: 32 px pictures from a text and neighbors' pictures, with its text tower.

    Command: bowerbird train tiny-reimagen-32 --data drawings.parquet --out runs/tiny-reimagen-32
    """
    train = TrainConfig(
        steps=9000,
        batch_size=32,
        learning_rate=8e-4,
        warmup_steps=200,
        cooldown_fraction=0.3,
        ema_decay=0.999,
        save_every=100,
        sheet_every=1000,
    )
    if not tiny:
        return Recipe(name="tiny-reimagen-32", system=ReImagenConfig(), train=train, size=32, where=NEVER_TRAINED_ON)
    system = ReImagenConfig(unet=small_unet(16, 0), tower=TowerSizes(buckets=64, dim=16, heads=2), style_key=None)
    return Recipe(name="tiny-reimagen-32", system=system, train=_short(train), size=16, limit=32)


def tiny_reimagen(*, tiny: bool = False) -> Recipe:
    """The whole cascade: adds to the first stage (`system.base`) the one from 32 to 64 px, which sees the same text
    and neighbors.

    Command: bowerbird train tiny-reimagen --set system.base=runs/tiny-reimagen-32/model --data
    drawings.parquet --out runs/tiny-reimagen
    """
    train = TrainConfig(
        steps=2500,
        batch_size=32,
        learning_rate=6e-4,
        warmup_steps=100,
        cooldown_fraction=0.4,
        ema_decay=0.998,
        save_every=100,
        sheet_every=500,
    )
    unet = UNetSizes(
        sample_size=64,
        low_size=32,
        block_out_channels=(32, 48, 64),
        attention=(False, True, True),
        itself=(False, False, True),
        prediction_type="sample",
    )
    if not tiny:
        system = ReImagenConfig(unet=unet, base="runs/tiny-reimagen-32/model")
        return Recipe(name="tiny-reimagen", system=system, train=train, size=64, where=NEVER_TRAINED_ON)
    tower = TowerSizes(buckets=64, dim=16, heads=2)
    system = ReImagenConfig(unet=small_unet(32, 16), tower=tower, style_key=None)
    return Recipe(name="tiny-reimagen", system=system, train=_short(train), size=32, limit=32)


def reimagen_paper_64(*, tiny: bool = False) -> Recipe:
    """The published cascade, first stage: 64 px, 2.5 billion parameters, T5-XXL.

    Command: bowerbird train reimagen-paper-64 --data SOURCE --out runs/paper-64, then `-256` and `-1024` with --set
    system.base=…. Published: sizes, parameter counts, 200,000 steps, k = 2, learning rate 1e-4, 10% dropout of each
    condition. Sampling there: interleaved, 256 steps at weight 30 for both conditions, then 128 steps at 5, then 32
    steps at 3 (`PAPER_SAMPLING`). Never trained by us; checked by parameter counts and a forward pass without values.
    Blocks a level are not published; ours are chosen to meet the counts. Differs: AdamW where the first stage had
    Adafactor.
    """
    unet = UNetSizes(
        sample_size=64,
        patch_size=1,
        block_out_channels=(512, 1024, 1536, 2048),
        layers_per_block=(3, 4, 5, 6),
        attention=(False, True, True, True),
        itself=(False, True, True, True),
        time_dim=2048,
        **PAPER,
    )
    return _paper("reimagen-paper-64", unet, tiny, base=None)


def reimagen_paper_256(*, tiny: bool = False) -> Recipe:
    """The published cascade, second stage: 64 to 256 px, 750 million parameters; attention at the lowest resolution
    only."""
    unet = UNetSizes(
        sample_size=256,
        low_size=64,
        patch_size=1,
        block_out_channels=(128, 256, 512, 1024),
        layers_per_block=(2, 4, 8, 11),
        attention=(False, False, False, True),
        itself=(False, False, False, True),
        time_dim=512,
        **PAPER,
    )
    return _paper("reimagen-paper-256", unet, tiny, base="runs/paper-64/model")


def reimagen_paper_1024(*, tiny: bool = False) -> Recipe:
    """The published cascade, third stage: 256 to 1024 px, 400 million parameters."""
    unet = UNetSizes(
        sample_size=1024,
        low_size=256,
        patch_size=1,
        block_out_channels=(128, 256, 512, 1024),
        layers_per_block=(2, 4, 8, 4),
        attention=(False, False, False, True),
        itself=(False, False, False, False),
        time_dim=512,
        **PAPER,
    )
    return _paper("reimagen-paper-1024", unet, tiny, base="runs/paper-256/model")


def _paper(name: str, unet: UNetSizes, tiny: bool, *, base: str | None) -> Recipe:
    draws = (NeighborKind(kind="retrieved", share=1.0, style_named=0.0),)
    shape: dict[str, Any] = {"draws": draws, "view_probability": 0.0, "style_key": None}
    train = TrainConfig(
        steps=200_000,
        batch_size=8,
        learning_rate=1e-4,
        warmup_steps=10_000,
        ema_decay=0.9999,
        save_every=1000,
        sheet_every=5000,
    )
    if not tiny:
        system = ReImagenConfig(unet=unet, text_encoder="google/t5-v1_1-xxl", base=base, **shape)
        return Recipe(name=name, system=system, train=train, size=unet.sample_size)
    size = {64: 16, 256: 32, 1024: 64}[unet.sample_size]
    system = ReImagenConfig(
        unet=small_unet(size, size // 2 if unet.low_size else 0), tower=TowerSizes(buckets=64, dim=16, heads=2), **shape
    )
    return Recipe(name=name, system=system, train=_short(train), size=size, limit=32)


def tiny_reimagen_128(*, tiny: bool = False) -> Recipe:
    """A third stage, from 64 to 128 px, on the bundled cascade. Fits two cores (0.9 M, patches of 4); not trained by
    us yet.

    Command: bowerbird train tiny-reimagen-128 --data drawings.parquet --out runs/tiny-reimagen-128
    """
    base = tiny_reimagen(tiny=tiny)
    if tiny:
        system = base.system.model_copy(update={"unet": small_unet(64, 32)})
        return base.model_copy(update={"name": "tiny-reimagen-128", "system": system, "size": 64})
    unet = UNetSizes(
        sample_size=128,
        low_size=64,
        patch_size=4,
        block_out_channels=(32, 48, 64),
        attention=(False, True, True),
        itself=(False, False, True),
        prediction_type="sample",
    )
    system = base.system.model_copy(update={"unet": unet, "base": "tiny-reimagen"})
    return base.model_copy(update={"name": "tiny-reimagen-128", "system": system, "size": 128})


def small_unet(size: int, low_size: int, *, text_dim: int = 16) -> UNetSizes:
    """The network of a stage from `low_size` to `size` px (0: from noise) in the tiny form of a recipe."""
    return UNetSizes(
        sample_size=size,
        low_size=low_size,
        block_out_channels=(16, 16),
        layers_per_block=(1, 1),
        attention=(False, True),
        itself=(False, True),
        head_channels=8,
        text_dim=text_dim,
        time_dim=16,
        prediction_type="sample" if low_size else "v_prediction",
    )


def _short(train: TrainConfig) -> TrainConfig:
    return train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
