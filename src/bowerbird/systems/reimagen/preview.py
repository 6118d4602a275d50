"""Sample sheets of a Re-Imagen stage in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import grid
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.systems.reimagen.objective import ReImagenObjective


def sheet(objective: ReImagenObjective, path: Path, *, rows: int = 8) -> None:
    """A row a picture: it, two neighbors, then generated from text and neighbors, from neighbors alone, from text
    alone."""
    pipe, pictures, batches = objective.pipeline(), objective.pictures, objective.batches
    pipe.set_progress_bar_config(disable=True)
    low_size = objective.config.unet.low_size

    def generate(item: int, prompt: str, near: list[int]) -> Any:
        if not prompt and not near:
            return None
        hits = Neighbors.from_images(
            [prompt], tensors.to_pil(pictures.pixels[near]) if near else [], [pictures.captions[r] for r in near]
        )
        options: dict[str, Any] = {}
        if low_size:
            own = F.interpolate(tensors.to_float(pictures.pixels[[item]]), size=low_size, mode="area")
            options["low_resolution"] = tensors.to_pil(own)
        return pipe(neighbors=hits, num_inference_steps=12, generator=seeds.picture_generators(0, 1), **options).images[
            0
        ]

    cells = []
    for item in np.linspace(0, len(pictures) - 1, rows).astype(int).tolist():
        found = batches.tables[0][item]
        near = found[found != ABSENT][:2].tolist()
        style = batches.styles[item]
        text = f"{pictures.captions[item]}, {style} style" if style else pictures.captions[item]
        shown: list[Any] = [*tensors.to_pil(pictures.pixels[[item, *near]]), *[None] * (2 - len(near))]
        cells.append([*shown, generate(item, text, near), generate(item, "", near), generate(item, text, [])])
    grid(cells).save(path)
