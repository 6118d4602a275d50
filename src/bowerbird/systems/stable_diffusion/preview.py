"""Sample sheets of a text-to-image model in training."""

from __future__ import annotations

from pathlib import Path

import torch

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import grid
from bowerbird.core.types import Neighbors
from bowerbird.data.scenes.grammar import caption
from bowerbird.systems import common
from bowerbird.systems.stable_diffusion.objective import StableDiffusionObjective


def sheet(objective: StableDiffusionObjective, path: Path, *, rows: int = 10) -> None:
    """A row an item, drawings and scenes by turns: the item, and pictures generated from its caption at weight 1, 3
    and 6."""
    drawings, every = len(objective.vocabulary), len(objective.shown)
    rng = seeds.numpy_generator(0, "sheet")
    chosen = [
        int(rng.integers(drawings, every) if i % 2 or not drawings else rng.integers(drawings)) for i in range(rows)
    ]
    pipe = objective.pipeline()
    pipe.set_progress_bar_config(disable=True)
    hits = Neighbors.empty([caption(objective.shown[i]) for i in chosen])
    with torch.no_grad():
        latents = objective.latents[chosen].float()
        items = tensors.to_pil(common.decode_latents(objective.frozen[0], latents))
    generated = [
        pipe(
            neighbors=hits,
            generator=seeds.picture_generators(0, rows),
            guidance_scale=scale,
            num_inference_steps=12,
        ).images
        for scale in (1.0, 3.0, 6.0)
    ]
    grid([list(row) for row in zip(items, *generated, strict=True)]).save(path)
