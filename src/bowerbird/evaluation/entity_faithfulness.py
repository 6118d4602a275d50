"""How often a model draws the entity that a prompt names, and keeps the style of the neighbor it was given: EntityDraw
by two judges."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress, for_stage
from bowerbird.core.types import Neighbors
from bowerbird.evaluation.entity_draw import EntityDraw, entity_draw, entity_key
from bowerbird.evaluation.metrics.faithfulness import Faithfulness, faithfulness
from bowerbird.evaluation.metrics.intervals import over_groups
from bowerbird.evaluation.settings import Settings
from bowerbird.systems import generation
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.data.pictures import Pictures
    from bowerbird.evaluation.judge import Judge
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System


def entity_faithfulness(
    pipe: System,
    kb: KnowledgeBase,
    pictures: Pictures,
    judges: tuple[Judge, Judge],
    settings: Settings,
    *,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[tuple[str, float]]]:
    """EntityDraw on the entities of `pictures`, `settings.repeats` pictures a prompt: a part of the report, and the
    share of each entity's pictures that show it, by its name. `judges`: of entity, and of style.

    Nothing where no column names an entity. Raises: BowerbirdError where the judge does not know an entity.
    """
    key = entity_key(pictures, settings.entity_key)
    if key is None:
        return {}, []
    judge, style_judge = judges
    if len(set(pictures.column(key))) < 2:
        return {"note": f"column {key!r} names one entity only: there is nothing to choose among"}, []
    benchmark = entity_draw(pictures, key=key, templates=settings.templates)
    unknown = [e for e in benchmark.entities if e not in judge.entities]
    if unknown:
        raise BowerbirdError(
            f"the judge has never seen {len(unknown)} of the entities ({unknown[0]!r} first); train it on this data"
        )
    columns = np.array([judge.entities.index(e) for e in benchmark.entities])
    request = Request(
        prompts=benchmark.prompts, k=settings.k, search_mode=pipe.defaults.search_mode, allow_no_neighbors=True
    )
    hits = pipe.retrieve(request, kb, settings.repeats)
    images = generation.generate(pipe, hits, settings.generate, progress=for_stage(progress, "EntityDraw", len(hits)))
    verdicts = judge(judge.prepare(images))[1].numpy()[:, columns]
    logits = verdicts.reshape(len(benchmark.prompts), settings.repeats, len(columns))
    found = _scores(benchmark, faithfulness(logits, benchmark.truth, benchmark.truth), settings)
    real_truth = np.array([benchmark.entities.index(e) for e in pictures.column(key)])
    real = judge(judge.prepare(tensors.to_pil(pictures.pixels)))[1].numpy()[:, columns].argmax(1) == real_truth
    found["top-1 on these real pictures (the judge may have seen them in training)"] = float(real.mean())
    found["judge"] = {"fingerprint": judge.fingerprint, "style_fingerprint": style_judge.fingerprint}
    found |= _of_first_neighbors(benchmark, hits, images, style_judge, key, settings)
    per_entity = (logits.argmax(2) == benchmark.truth[:, None]).reshape(len(benchmark.entities), -1).mean(1)
    return found, [(name, float(value)) for name, value in zip(benchmark.names, per_entity, strict=True)]


def _scores(benchmark: EntityDraw, scored: Faithfulness, settings: Settings) -> dict[str, Any]:
    return {
        "entities": len(benchmark.entities),
        "prompts": len(benchmark.prompts),
        "pictures a prompt": settings.repeats,
        "top-1, mean over pictures": asdict(scored.top1),
        "top-5, mean over pictures": asdict(scored.top5),
        f"best of {settings.repeats}": asdict(scored.best),
    }


def _of_first_neighbors(
    benchmark: EntityDraw,
    hits: Neighbors,
    images: list[Image.Image],
    style_judge: Judge,
    key: str,
    settings: Settings,
) -> dict[str, Any]:
    """How often the nearest neighbor shows the entity, and how often a picture has the neighbor's style; nothing of
    what the metadata does not say."""
    found: dict[str, Any] = {}
    shown = [str(row[0].get(key, "")) for row in hits.metadata[:: settings.repeats]]
    if any(shown):
        found["first neighbor shows the entity"] = float(
            np.mean([s == benchmark.entities[t] for s, t in zip(shown, benchmark.truth, strict=True)])
        )
    wanted = [str(row[0].get(settings.style_key, "")) for row in hits.metadata] if settings.style_key else []
    if any(w in style_judge.styles for w in wanted):
        named = np.array([style_judge.styles[i] for i in style_judge(style_judge.prepare(images))[2].argmax(1)])
        same = (named == np.array(wanted)).reshape(len(benchmark.entities), -1)
        found["style of the nearest neighbor kept"] = asdict(over_groups(same))
    return found
