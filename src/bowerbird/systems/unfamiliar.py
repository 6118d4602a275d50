"""Whether a model is asked for something unlike what it was trained on, in words for the person who asks.

Pictures beyond the limit that a model carries (`models.training_pictures`) are said to be far, and so are sizes far
from the trained one. The line stands in the command's output, on the sheet and in the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.data.picture_statistics import picture_statistics

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.models.training_pictures import TrainingPictures
    from bowerbird.systems.base import System
    from bowerbird.systems.generation import Settings


def find_warnings(
    pipe: System, hits: Neighbors, settings: Settings, sources: Sequence[Image.Image] | None = None
) -> list[list[str]]:
    """For each row of `hits` what a person should know before trusting the picture: its neighbors, or the picture of
    `sources` to edit, are far from what the model was trained on; so is its size."""
    size = pipe.capabilities.far_size(settings.height, settings.width)
    rows = [[] if size is None else [size] for _ in range(len(hits))]
    known = pipe.training_pictures
    if known is None:
        return rows
    for row, far in zip(rows, _neighbor_distances(known, hits), strict=True):
        if far > 1:
            row.append(_line("the neighbors are", far, known))
    if sources is not None:
        edited = known.distances(np.stack([picture_statistics(picture) for picture in sources]))
        for row, far in zip(rows, edited.tolist(), strict=True):
            if far > 1:
                row.append(_line("the picture to edit is", far, known))
    return rows


def _line(what: str, far: float, known: TrainingPictures) -> str:
    usual = "of its own pictures are from each other" if known.own else "drawings of styles it never saw"
    return f"{what} unlike what this model was trained on: {far:.1f} times as far as 99 of 100 {usual}; expect blots"


def _neighbor_distances(known: TrainingPictures, hits: Neighbors) -> list[float]:
    """The mean of each row's neighbors that count, 0 where none has a picture; each item is looked at once."""
    counts = hits.effective_weights > 0
    ids = np.unique(hits.ids[counts])
    if hits.load_images is None or not len(ids):
        return [0.0] * len(hits)
    pictures = hits.load_images(ids[None])[0]
    shown = {int(i): picture_statistics(p) for i, p in zip(ids, pictures, strict=True) if p is not None}
    far = dict(zip(shown, known.distances(np.stack(list(shown.values()))).tolist(), strict=True)) if shown else {}
    rows = [[far[i] for i in row[there].tolist() if i in far] for row, there in zip(hits.ids, counts, strict=True)]
    return [sum(row) / len(row) if row else 0.0 for row in rows]
