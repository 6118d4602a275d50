"""One trained model at several guidance scales: how far the generated pictures are from the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.evaluation import features
from bowerbird.evaluation.set_measures import SET_METRICS
from bowerbird.systems import generation
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from bowerbird.core.progress import Progress
    from bowerbird.data.pictures import Pictures
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System

MOST = 64
"""Pictures generated at each scale."""
LEAST = 4
METRICS = ("frechet distance", "kid x 1000", "mean pairwise distance")


def measure(
    pipe: System,
    kb: KnowledgeBase,
    pictures: Pictures,
    scales: Sequence[float],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """A row for each scale: as many pictures from the same neighbors and seeds, against the real ones, on features of
    `small`.

    Raises: BowerbirdError when there are too few pictures.
    """
    if len(pictures) < LEAST:
        raise BowerbirdError(f"{len(pictures)} pictures are too few to measure against; {LEAST} is the least")
    rows = np.unique(np.linspace(0, len(pictures) - 1, min(MOST, len(pictures))).astype(int)).tolist()
    captions = tuple(pictures.captions[row] for row in rows)
    usual = generation.default_settings(pipe)
    if all(caption.strip() for caption in captions):
        request = Request(prompts=captions, k=pipe.defaults.k, search_mode=pipe.defaults.search_mode)
        hits = pipe.retrieve(request, kb, 1)
    else:
        shown = tensors.to_pil(pictures.pixels[rows])
        hits = pipe.check_knowledge_base(kb).search(images=shown, k=pipe.defaults.k)
    extractor = features.load("encoder:small")
    real = features.extract(extractor, tensors.to_pil(pictures.pixels))
    found = []
    for number, scale in enumerate(scales):
        images = generation.generate(pipe, hits, replace(usual, guidance_scale=scale, seed=seed))
        made = features.extract(extractor, images, cached=False)
        found.append(
            {
                "guidance_scale": scale,
                "pictures": len(images),
                **{name: round(SET_METRICS[name](made, real, seed), 4) for name in METRICS},
            }
        )
        if progress is not None:
            progress(number + 1, len(scales), "guidance")
    return found
