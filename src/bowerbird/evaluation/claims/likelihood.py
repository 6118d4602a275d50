"""RARM: at equal size, steps and tokens, held-out pictures are more probable with their neighbors than to the network
that sees none."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from bowerbird.core import tensors
from bowerbird.core.types import Neighbors
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Domain, Experiment
from bowerbird.evaluation.claims.rarm_networks import K, model
from bowerbird.evaluation.metrics.intervals import over_seeds

AT_ONCE = 32
OWN, OTHERS, DROPPED, NONE = "own neighbors", "another's neighbors", "the same, neighbors dropped", "trained without"


def measure(experiment: Experiment) -> Finding:
    """Bits a token of held-out pictures, by a network with neighbors and one that never saw any."""
    effects: list[Effect] = []
    values, rows = {}, []
    for domain in experiment.domains:
        found = [_bits(domain, seed) for seed in experiment.settings.seeds]
        by = {name: [bits[name] for bits in found] for name in (OWN, OTHERS, DROPPED, NONE)}

        def less(name: str, by: dict[str, list[float]] = by) -> list[float]:
            return [a - b for a, b in zip(by[name], by[OWN], strict=True)]

        effects += [
            Effect(f"{domain.name}: bits a token, {NONE} − {OWN}", over_seeds(less(NONE))),
            Effect(f"{domain.name}: bits a token, {OTHERS} − {OWN}", over_seeds(less(OTHERS))),
            Effect(f"{domain.name}: bits a token, {DROPPED} − {OWN}", over_seeds(less(DROPPED)), needed=False),
        ]
        for name, bits in by.items():
            estimate = over_seeds(bits)
            values[f"{domain.name}, {name}"] = {"by seed": bits, **asdict(estimate)}
            rows.append((f"{domain.name}, {name}", estimate.mean, estimate.low, estimate.high))
    title = "How probable held-out pictures are"
    return Finding(effects, values, NOTE, partial(plots.intervals, rows=rows, title=title, label="bits a token"))


NOTE = (
    "Both networks read the tokens of one tokenizer, fitted to the pictures that are trained on; the likelihood is"
    " exact, as tokens are predicted one by one. Neighbors are the nearest items of the half of the pictures that is"
    " not trained on."
)


def _bits(domain: Domain, seed: int) -> dict[str, float]:
    """The means over held-out pictures, by what they were given."""
    held = domain.held_out.pixels[: domain.settings.pictures]
    queries = domain.encoder.embed_images(tensors.to_pil(held))
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True).clip(min=1e-12)
    hits = domain.database(seed).nearest(unit.astype(np.float32), K)
    others = hits.rows(np.roll(np.arange(len(hits)), len(hits) // 2))
    models = [model(domain, seed, neighbors=on) for on in (True, False)]
    x = tensors.to_float(held)
    return {
        OWN: _mean(models[0], x, hits, domain.device),
        OTHERS: _mean(models[0], x, others, domain.device),
        DROPPED: _mean(models[0], x, hits, domain.device, null=True),
        NONE: _mean(models[1], x, hits, domain.device, null=True),
    }


def _mean(place: Path, x: Tensor, hits: Neighbors, device: str, *, null: bool = False) -> float:
    from bowerbird.systems import loading

    pipe = loading.open_pipeline(str(place)).to(device)
    parts = [np.arange(start, min(start + AT_ONCE, len(x))) for start in range(0, len(x), AT_ONCE)]
    bits = [pipe.bits_per_token(x[part], hits.rows(part), null=null).numpy() for part in parts]
    return float(np.concatenate(bits).mean())


CLAIM = Claim(
    name="likelihood",
    says="Held-out pictures are more probable to an autoregressive model with their neighbors than to one without.",
    source="RDM, arXiv 2204.11824, section 3.2 and appendix (RARM)",
    varies="neighbors of the picture, of another, dropped, and a network trained without; tokenizer and steps alike",
    measures="exact bits a token of held-out pictures",
    measure=measure,
)
