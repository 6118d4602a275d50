"""What a reranker learns from: each candidate of a search is generated from alone, and a judge says whether the picture
shows what was asked for.

Queries are the names of things in a knowledge base, in a few wordings, and their tags where there are some. Labels are
kept a few queries a file, so that collecting goes on where it was cut.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import files, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.lock import lock
from bowerbird.core.progress import Progress, for_stage
from bowerbird.core.text import json_ready
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation.entity_draw import TEMPLATES
from bowerbird.evaluation.judge import Judge, train_judge
from bowerbird.knowledge.rerank.facts import candidate_facts
from bowerbird.systems import generation
from bowerbird.training.objectives.reranker import COLLECTED, LABELS, RerankerConfig
from bowerbird.training.recipes.judge import judge as judge_recipe

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System
    from bowerbird.training.recipe import Recipe

TOGETHER = 8
"""Queries in a file of labels."""
BATCH = 32
MOST_TAGS = 4
JUDGE_SEED = 1
"""Another than that of the judge that measures: what is learned must not be the taste of one network."""


@dataclass(frozen=True)
class Query:
    """A text, and what its picture should be named."""

    text: str
    entity: str


def make_queries(pictures: Pictures, config: RerankerConfig, seed: int) -> list[Query]:
    """As many as `config` says: every thing once, in random order, then again; asked for by its name in a wording of
    `TEMPLATES`, or by its tags. Raises: BowerbirdError when there are fewer than two things."""
    entities = entities_of(pictures, config.entity_key)
    names: dict[str, Counter[str]] = {}
    tags: dict[str, list[str]] = {}
    for entity, caption, metadata in zip(entities, pictures.captions, pictures.metadata, strict=True):
        names.setdefault(entity, Counter())[caption] += 1
        given = metadata.get("tags")
        tags.setdefault(entity, [str(tag) for tag in given] if isinstance(given, list) else [])
    known = sorted(entity for entity in names if entity and names[entity].most_common(1)[0][0].strip())
    if len(known) < 2:
        raise BowerbirdError(
            f"a reranker needs two things with a name, and these pictures have {len(known)}; give captions, or name the"
            " column that says what they show: --set system.entity_key=COLUMN"
        )
    rng = seeds.numpy_generator(seed, "queries")
    rounds = -(-config.queries // len(known))
    order = [known[i] for _ in range(rounds) for i in rng.permutation(len(known))][: config.queries]
    queries = []
    for number, entity in enumerate(order):
        kind = number % (len(TEMPLATES) + 1)
        if kind == len(TEMPLATES) and tags[entity]:
            text = " ".join(tags[entity][i] for i in sorted(rng.permutation(len(tags[entity]))[:MOST_TAGS].tolist()))
        else:
            text = TEMPLATES[kind % len(TEMPLATES)].replace("{name}", names[entity].most_common(1)[0][0])
        queries.append(Query(text, entity))
    return queries


def entities_of(pictures: Pictures, key: str | None) -> list[str]:
    """What each picture shows: its value in column `key`, or its caption where `key` is None."""
    return pictures.column(key) if key is not None else [caption.strip() for caption in pictures.captions]


def load_judge(recipe: Recipe, pictures: Pictures, *, device: str = "cpu", progress: Progress | None = None) -> Judge:
    """The judge that `recipe`'s system names, or one trained on `pictures` (cached)."""
    config = _config(recipe)
    if config.judge is not None:
        return Judge(Path(config.judge))
    own = judge_recipe()
    key = config.entity_key or "caption"
    if config.entity_key is None:
        named = zip(pictures.metadata, entities_of(pictures, None), strict=True)
        pictures = replace(pictures, metadata=tuple({**row, key: entity} for row, entity in named))
    style = "style" if all(pictures.column("style")) else key
    system = own.system.model_copy(update={"entity_key": key, "style_key": style})
    train = own.train.model_copy(update={"seed": JUDGE_SEED})
    own = own.model_copy(update={"system": system, "train": train})
    return train_judge(own, pictures, steps=config.judge_steps, device=device, progress=progress)


