"""Sample sheets of KNN-Diffusion in training, on latents and on tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import grid
from bowerbird.core.types import Neighbors
from bowerbird.models.vq import to_pictures
from bowerbird.systems.knn.batches import own_query
from bowerbird.systems.knn.discrete_objective import KNNDiscreteObjective
from bowerbird.systems.knn.objective import KNNObjective


def sheet(objective: KNNObjective, path: Path, *, rows: int = 8) -> None:
    """A row an item: the item and three neighbors; generated from both, the neighbors, its own query; then an edit and
    its result."""
    pipe, cache, edits, cells = objective.pipeline(), objective.cache, objective.edits, []
    pipe.set_progress_bar_config(disable=True)
    for item, at in cache.examples(3, rows):
        own, near = own_query(cache, item), cache.neighbors(at)
        both = Neighbors.concat(own, near)
        wanted: list[tuple[Neighbors, dict[str, Any]]] = [(both, {}), (near, {}), (own, {})]
        latents = [cache.latents[0, item], *cache.latents[0, at]]
        if edits is not None:
            number = int(edits.view[item].eq(0).int().argmax())
            latents.append(edits.latents[item, number])
            source = tensors.to_pil(pipe.decode_latents(latents[-1][None].float()))[0]
            wanted.append((both, {"source": source}))
        known = tensors.to_pil(pipe.decode_latents(torch.stack(latents).float()))
        with torch.no_grad():
            generated = [
                pipe(
                    neighbors=hits,
                    guidance_scale=2.0,
                    num_inference_steps=12,
                    generator=seeds.picture_generators(0, 1),
                    **extra,
                ).images[0]
                for hits, extra in wanted
            ]
        count = 1 + len(at)
        cells.append([*known[:count], *[None] * (4 - count), *generated[:3], *known[count:], *generated[3:]])
    if cells:
        grid(cells).save(path)


def discrete_sheet(objective: KNNDiscreteObjective, path: Path, *, rows: int = 8) -> None:
    """A row an item: the item, its query and neighbors generated at weight 1, 2 and 4, and its query alone."""
    pipe, cache, cells = objective.pipeline(), objective.cache, []
    pipe.set_progress_bar_config(disable=True)
    for item, at in cache.examples(3, rows):
        own = own_query(cache, item)
        both = Neighbors.concat(own, cache.neighbors(at))
        shown = torch.cat([torch.tensor([item]), at])
        known = tensors.to_pil(to_pictures(objective.frozen[0], cache.latents[0, shown].long()))
        generated = [
            pipe(
                neighbors=hits, guidance_scale=w, num_inference_steps=25, generator=seeds.picture_generators(0, 1)
            ).images[0]
            for hits, w in ((both, 1.0), (both, 2.0), (both, 4.0), (own, 2.0))
        ]
        cells.append([*known, *[None] * (3 - len(at)), *generated])
    if cells:
        grid(cells).save(path)
