"""How different pictures look, in the manner of LPIPS (arXiv 1801.03924): squared differences of a network's features
at each place, of length 1 over the channels; their mean over the places and the stages of the bundled `small` encoder.

Differs from LPIPS: no weights are learned from people's judgments, so its numbers compare with themselves alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import images, tensors

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.models.small_encoder import SmallEncoderModel

BATCH = 32


def perceptual_distances(pictures: Sequence[Image.Image], others: Sequence[Image.Image] | None = None) -> np.ndarray:
    """The distance of each picture to each of `others` (None: to one another), float64 `(n, m)`, from 0 for the same to
    4."""
    first = _features(pictures)
    second = first if others is None else _features(others)
    return np.mean([(2 - 2 * a @ b.T).clip(min=0) for a, b in zip(first, second, strict=True)], axis=0)


def mean_distance(distances: np.ndarray) -> float:
    """DIV of DreamBooth (section 4.1): the mean distance of two different pictures of a set, n >= 2, from their
    distances `(n, n)`."""
    n = len(distances)
    return float((distances.sum() - np.trace(distances)) / (n * (n - 1)))


def _features(pictures: Sequence[Image.Image]) -> list[np.ndarray]:
    """A matrix `(n, channels * places)` a stage, whose rows have length 1."""
    import torch
    from torch.nn import functional as F

    model = _network()
    parts: list[list[torch.Tensor]] = []
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH):
            squares = [images.square(each.convert("RGB"), model.config.image_size) for each in pictures[start:][:BATCH]]
            x, found = tensors.to_float(tensors.stack(squares)), []
            for stage in model.stages:
                x = stage(x)
                unit = F.normalize(x.float(), dim=1)
                found.append(unit.flatten(1) / (unit.shape[2] * unit.shape[3]) ** 0.5)
            parts.append(found)
    return [torch.cat(stage).double().numpy() for stage in zip(*parts, strict=True)]


@cache
def _network() -> SmallEncoderModel:
    from bowerbird.encoders.load import load
    from bowerbird.encoders.small import SmallEncoder
    from bowerbird.models.small_encoder import SmallEncoderModel

    encoder = load("small")
    assert isinstance(encoder, SmallEncoder)
    assert isinstance(encoder.model, SmallEncoderModel)
    return encoder.model