def collect_labels(
    recipe: Recipe,
    kb: KnowledgeBase,
    pipe: System,
    pictures: Pictures,
    out: Path,
    *,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the labels of `recipe` into the folder of the run `out`; the same call goes on where it was cut.

    `pictures`: the items of `kb` that the recipe trains on, whose names are the queries; candidates are those items,
    by `recipe.where`. `judge`: None is `load_judge`'s, on the device of `pipe`. Raises: BowerbirdError when labels of
    another model, judge or knowledge base are there.
    """
    config, folder = _config(recipe), out / LABELS
    queries = make_queries(pictures, config, recipe.train.seed)
    judge = judge or load_judge(recipe, pictures, device=pipe.device.type, progress=progress)
    note = _note(recipe, kb, pipe, judge, queries)
    files.make_folder(folder)
    with lock(folder / ".lock", f"{folder}: another process is collecting these labels; wait for it", 0):
        started = folder / "started.json"
        if started.is_file() and files.read_json(started, "note on labels") != json_ready(note):
            raise BowerbirdError(
                f"{folder}: labels of another model, judge, knowledge base or other settings are there; name another"
                " folder"
            )
        files.write_json(started, note)
        known = {name: number for number, name in enumerate(judge.entities)}
        report = for_stage(progress, "generating from each candidate")
        for start in range(0, len(queries), TOGETHER):
            path = folder / f"{start:06d}.safetensors"
            if not path.is_file():
                _label(queries[start : start + TOGETHER], kb, pipe, judge, known, recipe, path)
            report(min(start + TOGETHER, len(queries)), len(queries))
        files.write_json(folder / COLLECTED, note)


def _label(
    queries: Sequence[Query],
    kb: KnowledgeBase,
    pipe: System,
    judge: Judge,
    known: dict[str, int],
    recipe: Recipe,
    path: Path,
) -> None:
    """Search, generate and judge a few queries, and write their labels to `path`."""
    import torch

    config, texts = _config(recipe), [query.text for query in queries]
    found = kb.search(
        text=texts,
        k=min(config.candidates, len(kb)),
        mode=pipe.defaults.search_mode,
        where=recipe.where,
        typos=False,
        operators=False,
    )
    rows, columns = np.nonzero(found.mask)
    alone = Neighbors.stack(
        [found.rows([row]).select([column]) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
    )
    settings = generation.default_settings(pipe)
    settings = replace(settings, steps=config.steps or settings.steps)
    seeds_of = [
        [seeds.derive(recipe.train.seed, "labels", query.text, i) for i in range(config.pictures)] for query in queries
    ]  # the same for each candidate of a query: they differ by the candidate alone
    numbers = [number for row in rows for number in seeds_of[row]]
    images = generation.generate(pipe, alone.repeat(config.pictures), settings, picture_seeds=numbers, batch=BATCH)
    seen = judge(judge.prepare(images))[1].argmax(1).numpy()
    truth = np.array([known.get(query.entity, -1) for query in queries])[rows]
    named = np.full(found.ids.shape, -1, np.float32)
    named[rows, columns] = (seen.reshape(-1, config.pictures) == truth[:, None]).mean(1)
    vectors = kb.encoder.embed_text(texts)
    arrays = {
        "facts": candidate_facts(found, vectors),
        "candidates": found.embeddings.astype(np.float32),
        "queries": vectors.astype(np.float32),
        "named": named,
    }
    files.save_tensors(path, {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()})


def _note(recipe: Recipe, kb: KnowledgeBase, pipe: System, judge: Judge, queries: Sequence[Query]) -> dict[str, Any]:
    """What the labels depend on."""
    config = _config(recipe)
    asked = json.dumps([[query.text, query.entity] for query in queries]).encode("utf-8", "surrogatepass")
    return {
        "queries": len(queries),
        "asked": hashlib.sha256(asked).hexdigest()[:16],
        "candidates": config.candidates,
        "pictures": config.pictures,
        "steps": config.steps,
        "where": recipe.where,
        "seed": recipe.train.seed,
        "model": pipe.fingerprint(),
        "judge": judge.fingerprint,
        "items": len(kb),
        "version": kb.version,
        "encoder": kb.encoder_name,
        "encoder_print": kb.encoder_fingerprint,
        "shared_dim": kb.encoder.shared_dim,
    }


def _config(recipe: Recipe) -> RerankerConfig:
    assert isinstance(recipe.system, RerankerConfig)
    return recipe.system
