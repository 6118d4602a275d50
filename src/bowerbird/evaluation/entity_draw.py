"""EntityDraw: can a model draw the thing that a prompt names, for things it was never trained on?

One function makes it from any pictures with a column that names the entity: every entity, under every template.
Verdicts are a judge's, among the entities of the benchmark (`metrics.faithfulness`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures

TEMPLATES = ("{name}", "a picture of {name}", "{name}, drawn small on white")
ENTITY_KEYS = ("entity", "hexcode", "class")


@dataclass(frozen=True)
class EntityDraw:
    """`prompts` with the index of each one's entity in `entities` (`truth`, int64); `names[i]` is what entity i is
    called."""

    entities: tuple[str, ...]
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    truth: np.ndarray


def entity_key(pictures: Pictures, wanted: str | None = None) -> str | None:
    """The metadata column that names the entity: `wanted`, else the first of entity, hexcode, class that every row
    has; None without.

    Raises: BowerbirdError when `wanted` is not there.
    """
    there = {key for key in (*ENTITY_KEYS, *([wanted] if wanted else [])) if all(pictures.column(key))}
    if wanted is not None and wanted not in there:
        columns = sorted({key for row in pictures.metadata for key in row})
        raise BowerbirdError(
            f"the data has no column {wanted!r} filled in every row; it has {', '.join(columns) or 'none'}"
        )
    return next((key for key in ([wanted] if wanted else ENTITY_KEYS) if key in there), None)


def entity_draw(
    pictures: Pictures, *, key: str, templates: tuple[str, ...] = TEMPLATES, limit: int | None = None
) -> EntityDraw:
    """The benchmark over the entities in column `key`, in order (the first `limit`); an entity is called by its
    commonest caption.

    Raises: BowerbirdError when there are fewer than two entities, or a template does not hold {name}.
    """
    wrong = [t for t in templates if "{name}" not in t]
    if wrong or not templates:
        raise BowerbirdError(
            f"template {wrong[0] if wrong else ''!r}: write where the name goes, for example 'a picture of {{name}}'"
        )
    labels = pictures.column(key)
    captions: dict[str, Counter[str]] = {}
    for label, caption in zip(labels, pictures.captions, strict=True):
        captions.setdefault(label, Counter())[caption] += 1
    entities = tuple(sorted(captions))[:limit]
    if len(entities) < 2:
        raise BowerbirdError(f"column {key!r} names {len(entities)} entity; the benchmark needs two or more")
    names = tuple(min(captions[e], key=lambda c: (-captions[e][c], c)) or e for e in entities)
    prompts = tuple(
        template.replace("{name}", name) for name in names for template in templates
    )  # not format: braces are text
    return EntityDraw(entities, names, prompts, np.repeat(np.arange(len(entities)), len(templates)))
