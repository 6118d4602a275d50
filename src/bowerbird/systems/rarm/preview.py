"""Sample sheets of RARM in training."""

from __future__ import annotations

from pathlib import Path

import torch

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import grid
from bowerbird.core.types import Neighbors
from bowerbird.models.vq import to_pictures
from bowerbird.systems.rarm.objective import RARMObjective

SETTINGS = ({"guidance_scale": 1.0}, {"guidance_scale": 1.5}, {"guidance_scale": 3.0}, {"guidance_scale": 0.0})


def sheet(objective: RARMObjective, path: Path, *, rows: int = 8) -> None:
    """A row an item: the item as its tokens give it back, its four neighbors where X is D, three pictures generated
    from them at weight 1, 1.5 and 3, and one without neighbors."""
    pipe, cache = objective.pipeline(), objective.cache
    pipe.set_progress_bar_config(disable=True)
    examples, cells = cache.examples(4, rows), []
    for k in sorted({len(at) for _, at in examples}, reverse=True):  # one batch for all of one k
        part = [(item, at) for item, at in examples if len(at) == k]
        hits = Neighbors.stack([cache.neighbors(at) for _, at in part])
        generated = [
            pipe(neighbors=hits, generator=[seeds.picture_generator(0) for _ in part], **each).images
            for each in SETTINGS
        ]
        known = 0 if objective.config.draws.database_share else k
        for number, (item, at) in enumerate(part):
            shown = torch.cat([torch.tensor([item]), at[:known]])
            there = tensors.to_pil(to_pictures(objective.frozen[0], cache.latents[0, shown].long()))
            cells.append([*there, *[None] * (4 - known), *(images[number] for images in generated)])
    if cells:
        grid(cells).save(path)
