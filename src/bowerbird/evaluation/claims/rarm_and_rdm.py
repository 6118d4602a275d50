"""RDM against RARM, with as many parameters, the same data and as many seconds of training."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bowerbird.core import cache, seeds, tensors
from bowerbird.diffusion.conditioning import condition_width
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims import rarm_networks
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Domain, Experiment
from bowerbird.evaluation.features import load_or_make
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds
from bowerbird.systems.rarm.objective import RARMSizes
from bowerbird.training.cached import key, train_once
from bowerbird.training.recipe import Recipe
from bowerbird.training.run import train_recipe

PROBE = 8
"""Steps that say how long one takes."""
RDM, RARM = "RDM", "RARM"
TOKENIZER_FACTOR = 4
"""Pixels a side of a token of the bundled autoencoder."""
FACTS = ("parameters", "steps", "seconds", "decoded")
NOTE = (
    "RARM's width and depth are those whose number of parameters is nearest to RDM's; its steps fill the seconds that"
    " RDM's training takes, both by the median of a few steps that were tried one after the other. Steps are rounded to"
    " ten. Unguided, by the same neighbors. RARM's tokenizer is the bundled autoencoder with a codebook fitted to the"
    " pictures, and nothing else of it is trained: `decoded` is the distance of real pictures that went through each"
    " one's autoencoder and nothing else, which neither can pass."
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
            facts = {fact: [x[f"{name} {fact}"] for x in found] for fact in FACTS}
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
    recipe = rarm_networks.recipe(domain, seed, sizes=sizes)
    took = dict(zip((RDM, RARM), _seconds_a_step(domain, [domain.recipe(seed), recipe]), strict=True))
    steps = max(1, int(round(took[RDM] * domain.settings.train_steps / took[RARM], -1)))
    longer = recipe.model_copy(
        update={"name": f"{recipe.name}-beside-rdm", "train": recipe.train.model_copy(update={"steps": steps})}
    )
    tokens = train_once(longer, domain.pictures, device=domain.device, progress=domain.progress)
    places, counts = {RDM: diffusion, RARM: tokens}, {RDM: domain.settings.train_steps, RARM: steps}
    hits = domain.database(seed).sample(domain.settings.pictures, rarm_networks.K, seed=seed)
    found: dict[str, float] = {
        name: frechet_distance(domain.features(place, hits, seed=seed), domain.real) for name, place in places.items()
    }
    for name, place in places.items():
        pipe = loading.open_pipeline(str(place))
        found[f"{name} parameters"] = _parameters(pipe.networks)
        found[f"{name} steps"], found[f"{name} seconds"] = counts[name], took[name] * counts[name]
        found[f"{name} decoded"] = frechet_distance(_decoded(pipe.vae, domain, seed), domain.real)
    return found


def _seconds_a_step(domain: Domain, recipes: Sequence[Recipe]) -> list[float]:
    """The median of a few steps of each, tried now and one after the other: what a training that was done before took
    says nothing of a busy hour, or of another machine."""

    def tried(recipe: Recipe) -> float:
        short = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": PROBE})})
        with tempfile.TemporaryDirectory() as folder:
            steps = train_recipe(
                short,
                domain.pictures,
                Path(folder),
                device=domain.device,
                caches=cache.directory("latents"),
                sheets=False,
            )
            return statistics.median([report.seconds for report in steps])

    parts = cache.key(PROBE, domain.device, *(key(recipe, domain.pictures) for recipe in recipes))
    kept = load_or_make(
        "samples",
        f"seconds-{parts[:24]}",
        lambda: {"seconds": torch.tensor([tried(recipe) for recipe in recipes], dtype=torch.float64)},
    )
    return [float(x) for x in kept["seconds"]]


def _decoded(autoencoder: Any, domain: Domain, seed: int) -> Any:
    """Features of so many real pictures as are generated, after `autoencoder` encoded and decoded them."""
    rng = seeds.numpy_generator(seed, "decoded")
    count = min(domain.settings.pictures, len(domain.pictures))
    rows = rng.choice(len(domain.pictures), size=count, replace=False)
    parts = []
    with torch.no_grad():
        for part in torch.split(tensors.to_float(domain.pictures.pixels[rows]), 32):
            encoded = autoencoder.encode(part.to(autoencoder.device))
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
            parts.append(tensors.to_uint8(autoencoder.decode(latents).sample.float().cpu()))
    return domain.judge(torch.cat(parts))[0].numpy()


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
