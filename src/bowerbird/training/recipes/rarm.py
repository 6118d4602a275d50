"""`tiny-rarm`: the retrieval-augmented autoregressive model at 64 px."""

from __future__ import annotations

from bowerbird.systems.neighbor_sampling import NeighborSampling
from bowerbird.systems.rarm.objective import RARMConfig, RARMSizes
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.drawings import TRAINED_ON
from bowerbird.training.recipes.rdm import MIX


def tiny_rarm(*, tiny: bool = False) -> Recipe:
    """RARM (arXiv 2204.11824) of 5.7M parameters on 16 x 16 tokens of `vq-drawings`, with the neighbors of
    `rdm-drawings`: in 40% of the samples the first neighbor is the picture itself, most of those under colors, grounds
    and lines of their own.

    Command: bowerbird train tiny-rarm --data drawings.parquet --out runs/tiny-rarm
    (`--set system.tokenizer=null` fits a tokenizer to the pictures)
    Differs from the paper: see `systems/rarm/objective.py`.
    """
    train = TrainConfig(
        steps=12000,
        batch_size=32,
        learning_rate=6e-4,
        warmup_steps=300,
        cooldown_fraction=0.4,
        ema_decay=0.999,
        save_every=200,
        sheet_every=1000,
        weight_decay=0.05,
    )
    if not tiny:
        system = RARMConfig(
            encoder="small-patches",
            transformer=RARMSizes(channels=192, layers=6),
            masked=0.1,
            draws=NeighborSampling(mix=MIX, views=4, view_probability=0.7, itself=0.4, varied_views=3, picture_size=64),
        )
        return Recipe(name="tiny-rarm", system=system, train=train, size=128, where=TRAINED_ON, transparency=True)
    system = RARMConfig(
        tokenizer=None,
        symbols=32,
        transformer=RARMSizes(channels=32, layers=1, head_channels=16),
        masked=0.1,
        draws=NeighborSampling(views=2, k_stored=4, itself=0.5, varied_views=1, picture_size=64),
    )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(name="tiny-rarm", system=system, train=shorter, size=128, limit=32, transparency=True)
