"""RealRAG's claim: a retriever that learned from what the generator makes of its results gives more faithful
pictures."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from bowerbird.core import cache
from bowerbird.core.progress import for_stage
from bowerbird.core.types import Neighbors
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import Benchmark, per_entity, temporary_knowledge_base
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment, open_pipeline
from bowerbird.evaluation.entity_draw import TEMPLATES
from bowerbird.evaluation.judge import Judge, train_judge
from bowerbird.evaluation.neighbor_labels import collect_labels
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.knowledge.rerank.learned import LearnedReranker
from bowerbird.knowledge.rerank.registry import NONE, Rerank
from bowerbird.training import cached
from bowerbird.training.checkpoint import CHECKPOINT
from bowerbird.training.recipe import Recipe
from bowerbird.training.recipes.judge import judge as judge_recipe
from bowerbird.training.recipes.reranker import reranker as reranker_recipe
from bowerbird.training.run import train_recipe

MODEL, STEPS = "tiny-rdm-fast", 2
KS = (1, 4)
"""Fewest neighbors, where their order is all, and as many as the model takes by itself."""
QUERIES, CANDIDATES, PICTURES = 160, 10, 1
"""Of other entities, for the reranker to learn from."""
JUDGE_STEPS, JUDGE_BATCH = 240, 64
ARMS = {"search": "as the search has them", "learned": "re-ranked"}


def measure(experiment: Experiment) -> Finding:
    """Top-1 of a judge of the rare entities, from the first k neighbors among all drawings: as the search has them,
    and re-ranked."""
    benchmark = Benchmark(replace(experiment, settings=replace(experiment.settings, sampling_steps=STEPS)))
    prompts = [template.replace("{name}", name) for template in TEMPLATES for name in benchmark.names]
    with temporary_knowledge_base(experiment.drawings) as kb:
        reranker = LearnedReranker(train_reranker(experiment, kb))
        found = {(arm, k): _search(kb, prompts, k, reranker if arm == "learned" else NONE) for arm in ARMS for k in KS}
        judge = _judge_of(benchmark)
        named: dict[tuple[str, int], list[np.ndarray]] = {key: [] for key in found}
        for seed in experiment.settings.seeds:
            for k in KS:
                pair = found["search", k], found["learned", k]
                for arm, shares in _named(benchmark, judge, pair, seed).items():
                    named[arm, k].append(shares)
    estimates = {key: per_entity(values) for key, values in named.items()}
    effects = []
    for k in KS:
        difference = [x - y for x, y in zip(named["learned", k], named["search", k], strict=True)]
        effects.append(Effect(f"top-1, k = {k}: re-ranked − as the search has them", per_entity(difference)))
    labels = {key: f"k = {key[1]}, {ARMS[key[0]]}" for key in found}
    rows = [(labels[key], e.mean, e.low, e.high) for key, e in estimates.items()]
    title = "Rare entities named, from the first k of all drawings"
    plot = partial(plots.intervals, rows=rows, title=title, label="share of pictures")
    right = {key: float(_of_entity(hits, benchmark.entities).mean()) for key, hits in found.items()}
    values = {label: {**asdict(estimates[key]), "neighbors of the entity": right[key]} for key, label in labels.items()}
    kept = float((found["search", 1].ids == found["learned", 1].ids).mean())
    notes = (
        f"{len(benchmark.entities)} entities that neither the model nor the reranker was trained on, {len(TEMPLATES)}"
        f" wordings, found among all {len(experiment.drawings)} drawings by a hybrid search; {MODEL} in {STEPS} steps."
        f" The reranker learned from {QUERIES} searches for other entities, judged by another judge. Neighbors that are"
        f" of the entity, as the search has them and re-ranked: {', '.join(_shares(right, k) for k in KS)}; the first"
        f" neighbor stays the first in {kept:.0%}."
    )
    return Finding(effects, values, notes, plot)


def _named(benchmark: Benchmark, judge: Judge, pair: tuple[Neighbors, Neighbors], seed: int) -> dict[str, np.ndarray]:
    """Of each entity the share of wordings whose picture is named rightly, by arm. What has the same neighbors in both
    is generated once: the model reads no text, and no order."""
    found, learned = pair
    other = np.flatnonzero((np.sort(found.ids, 1) != np.sort(learned.ids, 1)).any(1))
    images = benchmark.generate(Neighbors.stack([found, learned.rows(other)]), seed, model=MODEL)
    seen = judge(judge.prepare(images))[1].argmax(1).numpy()
    wanted = np.tile(np.arange(len(benchmark.entities)), len(TEMPLATES))
    right = seen == np.concatenate([wanted, wanted[other]])
    of_learned = right[: len(found)].copy()
    of_learned[other] = right[len(found) :]
    by_wording = {"search": right[: len(found)], "learned": of_learned}
    return {arm: values.reshape(len(TEMPLATES), -1).mean(0) for arm, values in by_wording.items()}


def _judge_of(benchmark: Benchmark) -> Judge:
    """A judge of the rare entities alone: it is asked for no others, and takes a fifth of the time."""
    recipe = judge_recipe()
    train = recipe.train.model_copy(update={"batch_size": JUDGE_BATCH})
    recipe = recipe.model_copy(update={"name": "judge-rare", "train": train})
    run = benchmark.experiment
    return train_judge(recipe, benchmark.drawings, steps=JUDGE_STEPS, device=run.device, progress=run.progress)


def train_reranker(experiment: Experiment, kb: KnowledgeBase) -> Path:
    """The directory of the reranker for `kb`, of the experiment's drawings; from the cache where it was trained
    before."""
    recipe, pictures = _recipe(), experiment.trainable
    key = f"{cached.key(recipe, pictures)}-{experiment.drawings.fingerprint()[:8]}"
    run = cache.directory("trainings") / f"{recipe.name}-{key}"
    if not (run / "model").is_dir():
        pipe = open_pipeline(MODEL, experiment.device)
        collect_labels(recipe, kb, pipe, pictures, run, progress=experiment.progress)
        report = for_stage(experiment.progress, recipe.name, recipe.train.steps)
        for step in train_recipe(recipe, pictures, run, device=experiment.device, sheets=False):
            report(step.step)
        (run / CHECKPOINT).unlink(missing_ok=True)
    return run / "model"


def _recipe() -> Recipe:
    recipe = reranker_recipe()
    size = {"base": MODEL, "queries": QUERIES, "candidates": CANDIDATES, "pictures": PICTURES}
    return recipe.model_copy(update={"system": recipe.system.model_copy(update=size)})


def _search(kb: KnowledgeBase, prompts: list[str], k: int, rerank: Rerank) -> Neighbors:
    """The first k for each prompt, searched as `generate` does."""
    return kb.search(text=prompts, k=k, typos=False, operators=False, rerank=rerank)


def _of_entity(hits: Neighbors, entities: list[str]) -> np.ndarray:
    """Which neighbors are drawings of the entity that their row asks for, `(Q, K)`."""
    wanted = np.tile(np.array(entities), len(hits) // len(entities))
    codes = np.array([[row.get("hexcode", "") for row in line] for line in hits.metadata])
    return np.asarray(codes == wanted[:, None])


def _shares(right: dict[tuple[str, int], float], k: int) -> str:
    return f"{right['search', k]:.0%} and {right['learned', k]:.0%} (k = {k})"


CLAIM = Claim(
    name="learned-reranking",
    says="Neighbors put into order by what the generator can use give more faithful pictures than as many as found.",
    source="RealRAG, arXiv 2502.00848",
    varies="the order of a search's results: its own, that of a small network trained on the generator's failures",
    measures="share of pictures that an independent judge names as the entity of the prompt, among the rare ones",
    measure=measure,
)
