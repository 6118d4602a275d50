"""InstructPix2Pix: edits by instruction keep more of the picture for what they change than image-to-image, and than
KNN-Diffusion's edit; and ours, that retrieval lets an instruction name what the model never saw."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bowerbird import encoders
from bowerbird.core import contact_sheet, tensors
from bowerbird.core.types import Encoder, Neighbors
from bowerbird.data.edits.variants import plain
from bowerbird.data.edits.wordings import wordings
from bowerbird.data.scenes.words import with_article
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims import edits
from bowerbird.evaluation.claims.benchmark import Benchmark, paired, per_entity
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.edit_pairs import EditPairs, find
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.metrics.diversity import unit
from bowerbird.systems.instruct.named import named_thing
from bowerbird.systems.instruct.placing import find_place, put

MODEL, RIVAL = "tiny-instruct", "tiny-knn"
IMAGE_SCALES = (1.0, 1.5, 2.2, 3.0, 4.5, 7.0)
CENTER = 1.5
"""The image scale at which arms are compared that are no curve."""
STRENGTHS = (0.35, 0.5, 0.65, 0.8)
SHOWN, SEEDS_SHOWN = 16, 0
KEPT = 23.0
"""Decibels outside the change that an edit has to keep to be counted as both done and kept."""
JUDGE = "small"
"""The encoder of directional similarity; it reads text and pictures."""


@dataclass
class Measured:
    """Of one arm, a list with an array `(n,)` a seed: directional similarity, image similarity, whether the judge sees
    what was asked for, and decibels outside the change. `first`: the pictures of the first seed."""

    direction: list[np.ndarray] = field(default_factory=list)
    image: list[np.ndarray] = field(default_factory=list)
    done: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)
    first: list[Image.Image] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Means with intervals over pairs."""
        named = {
            "directional similarity": self.direction,
            "image similarity": self.image,
            "became what was asked": self.done,
            "psnr outside": self.kept,
            f"became what was asked, and {KEPT:g} dB outside": _both(self),
        }
        return {name: asdict(per_entity(values)) for name, values in named.items()}


def _both(of: Measured) -> list[np.ndarray]:
    """Whether an edit both became what was asked for and kept the rest."""
    return [(done & (kept >= KEPT)).astype(float) for done, kept in zip(of.done, of.kept, strict=True)]


def instructions(pairs: EditPairs, names: list[str], *, held_out: bool) -> list[str]:
    """What is said of each pair: by the first wording that is trained on, or the held-out one."""
    wording = wordings("become", held_out=held_out)[0]
    return [
        wording.format(with_article(plain(names[target])), plain(names[source]))
        for source, target in zip(pairs.source, pairs.target, strict=True)
    ]


