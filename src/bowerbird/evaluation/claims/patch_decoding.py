"""DAiD: tokens drawn with the nearest windows of the database besides, nothing trained."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.core import cache, seeds
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims import rarm_networks
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Domain, Experiment
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds
from bowerbird.systems.latent_cache import fit_size, part_rows
from bowerbird.systems.patches import PatchBase, PatchDecoding, PatchSettings

WEIGHT = 0.3
WEIGHTS = (0.0, 0.1, WEIGHT, 0.5)
PICTURES = 300
"""Of the database, whose windows are looked at."""


def measure(experiment: Experiment) -> Finding:
    """Fréchet distance with windows of several weights, and without."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for domain in experiment.domains:
        found = {weight: experiment.each_seed(partial(_distance, domain, weight)) for weight in WEIGHTS}
        plain = found[0.0]
        effects += [
            Effect(
                f"{domain.name}: distance without − with windows at {weight:g}",
                over_seeds([a - b for a, b in zip(plain, found[weight], strict=True)]),
                weight == WEIGHT,
            )
            for weight in WEIGHTS[1:]
        ]
        estimates = {weight: over_seeds(distances) for weight, distances in found.items()}
        values |= {
            f"{domain.name}, weight {weight:g}": {"by seed": found[weight], **asdict(e)}
            for weight, e in estimates.items()
        }
        lines[domain.name] = [(weight, e.mean, e.low, e.high) for weight, e in estimates.items()]
    notes = (
        f"Windows of {PICTURES} pictures of the database, the 64 nearest a token; the weight {WEIGHT:g} was chosen"
        " before anything was measured."
    )
    title = "Windows of the database beside the model"
    plot = partial(plots.curves, lines=lines, title=title, x="weight of the windows", y="Fréchet distance")
    return Finding(effects, values, notes, plot)


def _distance(domain: Domain, weight: float, seed: int) -> float:
    model = rarm_networks.model(domain, seed)
    hits = domain.database(seed).sample(domain.settings.pictures, rarm_networks.K, seed=seed)
    patches = None
    if weight:
        windows = _windows(domain, model, seed)
        patches = replace(windows, settings=replace(windows.settings, weight=weight))
    return frechet_distance(domain.features(model, hits, seed=seed, patches=patches), domain.real)


def _windows(domain: Domain, model: Path, seed: int) -> PatchDecoding:
    """The windows of pictures of D, as the model's own tokenizer encodes them."""
    import torch

    from bowerbird.models.vq import to_tokens
    from bowerbird.systems import loading

    config = rarm_networks.recipe(domain, seed).system
    rows = part_rows(config.draws, len(domain.pictures), seed)[1]  # type: ignore[attr-defined]
    rows = np.sort(seeds.numpy_generator(seed, "windows").permutation(rows)[:PICTURES])
    vae = loading.open_pipeline(str(model)).vae
    with torch.no_grad():
        codes = to_tokens(vae, fit_size(domain.pictures.pixels[rows], domain.size)).cpu().numpy()
    side = round(codes.shape[1] ** 0.5)
    book = vae.quantize.embedding.weight.detach().float().cpu().numpy()
    key = cache.key("windows of a claim", codes)
    return PatchDecoding(PatchSettings(weight=WEIGHT), key, PatchBase(codes.reshape(-1, side, side), book))


CLAIM = Claim(
    name="patch-decoding",
    says="Drawing tokens with what followed the nearest windows of the database gives better pictures, untrained.",
    source="AR-RAG, arXiv 2506.06962, section 3.1 (DAiD)",
    varies="the weight of the windows beside the model; network, neighbors and seeds alike",
    measures="Fréchet distance of unconditional samples (x̃ ~ p_D) to held-out pictures, on our judge's features",
    measure=measure,
)
