"""Sample sheets of RDM in training, and of its distillation to few steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import grid
from bowerbird.systems.latent_cache import LatentCache
from bowerbird.systems.rdm.distillation import FewStepObjective
from bowerbird.systems.rdm.objective import RDMObjective


def sheet(objective: RDMObjective, path: Path, *, rows: int = 8) -> None:
    """A row an item: the item, its four neighbors where X is D, three pictures generated from them at weight 1, 2 and
    4."""
    settings = [{"guidance_scale": w, "num_inference_steps": 12} for w in (1.0, 2.0, 4.0)]
    # the cache holds no latents of a D that is not X
    shown = 0 if objective.config.database_share else 4
    _write_sheet(objective.pipeline(), objective.cache, settings, path, rows=rows, shown=shown)


def few_step_sheet(objective: FewStepObjective, path: Path, *, rows: int = 8) -> None:
    """A row an item: the item, its four neighbors, and pictures generated in 1, 2, `segments` and twice as many
    steps."""
    segments = objective.config.segments
    settings = [
        {"guidance_scale": 1.0, "num_inference_steps": steps} for steps in sorted({1, 2, segments, 2 * segments})
    ]
    _write_sheet(objective.pipeline(), objective.cache, settings, path, rows=rows, shown=4)


def _write_sheet(
    pipe: Any, cache: LatentCache, settings: Sequence[dict[str, Any]], path: Path, *, rows: int, shown: int
) -> None:
    """A row an item: the item, the nearest `shown` of its four neighbors, and one picture generated from all four with
    each of the settings."""
    pipe.set_progress_bar_config(disable=True)
    cells = []
    for item, at in cache.examples(4, rows):
        known = at[:shown]
        latents = torch.cat([cache.latents[0, [item]], cache.latents[0, known]]).float()
        hits = cache.neighbors(at)
        generated = [
            pipe(neighbors=hits, generator=seeds.picture_generators(0, 1), **each).images[0] for each in settings
        ]
        cells.append([*tensors.to_pil(pipe.decode_latents(latents)), *[None] * (4 - len(known)), *generated])
    if cells:  # a network without neighbors may be trained on pictures that have none
        grid(cells).save(path)
