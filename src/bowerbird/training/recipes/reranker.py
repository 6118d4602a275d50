"""`reranker`: which of the candidates of a search a generator can use."""

from __future__ import annotations

from bowerbird.training.config import TrainConfig
from bowerbird.training.objectives.reranker import RerankerConfig
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.small import NEVER_TRAINED_ON


def reranker(*, tiny: bool = False) -> Recipe:
    """Candidates of searches over a knowledge base, each generated from alone, and named by a judge that is trained on
    the same items; then a network of some thousand weights over it.

    Command: bowerbird train reranker --kb my-kb --base tiny-rdm-fast --out runs/reranker
    """
    train = TrainConfig(
        steps=300,
        batch_size=64,
        learning_rate=5e-4,
        warmup_steps=20,
        cooldown_fraction=0.5,
        weight_decay=1.0,
        ema_decay=0.99,
        precision="no",
        save_every=200,
        sheet_every=10**6,
    )
    if not tiny:
        return Recipe(
            name="reranker",
            system=RerankerConfig(),
            train=train,
            where=NEVER_TRAINED_ON,
            split_column=None,
            limit=20_000,
        )
    system = RerankerConfig(queries=4, candidates=4, pictures=1, steps=2, judge_steps=2, entity_key="class", hidden=4)
    shorter = train.model_copy(update={"steps": 2, "batch_size": 4, "warmup_steps": 1})
    return Recipe(name="reranker", system=system, train=shorter, split_column=None, limit=64)
