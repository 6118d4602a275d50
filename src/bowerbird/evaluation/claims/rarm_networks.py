"""The RARMs that claims train from nothing, with neighbors and without; every claim about them shares these
trainings."""

from __future__ import annotations

from pathlib import Path

from bowerbird.evaluation.claims.experiment import Domain
from bowerbird.systems.neighbor_sampling import NeighborSampling
from bowerbird.systems.rarm.objective import RARMConfig, RARMSizes
from bowerbird.training.cached import train_once
from bowerbird.training.recipe import Recipe

K = 4
SIZES = RARMSizes(channels=128, layers=4)


def recipe(domain: Domain, seed: int, *, neighbors: bool = True, sizes: RARMSizes | None = None) -> Recipe:
    """RARM at the size of claims; X and D disjoint halves, as `Domain.recipe` has them."""
    draws = NeighborSampling(
        k=K,
        vary_k=False,
        views=2,
        view_probability=1.0 if neighbors else 0.0,
        database_share=0.5,
        pool=K,
        null_probability=0.1 if neighbors else 1.0,
    )
    system = RARMConfig(tokenizer=None, transformer=sizes or SIZES, draws=draws)
    name = f"claim-{domain.name}-rarm-" + ("k" if neighbors else "none")
    return Recipe(name=name, system=system, train=domain.settings.training(seed), size=domain.size)


def model(domain: Domain, seed: int, *, neighbors: bool = True) -> Path:
    """The trained pipeline's directory."""
    chosen = recipe(domain, seed, neighbors=neighbors)
    return train_once(chosen, domain.pictures, device=domain.device, progress=domain.progress)
