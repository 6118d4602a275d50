"""RDM against RARM, with as many parameters, the same data and as many seconds of training."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bowerbird.diffusion.conditioning import condition_width
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims import rarm_networks
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Domain, Experiment
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds
from bowerbird.systems.rarm.objective import RARMSizes
from bowerbird.training.cached import train_once
from bowerbird.training.losses import read_losses

PROBE = 8
"""Steps that say how long one takes."""
RDM, RARM = "RDM", "RARM"
TOKENIZER_FACTOR = 4
"""Pixels a side of a token of the bundled autoencoder."""
NOTE = (
    "RARM's width and depth are those whose number of parameters is nearest to RDM's; its steps fill the seconds that"
    " RDM's training took, both by their median step on this machine, alone or as busy as it was. Steps are rounded to"
    " ten, so that a training is found again. Unguided, by the same neighbors."
)


def measure(experiment: Experiment) -> Finding:
    """Fréchet distance of samples of both."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    rows = []
    for domain in experiment.domains:
        found = [_of_seed(domain, seed) for seed in experiment.settings.seeds]
        effects.append(
            Effect(f"{domain.name}: distance of RARM − of RDM", over_seeds([x[RARM] - x[RDM] for x in found]))
        )
        for name in (RDM, RARM):
            estimate = over_seeds([x[name] for x in found])
            facts = {fact: [x[f"{name} {fact}"] for x in found] for fact in ("parameters", "steps", "seconds")}
            values[f"{domain.name}, {name}"] = {"by seed": [x[name] for x in found], **facts, **asdict(estimate)}
            rows.append((f"{domain.name}, {name}", estimate.mean, estimate.low, estimate.high))
    plot = partial(plots.intervals, rows=rows, title="Equal parameters, data and seconds", label="Fréchet distance")
    return Finding(effects, values, NOTE, plot)


def _of_seed(domain: Domain, seed: int) -> dict[str, float]:
    from bowerbird.systems import loading

    diffusion = domain.model(seed)
    wanted = _parameters(loading.open_pipeline(str(diffusion)).networks)
    sizes = nearest_sizes(
        wanted, positions=(domain.size // TOKENIZER_FACTOR) ** 2, width=condition_width(domain.encoder)
    )
    seconds = _step(diffusion) * domain.settings.train_steps
    recipe = rarm_networks.recipe(domain, seed, sizes=sizes)

    def trained(steps: int) -> Path:
        chosen = recipe.model_copy(
            update={"name": f"{recipe.name}-beside-rdm", "train": recipe.train.model_copy(update={"steps": steps})}
        )
        return train_once(chosen, domain.pictures, device=domain.device, progress=domain.progress)

    steps = max(1, round(seconds / _step(trained(PROBE)), -1))
    places = {RDM: diffusion, RARM: trained(int(steps))}
    hits = domain.database(seed).sample(domain.settings.pictures, rarm_networks.K, seed=seed)
    found: dict[str, float] = {
        name: frechet_distance(domain.features(place, hits, seed=seed), domain.real) for name, place in places.items()
    }
    for name, place in places.items():
        count = len(read_losses(place.parent))
        found[f"{name} parameters"] = _parameters(loading.open_pipeline(str(place)).networks)
        found[f"{name} steps"], found[f"{name} seconds"] = count, _step(place) * count
    return found


def _step(model: Path) -> float:
    """The median of the seconds that a step of its training took."""
    return statistics.median(report.seconds for report in read_losses(model.parent))


def _parameters(networks: list[Any]) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def nearest_sizes(parameters: int, *, positions: int, width: int) -> RARMSizes:
    """The sizes with the number of parameters nearest to `parameters`, for pictures of so many tokens."""
    import torch

    from bowerbird.models.rarm_transformer import RARMTransformer

    def count(wide: int, deep: int) -> int:
        with torch.device("meta"):
            return _parameters([RARMTransformer(512, positions, 64 * wide, deep, embed_dim=width)])

    apart: dict[tuple[int, int], int] = {}
    for wide in range(1, 7):
        one, two = count(wide, 1), count(wide, 2)  # every layer has as many
        apart |= {(wide, deep): abs(one + (deep - 1) * (two - one) - parameters) for deep in range(2, 9)}
    wide, deep = min(apart, key=lambda sizes: apart[sizes])
    return RARMSizes(channels=64 * wide, layers=deep)


CLAIM = Claim(
    name="rarm-and-rdm",
    says="With as many parameters, the same data and as much training time, diffusion generates better than tokens.",
    source="RDM, arXiv 2204.11824, section 4 (its choice of diffusion over RARM)",
    varies="the network: RDM or RARM; parameters, data, neighbors and seconds alike",
    measures="Fréchet distance of unconditional samples (x̃ ~ p_D) to held-out pictures, on our judge's features",
    measure=measure,
)