def measure(experiment: Experiment) -> Finding:
    """The pairs of the claim `edits`; every arm edits the same sources."""
    benchmark, model = Benchmark(experiment), experiment.model(MODEL)
    pairs, drawings = find(experiment.drawings, edits.PAIRS), experiment.drawings
    sources = tensors.to_pil(drawings.pixels[pairs.source])
    names = [caption.lower() for caption in drawings.captions]
    said, unseen = (instructions(pairs, names, held_out=held) for held in (False, True))
    pipe = benchmark.pipeline(model)
    shown = Neighbors.empty(said)
    if pipe.capabilities.max_references:
        things = [named_thing(text) for text in said]  # as a person's instruction is read, and no more
        shown = replace(edits.found_by_name(drawings, pairs, 1, things), queries=tuple(said))
    by_name = edits.hits_of(experiment, pairs)
    own = pipe.defaults
    usual = {"guidance_scale": own.guidance_scale, "change_threshold": own.change_threshold}
    instructed = {f"instructed, {scale:g}": (shown, {**usual, "image_guidance": scale}) for scale in IMAGE_SCALES}
    center = {**usual, "image_guidance": CENTER}
    alone, worded, other = "without a reference", "held-out wording", "asked for something else"
    arms: dict[str, tuple[str, Neighbors, dict[str, Any]]] = {
        **{name: (model, hits, how) for name, (hits, how) in instructed.items()},
        alone: (model, Neighbors.empty(said), center),
        worded: (model, replace(shown, queries=tuple(unseen)), center),
        other: (model, _turned(shown), center),
        "KNN-Diffusion's edit": (experiment.model(RIVAL), by_name, {}),
        **{
            f"image-to-image, {s:g}": (
                experiment.model(RIVAL), by_name, {"strength": s, "show_source": False},
            )
            for s in STRENGTHS
        },
    }  # fmt: skip
    judge, pasted = encoders.load(JUDGE), "the reference itself, in place"
    found = {name: Measured() for name in (*arms, pasted)}
    as_it_is = _in_place(sources, shown)
    for seed in experiment.settings.seeds:
        _add(found[pasted], benchmark, experiment, pairs, judge, as_it_is)
        for name, (which, hits, how) in arms.items():
            images = benchmark.generate(hits, seed, model=which, sources=sources, **how)
            _add(found[name], benchmark, experiment, pairs, judge, images)
    curve = {name: _mean(found[name].image) for name in instructed}
    rivals = {name: _mean(found[name].image) for name in arms if name.startswith("image-to-image")}
    one = f"instructed, {CENTER:g}"
    as_knn = edits.mix(_mean(found["KNN-Diffusion's edit"].image), curve)
    as_kept = edits.mix(_mean(found[one].image), rivals)
    directions = {name: each.direction for name, each in found.items()}
    rare = np.array([drawings.metadata[i].get("split") == "rare" for i in pairs.target])
    some = rare if rare.any() else np.ones(len(rare), bool)
    known = ~rare if (~rare).any() else np.ones(len(rare), bool)
    # a curve that keeps less everywhere is compared with nothing: what keeps less changes more
    reached = min(curve.values()) <= _mean(found["KNN-Diffusion's edit"].image) <= max(curve.values())
    against_knn = f"directional similarity: {as_knn} − KNN-Diffusion's edit, "
    effects = [
        Effect(
            f"directional similarity: {one} − {as_kept}, of equal image similarity",
            paired(found[one].direction, as_kept.of(directions)),
        ),
        Effect(
            against_knn + ("of equal image similarity" if reached else "which keeps more than any scale does"),
            paired(as_knn.of(directions), found["KNN-Diffusion's edit"].direction),
            needed=reached,
        ),
        Effect(
            f"share that became what was asked with {KEPT:g} dB outside: {one} − KNN-Diffusion's edit",
            paired(_both(found[one]), _both(found["KNN-Diffusion's edit"])),
        ),
        Effect(
            "directional similarity: a held-out wording − the same source, asked for something else",
            paired(found[worded].direction, found[other].direction),
        ),
        Effect(
            "share that became what was asked, rare things: with a reference − without",
            paired([x[some] for x in found[one].done], [x[some] for x in found[alone].done]),
        ),
        Effect(
            "the same, known things in an unseen style",
            paired([x[known] for x in found[one].done], [x[known] for x in found[alone].done]),
            needed=False,
        ),
        Effect(
            "directional similarity: a trained wording − the held-out one",
            paired(found[one].direction, found[worded].direction),
            needed=False,
        ),
    ]
    values = {name: each.summary() for name, each in found.items()}
    lines = {
        "instructed": [_point(found[name]) for name in instructed],
        "image-to-image": [_point(found[name]) for name in rivals],
        **{name: [_point(found[name])] for name in (alone, worded, other, "KNN-Diffusion's edit", pasted)},
    }
    plot = partial(
        plots.curves,
        lines=lines,
        title="Edits: how far as asked, and how much was kept",
        x="image similarity",
        y="directional similarity",
    )
    columns = [one, alone, "KNN-Diffusion's edit", f"image-to-image, {STRENGTHS[1]:g}"]
    sheet = partial(_sheet, pairs, experiment, said, {name: found[name].first for name in columns})
    notes = (
        f"The {len(pairs.source)} pairs of the claim `edits`, {rare.sum()} of rare things; the model's usual text scale"
        f" ({own.guidance_scale:g}), image scales {', '.join(f'{s:g}' for s in IMAGE_SCALES)}; k = 1 drawing"
        f" found by what the instruction names, never the target. Similarities by the encoder {JUDGE!r}: of the"
        " pictures' change with that of the two names, and of the two pictures. The judge of things is independent."
        " Intervals over pairs."
    )
    return Finding(effects, values, notes, plot, sheet)


