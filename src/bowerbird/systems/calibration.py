"""What a similarity means in a knowledge base: which share of its own captions is less like their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import cache, seeds
from bowerbird.systems import relevance

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase


@dataclass(frozen=True, eq=False)
class Calibration:
    """`own`: cosines of the knowledge base's captions with their pictures, ascending `(n,)`."""

    own: np.ndarray

    def relevance(self, cosines: np.ndarray) -> np.ndarray:
        """The share of `own` that is below each, from 0 to 1, float32 of the shape of `cosines`."""
        below = np.searchsorted(self.own, cosines.reshape(-1), "left") / len(self.own)
        return below.reshape(cosines.shape).astype(np.float32)


def calibrate(kb: KnowledgeBase) -> Calibration:
    """The calibration of `kb`, kept in the cache, as it takes an embedding of a thousand captions.

    Raises: BowerbirdError where no item has a caption.
    """
    import torch

    dim, sample = kb.encoder.shared_dim, relevance.SAMPLE
    chosen = seeds.numpy_generator(0, "relevance").permutation(kb.ids())[:sample]  # an id says picture and caption
    key = cache.key("own cosines", kb.encoder_fingerprint, dim, chosen.astype(np.int64))

    def make() -> dict[str, torch.Tensor]:
        return {"own": torch.from_numpy(relevance.own_cosines(kb, dim, text=True).astype(np.float32))}

    file = cache.directory("relevance") / f"{key[:32]}.safetensors"
    return Calibration(cache.memoize(file, key, make)["own"].numpy())
