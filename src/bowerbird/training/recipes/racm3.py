"""`tiny-racm3`: retrieved documents in the prompt of one decoder, at 64 px."""

from __future__ import annotations

from bowerbird.systems.racm3.objective import DecoderSizes, RACM3Config
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.drawings import TRAINED_ON


def tiny_racm3(*, tiny: bool = False) -> Recipe:
    """RA-CM3 (arXiv 2211.12561) for any drawing: 4.3M parameters, up to two documents of caption and picture.

    Command: bowerbird train tiny-racm3 --data drawings.parquet --out runs/tiny-racm3
    (`--set system.tokenizer=null` fits a tokenizer to the pictures)
    Takes: a step of 16 sequences about 4 s of one core without fast bfloat16, 4,000 steps four hours and a half of one.
    Differs from the paper: see `systems/racm3/objective.py`.
    """
    train = TrainConfig(
        steps=4000,
        batch_size=16,
        learning_rate=6e-4,
        warmup_steps=100,
        cooldown_fraction=0.4,
        weight_decay=0.02,
        ema_decay=0.998,
        save_every=200,
        sheet_every=500,
    )
    if not tiny:
        system = RACM3Config(decoder=DecoderSizes(channels=192, layers=8), varied_views=16)
        return Recipe(name="tiny-racm3", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    system = RACM3Config(
        tokenizer=None,
        symbols=32,
        decoder=DecoderSizes(channels=64, layers=2, head_channels=16),
        vocabulary=530,
        views=2,
        varied_views=1,
        k_stored=4,
        style_key=None,
    )
    return Recipe(name="tiny-racm3", system=system, train=shorter, limit=32)
