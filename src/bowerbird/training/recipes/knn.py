"""KNN-Diffusion at 64 px: `tiny-knn`, with mask-free editing, from the network of `tiny-rdm`; `tiny-knn-discrete`, on
tokens."""

from __future__ import annotations

from bowerbird.models.unet import UNetConfig
from bowerbird.systems.knn.batches import ConditionSampling
from bowerbird.systems.knn.discrete_objective import KNNDiscreteConfig, TokenSizes
from bowerbird.systems.knn.edit_data import EditSettings
from bowerbird.systems.knn.objective import KNNConfig
from bowerbird.systems.latent_cache import NeighborStrategy
from bowerbird.training.config import TrainConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.small import NEVER_TRAINED_ON

# A text finds one thing in every style there is, a picture finds its own style first; a share of each.
MIX = (
    NeighborStrategy(share=0.15),
    NeighborStrategy(share=0.6, within="style"),
    NeighborStrategy(share=0.25, within="hexcode"),
)
OWN = ("attn2", "conv_in", "conv_out", "encoder_hid_proj", "down_blocks.0", "up_blocks.2")
"""The tensors that change: what reads the condition, and the blocks at full resolution, which copy what an edit leaves.
"""


def tiny_knn(*, tiny: bool = False) -> Recipe:
    """KNN-Diffusion (arXiv 2204.02849) with editing, on pictures alone; goes on from `tiny-rdm`, 1.4 of 9.0 million
    parameters trained.

    Command: bowerbird train tiny-knn --data drawings.parquet --out runs/tiny-knn
    Differs from the paper: see `systems/knn/objective.py` and `batches.py`.
    """
    train = TrainConfig(
        steps=3600,
        batch_size=64,
        learning_rate=5e-4,
        warmup_steps=100,
        cooldown_fraction=0.4,
        ema_decay=0.998,
        save_every=100,
        sheet_every=500,
    )
    if not tiny:
        return Recipe(
            name="tiny-knn",
            system=KNNConfig(base="tiny-rdm", trained=OWN, draws=ConditionSampling(mix=MIX, views=12)),
            train=train,
            where=NEVER_TRAINED_ON,
        )
    unet = UNetConfig(block_out_channels=(32, 32, 32), cross_attention_dim=16)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    system = KNNConfig(unet=unet, edits=EditSettings(each=1), draws=ConditionSampling(views=2, k_stored=4))
    return Recipe(name="tiny-knn", system=system, train=shorter, limit=32)


def tiny_knn_discrete(*, tiny: bool = False) -> Recipe:
    """The discrete backbone on the tokens of `vq-drawings`: 100 times.

    Command: bowerbird train tiny-knn-discrete --data SOURCE
    Differs from the paper: see `systems/knn/discrete_objective.py`.
    """
    train = TrainConfig(
        steps=5000,
        batch_size=48,
        learning_rate=8e-4,
        warmup_steps=200,
        cooldown_fraction=0.4,
        ema_decay=0.998,
        save_every=100,
        sheet_every=500,
    )
    if not tiny:
        draws = ConditionSampling(mix=MIX, views=12)
        return Recipe(
            name="tiny-knn-discrete", system=KNNDiscreteConfig(draws=draws), train=train, where=NEVER_TRAINED_ON
        )
    sizes = TokenSizes(channels=32, layers=1, head_channels=16, times=10)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    system = KNNDiscreteConfig(
        tokenizer=None, symbols=32, transformer=sizes, draws=ConditionSampling(views=2, k_stored=4)
    )
    return Recipe(name="tiny-knn-discrete", system=system, train=shorter, limit=32)