def _in_place(sources: list[Image.Image], hits: Neighbors) -> list[Image.Image]:
    """Each source with its reference pasted over its thing; itself where there is none."""
    if not hits.k:
        return sources
    made = []
    for source, (reference, *_) in zip(sources, hits.images(), strict=True):
        place = find_place(np.asarray(source))
        made.append(source if reference is None else Image.fromarray(put(np.asarray(reference), place, source.width)))
    return made


def _turned(hits: Neighbors) -> Neighbors:
    """Each source with the instruction and reference of the next pair."""
    return hits.rows(np.roll(np.arange(len(hits)), 1))


def _add(
    into: Measured,
    benchmark: Benchmark,
    experiment: Experiment,
    pairs: EditPairs,
    judge: Encoder,
    images: list[Image.Image],
) -> None:
    drawings = experiment.drawings
    before, after = drawings.pixels[pairs.source], tensors.stack(images)
    shared = judge.shared_dim
    seen = [unit(judge.embed_images(tensors.to_pil(each))) for each in (before, after)]
    said = [
        unit(judge.embed_text([drawings.captions[i] for i in rows])[:, :shared])
        for rows in (pairs.source, pairs.target)
    ]
    meant = [unit(each[:, :shared]) for each in seen]
    into.direction.append((unit(meant[1] - meant[0]) * unit(said[1] - said[0])).sum(1))
    into.image.append((seen[0] * seen[1]).sum(1))
    into.done.append(edits.success(benchmark, experiment, pairs, after))
    into.kept.append(edits.psnr(before, after, ~pairs.changed))
    into.first = into.first or images


def _mean(values: list[np.ndarray]) -> float:
    return float(np.mean(values))


def _point(of: Measured) -> tuple[float, float, float, float]:
    direction = per_entity(of.direction)
    return _mean(of.image), direction.mean, direction.low, direction.high


def _sheet(
    pairs: EditPairs, experiment: Experiment, said: list[str], arms: dict[str, list[Image.Image]], path: Path
) -> None:
    """A row a pair: the source, what each arm makes of it from one seed, and what was asked for."""
    rows = np.linspace(0, len(said) - 1, min(SHOWN, len(said))).astype(int).tolist()
    ends = [tensors.to_pil(experiment.drawings.pixels[part]) for part in (pairs.source, pairs.target)]
    words = ["picture", *arms, "asked for"]
    grid = [(said[i], [ends[0][i], *(images[i] for images in arms.values()), ends[1][i]], words) for i in rows]
    contact_sheet.labeled_grid(grid).save(path)


CLAIM = Claim(
    name="instructed-edits",
    says=(
        "Edits by instruction change more of what was asked for as much kept, also in words that were not trained on;"
        " and retrieval helps where the named thing is rare."
    ),
    source="InstructPix2Pix, arXiv 2211.09800, sections 4.1 and 4.2; the last part is ours",
    varies="how a picture is edited: by instruction at five image scales, by KNN-Diffusion, by image-to-image",
    measures="directional similarity against image similarity, and what an independent judge names",
    measure=measure,
    models=(MODEL,),
)
