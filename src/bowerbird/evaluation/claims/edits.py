"""KNN-Diffusion, claim 8: without a mask, edits change what was asked and keep the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bowerbird import encoders
from bowerbird.core import tensors
from bowerbird.core.types import ABSENT, Encoder, Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import Benchmark, neighbors_at, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.edit_pairs import EditPairs, find
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.metrics.intervals import Estimate
from bowerbird.knowledge.search import bm25

MODEL = "tiny-knn"
K = 4
PAIRS = 120
STRENGTHS = (0.25, 0.35, 0.45, 0.5, 0.6, 0.7, 0.8)
"""Of plain image-to-image: how much of the noise its start is put under."""
CONTROL = "edit, asked for something else"


def measure(experiment: Experiment) -> Finding:
    """Is it what was asked for, and how near to the source elsewhere: edits, against image-to-image with the same
    network, prompt and neighbors."""
    benchmark = Benchmark(experiment)
    pairs = find(experiment.drawings, PAIRS)
    before, wanted = experiment.drawings.pixels[pairs.source], experiment.drawings.pixels[pairs.target]
    sources, hits = tensors.to_pil(before), hits_of(experiment, pairs)
    other = hits.rows(np.roll(np.arange(len(hits)), 1))
    arms: dict[str, tuple[Neighbors, dict[str, Any]]] = {
        "edit": (hits, {}),
        "edit, all of it": (hits, {"change_threshold": 0.0}),
        CONTROL: (other, {}),
    }
    plain = {
        f"image-to-image, {s:g}": (hits, {"strength": s, "show_source": False, "change_threshold": 0.0})
        for s in STRENGTHS
    }
    pasted = {
        f"image-to-image, {s:g}, small changes undone": (hits, {"strength": s, "show_source": False}) for s in STRENGTHS
    }
    arms |= plain | pasted
    done: dict[str, list[np.ndarray]] = {name: [] for name in arms}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in arms}
    for seed in experiment.settings.seeds:
        for name, (given, edit) in arms.items():
            images = tensors.stack(benchmark.generate(given, seed, model=MODEL, sources=sources, **edit))
            done[name].append(success(benchmark, experiment, pairs, images))
            kept[name].append(psnr(before, images, ~pairs.changed))
    succeeded, decibels = ({name: per_entity(values) for name, values in side.items()} for side in (done, kept))
    # the rival keeps, or succeeds, exactly as much on average: it takes one of two strengths by chance
    as_kept, as_kept_pasted = (
        mix(decibels["edit"].mean, {name: decibels[name].mean for name in side}) for side in (plain, pasted)
    )
    as_done = mix(succeeded["edit"].mean, {name: succeeded[name].mean for name in plain})
    untouched, real = (
        [success(benchmark, experiment, pairs, pixels)] * len(experiment.settings.seeds) for pixels in (before, wanted)
    )
    rare = np.array([experiment.drawings.metadata[i].get("split") == "rare" for i in pairs.target])

    def apart(a: list[np.ndarray], b: list[np.ndarray]) -> Estimate:
        return per_entity([x.astype(float) - y for x, y in zip(a, b, strict=True)])

    effects = [
        Effect("share that became what was asked: edit − the source as it is", apart(done["edit"], untouched)),
        Effect(
            "share that became what was asked: edit − the same source, asked for something else",
            apart(done["edit"], done[CONTROL]),
        ),
        Effect(
            f"share that became what was asked: edit − {as_kept}, which keeps as much",
            apart(done["edit"], as_kept.of(done)),
        ),
        Effect(f"the same: edit − {as_kept_pasted}", apart(done["edit"], as_kept_pasted.of(done)), needed=False),
        Effect(f"PSNR outside the change, dB: edit − {as_done}, as successful", apart(kept["edit"], as_done.of(kept))),
    ]
    values: dict[str, Any] = {
        name: {"became what was asked": asdict(succeeded[name]), "psnr outside": asdict(decibels[name])}
        for name in arms
    }
    values["judge"] = {
        "of the sources as they are": asdict(per_entity(untouched)),
        "of the drawings asked for": asdict(per_entity(real)),
    }
    if 1 < rare.sum() < len(rare):
        values["edit, by target"] = {
            n: asdict(per_entity([x[rows] for x in done["edit"]]))
            for n, rows in (("rare things", rare), ("the style", ~rare))
        }
    lines = {"image-to-image": [_point(succeeded[name], decibels[name]) for name in plain]}
    lines["the same, small changes undone"] = [_point(succeeded[name], decibels[name]) for name in pasted]
    lines |= {name: [_point(succeeded[name], decibels[name])] for name in ("edit", "edit, all of it", CONTROL)}
    plot = partial(
        plots.curves,
        lines=lines,
        title="Edits: what was asked, and what was kept",
        x="PSNR outside the change, dB",
        y="became what was asked",
    )
    notes = (
        f"{len(rare)} pairs of drawings of one collection that differ in 3 to 40% of the picture; the first is the"
        f" source, the second's name the prompt, and k = {K} drawings found by that name, never the second itself. No"
        f" model was trained on the second: {rare.sum()} are of rare things, the others of known things in the style"
        f" openmoji. 'Became what was asked': of the {len(_candidates(experiment, pairs))} things of all pairs the"
        f" judge names the one asked for; it does for {np.mean(real):.0%} of the real second drawings and"
        f" {np.mean(untouched):.0%} of the first. PSNR outside: where the two drawings agree, against the source; the"
        f" autoencoder alone reaches {_autoencoder(experiment, pairs):.1f} dB. Intervals over pairs."
    )
    return Finding(effects, values, notes, plot)


@dataclass(frozen=True)
class Mixture:
    """A rival that takes the arm `first` with probability `share` and else the arm `second`."""

    first: str
    second: str
    share: float

    def __str__(self) -> str:
        return self.first if self.share == 1 else f"{self.first} or else {self.second.removeprefix('image-to-image, ')}"

    def of(self, values: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
        """What it is expected to reach, one array a seed."""
        return [
            self.share * a.astype(float) + (1 - self.share) * b
            for a, b in zip(values[self.first], values[self.second], strict=True)
        ]


def mix(target: float, means: dict[str, float]) -> Mixture:
    """The arms next to `target` on either side, in such shares that their mean is it; the nearest arm alone where all
    lie on one side."""
    order = sorted(means, key=lambda name: means[name])
    for low, high in pairwise(order):
        if means[low] <= target <= means[high] and means[low] < means[high]:
            return Mixture(high, low, (target - means[low]) / (means[high] - means[low]))
    nearest = min(order, key=lambda name: abs(means[name] - target))
    return Mixture(nearest, nearest, 1.0)


def _point(success: Estimate, psnr: Estimate) -> tuple[float, float, float, float]:
    return psnr.mean, success.mean, success.low, success.high


def _candidates(experiment: Experiment, pairs: EditPairs) -> list[str]:
    """The things that the judge chooses among: all that occur in the pairs."""
    code = experiment.drawings.column("hexcode")
    return sorted({code[i] for rows in (pairs.source, pairs.target) for i in rows})


def hits_of(experiment: Experiment, pairs: EditPairs) -> Neighbors:
    """The embedding of each target's name, and the k drawings found by it, without the target itself."""
    encoder = encoders.load("small")
    near = found_by_name(experiment.drawings, pairs, K, encoder=encoder)
    names = list(near.queries)
    return Neighbors.concat(
        Neighbors.from_embeddings(encoder.embed_text(names)[:, None], [[f"(text) {name}"] for name in names]), near
    )


