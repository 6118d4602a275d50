"""`tiny-rdm`: retrieval-augmented diffusion at 64 px, and the same network without retrieval."""

from __future__ import annotations

from bowerbird.models.unet import UNetConfig
from bowerbird.systems.latent_cache import NeighborStrategy
from bowerbird.systems.rdm.distillation import FewStepConfig
from bowerbird.systems.rdm.objective import RDMConfig
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.small import NEVER_TRAINED_ON

# A network generates its training distribution: of the single neighbors it learns from, about 80% are in the target's
# own style under this mix (all of the second part, a third of the first, none of the last), so a database of one style
# is generated in that style.
MIX = (
    NeighborStrategy(share=0.15),
    NeighborStrategy(share=0.75, within="style"),
    NeighborStrategy(share=0.10, within="hexcode"),
)


def tiny_rdm(*, tiny: bool = False) -> Recipe:
    """RDM (arXiv 2204.11824) on the latents of `tiny-autoencoder`, neighbors of `small`, k from 1 to 4.

    Command: bowerbird train tiny-rdm --data drawings.parquet --out runs/tiny-rdm
    Differs from the paper: see `systems/rdm/objective.py`.
    """
    train = TrainConfig(
        steps=18000,
        batch_size=64,
        learning_rate=5e-4,
        warmup_steps=200,
        cooldown_fraction=0.25,
        ema_decay=0.999,
        save_every=250,
        sheet_every=1000,
        keep_steps=(2000,),
    )
    if not tiny:
        return Recipe(name="tiny-rdm", system=RDMConfig(mix=MIX, views=12), train=train, where=NEVER_TRAINED_ON)
    unet = UNetConfig(block_out_channels=(32, 32, 32), cross_attention_dim=16)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1, "keep_steps": ()})
    return Recipe(name="tiny-rdm", system=RDMConfig(unet=unet, views=2, k_stored=4), train=shorter, limit=32)


def tiny_rdm_no_neighbors(*, tiny: bool = False) -> Recipe:
    """The same network, data and steps with the null in place of every neighbor: what retrieval is measured against.

    Command: bowerbird train tiny-rdm-no-neighbors --data drawings.parquet --out runs/tiny-rdm-no-neighbors
    Compare it with `runs/tiny-rdm/model-2000`, which has seen as many pictures.
    """
    base = tiny_rdm(tiny=tiny)
    train = (
        base.train
        if tiny
        else base.train.model_copy(update={"steps": 2000, "cooldown_fraction": 0.0, "keep_steps": ()})
    )
    return base.model_copy(
        update={
            "name": "tiny-rdm-no-neighbors",
            "system": base.system.model_copy(update={"neighbors": False}),
            "train": train,
        }
    )


def tiny_rdm_fast(*, tiny: bool = False) -> Recipe:
    """`tiny-rdm` distilled to 2 steps of one pass, guidance included; low-rank changes of its weights.

    Reached (2026-11-26, 15 minutes on two cores): Frechet distance 1.03 times that of 100 guided steps, rare things
    1.11 (benchmarks/steps.py). The bundle is the result's model_index.json, scheduler/ and factors/.

    Command: bowerbird train tiny-rdm-fast --data drawings.parquet --out runs/tiny-rdm-fast
    Differs from the papers: see `systems/rdm/distillation.py`.
    """
    train = TrainConfig(
        steps=800,
        batch_size=64,
        learning_rate=2e-3,
        warmup_steps=50,
        cooldown_fraction=0.6,
        weight_decay=0.0,
        ema_decay=0.99,
        save_every=50,
        sheet_every=200,
    )
    if not tiny:
        return Recipe(
            name="tiny-rdm-fast",
            system=FewStepConfig(draws=RDMConfig(mix=MIX, views=12)),
            train=train,
            where=NEVER_TRAINED_ON,
        )
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(
        name="tiny-rdm-fast", system=FewStepConfig(draws=RDMConfig(views=2, k_stored=4)), train=shorter, limit=32
    )
