"""Sample sheets of an adapter in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bowerbird.core import seeds, tensors
from bowerbird.core.contact_sheet import labeled_grid
from bowerbird.core.types import Neighbors
from bowerbird.data.scenes.words import with_article
from bowerbird.systems.grounded.adapter_training.objective import IPAdapterObjective


def sheet(objective: IPAdapterObjective, path: Path, *, rows: int = 8) -> None:
    """A row a drawing that is trained on: the drawing and its reference, then pictures of its name, without and with
    the reference, and of no name."""
    data = objective.data
    chosen = np.linspace(0, data.counts[0] - 1, min(rows, data.counts[0])).astype(int)
    embeddings = data.embeddings[data.shows[chosen, 0]].float().numpy()
    base = objective.frozen[0]
    with torch.no_grad():
        latents = data.latents[chosen].to(base.vae.device, torch.float32) / base.vae.config.scaling_factor
        items = tensors.to_pil(base.vae.decode(latents + (base.vae.config.shift_factor or 0.0)).sample.cpu())
    names = [data.names[row] for row in chosen]
    draw_sheet(objective.pipeline(), names, embeddings, items, path)


def references(prompts: Sequence[str], embeddings: np.ndarray) -> Neighbors:
    """One reference for each prompt, by its embedding `(n, d)`."""
    shape = (len(prompts), 1)
    return Neighbors(
        ids=np.arange(len(prompts), dtype=np.int64)[:, None],
        scores=np.ones(shape, np.float32),
        embeddings=embeddings[:, None],
        captions=(("",),) * len(prompts),
        metadata=(({},),) * len(prompts),
        queries=tuple(prompts),
    )


def generate(
    pipe: Any, prompts: Sequence[str], embeddings: np.ndarray, *, scale: float = 1.0, steps: int = 12
) -> list[Image.Image]:
    """A picture for each prompt with its reference; without at scale 0."""
    pipe.set_progress_bar_config(disable=True)
    found: list[Image.Image] = pipe(
        neighbors=references(prompts, embeddings),
        generator=seeds.picture_generators(0, len(prompts)),
        scale=scale,
        guidance_scale=3.0,
        num_inference_steps=steps,
    ).images
    return found


def draw_sheet(
    pipe: Any, names: Sequence[str], embeddings: np.ndarray, shown: Sequence[Image.Image], path: Path
) -> None:
    """A row a name: the picture `shown`, generated without reference, with it, with it and no name, and with it on a
    ground."""
    named = [f"{with_article(name)}" for name in names]
    columns = {
        "without": generate(pipe, named, embeddings, scale=0.0),
        "with": generate(pipe, named, embeddings),
        "a picture of it": generate(pipe, ["a picture of it"] * len(names), embeddings),
        "on light blue": generate(pipe, [f"{each} on light blue" for each in named], embeddings),
    }
    lines = [
        (name, [shown[row], *(pictures[row] for pictures in columns.values())], ["", *columns])
        for row, name in enumerate(names)
    ]
    labeled_grid(lines).save(path)