def found_by_name(
    drawings: Pictures,
    pairs: EditPairs,
    k: int,
    said: Sequence[str | None] | None = None,
    *,
    encoder: Encoder | None = None,
) -> Neighbors:
    """The k drawings found by each target's name, or by what is `said` of it (None: nothing), without the target
    itself; with their embeddings by an `encoder`, for models that generate from those."""
    names = [drawings.captions[i] for i in pairs.target] if said is None else [name or "" for name in said]
    index = bm25.build(drawings.captions, [""] * len(drawings))
    ids = np.full((len(names), k), ABSENT, np.int64)
    for i, (name, target) in enumerate(zip(names, pairs.target, strict=True)):
        allowed = np.arange(len(drawings)) != target
        if name:
            ids[i] = bm25.search(index, np.arange(len(drawings)), name, k, allowed)[0]
    found = neighbors_at(drawings, names, ids)
    if encoder is None:
        return found
    used = np.unique(ids[ids != ABSENT])
    known = dict(zip(used.tolist(), encoder.embed_images(tensors.to_pil(drawings.pixels[used])), strict=True))
    vectors = np.stack(
        [[known[i] if i != ABSENT else np.zeros(encoder.dim, np.float32) for i in row] for row in ids.tolist()]
    )
    return replace(found, embeddings=vectors)


def success(benchmark: Benchmark, experiment: Experiment, pairs: EditPairs, pixels: torch.Tensor) -> np.ndarray:
    """Whether the judge, choosing among the things of all pairs, names the one asked for, `(n,)`."""
    candidates, code = _candidates(experiment, pairs), experiment.drawings.column("hexcode")
    logits = benchmark.judge(pixels)[1][:, [benchmark.judge.entities.index(c) for c in candidates]]
    found: np.ndarray = logits.argmax(1).numpy() == np.array([candidates.index(code[i]) for i in pairs.target])
    return found


def psnr(before: torch.Tensor, after: torch.Tensor, where: np.ndarray) -> np.ndarray:
    """Decibels at the boolean places `where` `(n, S, S)` of uint8 pictures `(n, 3, S, S)`."""
    squared = ((before.float() - after.float()) / 255).square().mean(1).numpy()
    error = (squared * where).sum((1, 2)) / where.sum((1, 2)).clip(min=1)
    found: np.ndarray = -10 * np.log10(error.clip(min=1e-6))
    return found


def _autoencoder(experiment: Experiment, pairs: EditPairs) -> float:
    """What the sources keep of themselves when they are only encoded and decoded, in decibels outside the change."""
    from bowerbird.systems import loading

    pipe = loading.open_pipeline(MODEL)
    pixels = experiment.drawings.pixels[pairs.source]
    with torch.no_grad():
        parts = [
            pipe.vae.decode(pipe.vae.encode(tensors.to_float(part)).latent_dist.mean).sample
            for part in torch.split(pixels, 64)
        ]
    return float(psnr(pixels, tensors.to_uint8(torch.cat(parts)), ~pairs.changed).mean())


CLAIM = Claim(
    name="edits",
    says=(
        "Without a mask, edits change what was asked and keep the rest, better than image-to-image with the same"
        " network."
    ),
    source="KNN-Diffusion, arXiv 2204.02849, sections 3.3 and 4.4",
    varies="how the source enters: shown to the network, or as the start of sampling under more or less noise",
    measures=(
        "share of pictures that became what was asked, by an independent judge; PSNR where nothing was asked to change"
    ),
    measure=measure,
)
