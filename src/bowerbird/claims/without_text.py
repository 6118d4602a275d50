"""KNN-Diffusion, claim 6: trained on pictures alone it paints from texts, and it is the neighbours that let it."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import numpy as np

from bowerbird import encoders, plots
from bowerbird.claims.bench import Bench, per_entity
from bowerbird.claims.frame import Claim, Effect, Finding
from bowerbird.claims.lab import Lab
from bowerbird.knowledge.graph import knn_graph
from bowerbird.metrics.intervals import Estimate
from bowerbird.recipe import Recipe
from bowerbird.recipes.knn import OWN
from bowerbird.references import join, queries_as_neighbors
from bowerbird.systems.knn import KNNConfig
from bowerbird.systems.knn_draws import ConditionDraws
from bowerbird.train import TrainConfig
from bowerbird.trained import trained
from bowerbird.types import Neighbors

MODEL = "tiny-knn"
K = 4
MARGIN = 0.10
"""How far text-prompted pictures may stay behind image-prompted ones."""
LABELS = {
    "text": "a text and its neighbours", "image": "a picture and its neighbours", "dense": "a text and its neighbours, by embedding",
    "neighbors": "the text's neighbours alone", "alone": "the text alone", "with, short": "trained for this, with neighbours",
    "without, short": "trained for this, without",
}  # fmt: skip


def measure(lab: Lab) -> Finding:
    """Top-1 of the judge for pictures of rare things asked for by name, by a drawing, and without neighbours; the same for known things beside it."""
    bench, known = Bench(lab), Bench(lab, known=True)
    rare, common = _outcomes(bench, lab, trainings=True), _outcomes(known, lab, trainings=False)

    def apart(right: dict[str, list[np.ndarray]], a: str, b: str, plus: float = 0.0) -> Estimate:
        return per_entity([x.astype(float) - y + plus for x, y in zip(right[a], right[b], strict=True)])

    effects = [
        Effect(f"top-1, asked by text − by a picture, plus the margin of {MARGIN:.0%}", apart(rare, "text", "image", MARGIN)),
        Effect("top-1, asked by text: with neighbours − the same network without", apart(rare, "text", "alone")),
        Effect("top-1, asked by text: trained with neighbours − trained without, as long", apart(rare, "with, short", "without, short")),
        Effect("top-1, asked by text and its neighbours − by these neighbours alone", apart(rare, "text", "neighbors"), needed=False),
        Effect(f"known things: asked by text − by a picture, plus {MARGIN:.0%}", apart(common, "text", "image", MARGIN), needed=False),
        Effect("known things, asked by text: with neighbours − the same network without", apart(common, "text", "alone"), needed=False),
    ]
    values = {label: asdict(per_entity(rare[name])) for name, label in LABELS.items()}
    values |= {f"known things: {LABELS[name]}": asdict(per_entity(common[name])) for name in common}
    rows = [(label, value["mean"], value["low"], value["high"]) for label, value in values.items()]
    plot = partial(plots.intervals, rows=rows, title="Things that the judge names", label="share of pictures")
    notes = (
        f"{len(bench.entities)} entities that no model was trained on, asked for by their names, and as many known ones. k = {K}; words find a text's "
        "neighbours among the drawings of these entities ('by embedding': the text's embedding does), the embedding finds a picture's, never itself. "
        f"Of queries the network reads the numbers that texts and pictures share. Trained for this: from tiny-rdm's network, {lab.settings.train_steps} "
        f"steps, no editing, one training a seed. {bench.judges()}"
    )
    return Finding(effects, values, notes, plot)


def _outcomes(bench: Bench, lab: Lab, *, trainings: bool) -> dict[str, list[np.ndarray]]:
    """Which entities the judge names, by arm, one array a seed."""
    truth = np.arange(len(bench.entities))
    encoder = encoders.load("small")
    words = bench.embedded(bench.found(bench.names, K))
    texts = queries_as_neighbors(encoder.embed_text(bench.names)[:, None], [[f"(text) {name}"] for name in bench.names])
    right: dict[str, list[np.ndarray]] = {}
    for seed in lab.settings.seeds:
        shown = np.array([sorted(bench.rows_of(entity).values())[seed % len(bench.rows_of(entity))] for entity in bench.entities])
        pictures = queries_as_neighbors(bench.embeddings[shown][:, None], [["(image)"]] * len(truth))
        arms: dict[str, tuple[Neighbors, str]] = {
            "text": (join(texts, words), MODEL),
            "image": (join(pictures, _near(bench, bench.embeddings[shown], shown)), MODEL),
            "dense": (join(texts, _near(bench, texts.embeddings[:, 0], None)), MODEL),
            "neighbors": (words, MODEL),
            "alone": (texts, MODEL),
        }
        if trainings:
            arms["with, short"] = (join(texts, words), _short(lab, seed, neighbors=True))
            arms["without, short"] = (texts, _short(lab, seed, neighbors=False))
        for name, (hits, model) in arms.items():
            hits = replace(hits, queries=tuple(bench.names))
            right.setdefault(name, []).append(bench.named(bench.paint(hits, seed, model=model)) == truth)
    return right


def _near(bench: Bench, queries: np.ndarray, rows: np.ndarray | None) -> Neighbors:
    """The k drawings nearest to each query in embedding; never the drawing at `rows` that it is of."""
    unit = _unit(bench.embeddings)
    own = np.full(len(queries), -2) if rows is None else rows
    found, _ = knn_graph(_unit(queries), unit, K, query_ids=own, database_ids=np.arange(len(unit)))
    return bench.embedded(bench.given(bench.names, found))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)


def _short(lab: Lab, seed: int, *, neighbors: bool) -> str:
    """A network trained with or without neighbours for as long, its directory."""
    draws = ConditionDraws(views=2, view_probability=1.0, **({} if neighbors else {"neighbor_dropout": 1.0, "query_dropout": 0.0}))
    train = TrainConfig(
        steps=lab.settings.train_steps, learning_rate=5e-4, warmup_steps=50, cooldown_fraction=0.4, ema_decay=0.99, save_every=100,
        sheet_every=10**6, seed=seed,
    )  # fmt: skip
    system = KNNConfig(base="tiny-rdm", trained=OWN, edits=None, draws=draws)
    recipe = Recipe(name="claim-knn-" + ("with" if neighbors else "without"), system=system, train=train)
    return str(trained(recipe, lab.trainable, device=lab.device, progress=lab.progress))


CLAIM = Claim(
    name="without-text",
    says="A model trained without any text paints what a text asks for, because the pictures it retrieves bridge the gap.",
    source="KNN-Diffusion, arXiv 2204.02849, sections 3.2 and 4.1",
    varies="the query: a text or a picture; neighbours: found by the query or none; the same in training",
    measures="share of pictures that an independent evaluator names as the thing asked for, among the rare ones (known ones)",
    measure=measure,
)
