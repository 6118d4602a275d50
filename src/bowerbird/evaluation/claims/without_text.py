"""KNN-Diffusion, claim 6: trained on pictures alone it generates from texts, and it is the neighbors that let it."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import numpy as np

from bowerbird.core import tensors
from bowerbird.core.types import Neighbors
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import Benchmark, per_entity, temporary_knowledge_base
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.metrics.intervals import Estimate
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.models.unet import UNetConfig
from bowerbird.systems import loading
from bowerbird.systems.base import System
from bowerbird.systems.knn.batches import ConditionSampling
from bowerbird.systems.knn.objective import KNNConfig
from bowerbird.systems.queries import Request
from bowerbird.training.cached import train_once
from bowerbird.training.recipe import Recipe

MODEL = "tiny-knn"
K = 4
MARGIN = 0.10
"""How far text-prompted pictures may stay behind image-prompted ones: ten in a hundred."""
LABELS = {
    "text": "a text and what it finds",
    "image": "a picture and what it finds",
    "image, words": "a picture, and what the text finds",
    "dense": "a text and what its embedding finds",
    "neighbors": "what the text finds, alone",
    "alone": "the text alone",
    "short": "from nothing, with neighbors",
    "short, alone": "from nothing, without",
}


def measure(experiment: Experiment) -> Finding:
    """Top-1 of the judge for pictures of rare things asked for by name, by a drawing, and without neighbors; the same
    for known things beside it."""
    with temporary_knowledge_base(experiment.drawings) as kb:
        benchmark = Benchmark(experiment)
        rare, common = (
            _outcomes(benchmark, experiment, kb, trainings=True),
            _outcomes(Benchmark(experiment, known=True), experiment, kb, trainings=False),
        )

    def apart(right: dict[str, list[np.ndarray]], a: str, b: str, plus: float = 0.0) -> Estimate:
        return per_entity([x.astype(float) - y + plus for x, y in zip(right[a], right[b], strict=True)])

    margin = f", plus the margin of {MARGIN:.0%}"
    effects = [
        Effect(f"top-1, a text − a picture, each with what it finds{margin}", apart(rare, "text", "image", MARGIN)),
        Effect(
            f"top-1, a text − a picture, both with what the text finds{margin}",
            apart(rare, "text", "image, words", MARGIN),
        ),
        Effect("top-1, a text: with neighbors − the same network without", apart(rare, "text", "alone")),
        Effect(
            "top-1, a text: trained from nothing with neighbors − without, as long",
            apart(rare, "short", "short, alone"),
        ),
        Effect("top-1, a text: with what its embedding finds − without", apart(rare, "dense", "alone"), needed=False),
        Effect("top-1, a text and what it finds − what it finds alone", apart(rare, "text", "neighbors"), needed=False),
        Effect(
            f"known things: a text − a picture, each with what it finds{margin}",
            apart(common, "text", "image", MARGIN),
            needed=False,
        ),
        Effect(
            "known things, a text: with neighbors − the same network without",
            apart(common, "text", "alone"),
            needed=False,
        ),
        Effect(
            "known things, a text: with what its embedding finds − without",
            apart(common, "dense", "alone"),
            needed=False,
        ),
    ]
    values = {label: asdict(per_entity(rare[name])) for name, label in LABELS.items()}
    values |= {f"known things: {LABELS[name]}": asdict(per_entity(common[name])) for name in common}
    rows = [(label, value["mean"], value["low"], value["high"]) for label, value in values.items()]
    plot = partial(plots.intervals, rows=rows, title="Things that the judge names", label="share of pictures")
    notes = (
        f"{len(benchmark.entities)} entities that no model was trained on, asked for by their names, and as many known"
        f" ones, in a knowledge base of all {len(experiment.drawings)} drawings; k = {K}. A text finds by hybrid"
        " search, which reads the captions; what its embedding finds reads none. A picture finds by its embedding, and"
        " never itself. Of queries the network reads the numbers that texts and pictures share. The bundled"
        " network saw no text, but a quarter of its neighbor sets were of one thing by its label; the two trained"
        f" here from nothing ({experiment.settings.train_steps} steps, one training a seed) saw no label at all."
        f" {benchmark.describe_judges()}"
    )
    return Finding(effects, values, notes, plot)


def _outcomes(
    benchmark: Benchmark, experiment: Experiment, kb: KnowledgeBase, *, trainings: bool
) -> dict[str, list[np.ndarray]]:
    """Which entities the judge names, by arm, one array a seed."""
    truth = np.arange(len(benchmark.entities))
    pipe = loading.open_pipeline(MODEL)
    names = tuple(benchmark.names)
    text, dense = (pipe.retrieve(Request(prompts=names, k=K, search_mode=mode), kb) for mode in ("hybrid", "dense"))
    neighbors, alone = text.select(range(1, K + 1)), text.select([0])
    right: dict[str, list[np.ndarray]] = {}
    for seed in experiment.settings.seeds:
        drawn = [sorted(benchmark.rows_of(entity).items()) for entity in benchmark.entities]
        shown = [rows[seed % len(rows)] for rows in drawn]
        image = Neighbors.stack(
            [
                _by_picture(pipe, kb, benchmark, entity, *one)
                for entity, one in zip(benchmark.entities, shown, strict=True)
            ]
        )
        arms: dict[str, tuple[Neighbors, str]] = {
            "text": (text, MODEL),
            "image": (image, MODEL),
            "image, words": (Neighbors.concat(image.select([0]), neighbors), MODEL),
            "dense": (dense, MODEL),
            "neighbors": (neighbors, MODEL),
            "alone": (alone, MODEL),
        }
        if trainings:
            arms["short"], arms["short, alone"] = (
                (text, _short(experiment, seed, neighbors=True)),
                (alone, _short(experiment, seed, neighbors=False)),
            )
        for name, (hits, model) in arms.items():
            right.setdefault(name, []).append(
                benchmark.name_entities(benchmark.generate(replace(hits, queries=names), seed, model=model)) == truth
            )
    return right


def _by_picture(pipe: System, kb: KnowledgeBase, benchmark: Benchmark, entity: str, style: str, row: int) -> Neighbors:
    """A drawing as the query, and what it finds besides itself."""
    picture = tensors.to_pil(benchmark.drawings.pixels[[row]])[0]
    return pipe.retrieve(Request(images=(picture,), k=K, where=f"NOT (hexcode = '{entity}' AND style = '{style}')"), kb)


def _short(experiment: Experiment, seed: int, *, neighbors: bool) -> str:
    """A small network trained from nothing, with or without neighbors, for as long; its directory."""
    draws = ConditionSampling(views=2, view_probability=1.0)
    if not neighbors:
        draws = draws.model_copy(update={"neighbor_dropout": 1.0, "query_dropout": 0.0})
    train = experiment.settings.training(seed)
    system = KNNConfig(unet=UNetConfig(block_out_channels=(32, 64, 96)), edits=None, draws=draws)
    recipe = Recipe(name="claim-knn-" + ("with" if neighbors else "without"), system=system, train=train)
    return str(train_once(recipe, experiment.trainable, device=experiment.device, progress=experiment.progress))


CLAIM = Claim(
    name="without-text",
    says=(
        "A model trained without any text generates what a text asks for, because the pictures it retrieves bridge the"
        " gap."
    ),
    source="KNN-Diffusion, arXiv 2204.02849, sections 3.2 and 4.1",
    varies="the query: a text or a picture; neighbors: found by the query or none; the same in training",
    measures=(
        "share of pictures that an independent judge names as the thing asked for, among the rare ones (known ones)"
    ),
    measure=measure,
)
