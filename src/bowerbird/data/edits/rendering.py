"""The pictures of many edits, drawn by several processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bowerbird.data.edits.pair import Shown, render_shown
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.vocabulary import Vocabulary

PART, FEW = 64, 4096
"""Pictures that are drawn at once; so many are drawn by this process alone."""
MOST_PROCESSES = 12


class _Parts(torch.utils.data.Dataset[Any]):
    """uint8 arrays `(<= PART, 3, size, size)`."""

    def __init__(self, shown: Sequence[Shown], vocabulary: Vocabulary, pictures: Pictures, size: int) -> None:
        self.parts = [shown[start : start + PART] for start in range(0, len(shown), PART)]
        self.given = (vocabulary, pictures, size)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> np.ndarray:
        x = render_shown(self.parts[number], *self.given)
        return np.rint((x.numpy() + 1) * 127.5).astype(np.uint8)


def _as_it_is(part: Any) -> Any:
    """What a process sends: an array, through a pipe, as shared memory is small on many machines."""
    return part


def render_parts(shown: Sequence[Shown], vocabulary: Vocabulary, pictures: Pictures, size: int) -> Iterator[Tensor]:
    """Float `(<= PART, 3, size, size)` in [-1, 1], in order, of 8 bits as files have them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    several = sys.platform == "linux" and len(shown) > FEW and cores > 1
    parts = torch.utils.data.DataLoader(
        _Parts(shown, vocabulary, pictures, size),
        batch_size=None,
        num_workers=min(cores, MOST_PROCESSES) if several else 0,
        collate_fn=_as_it_is,
        multiprocessing_context="fork" if several else None,  # what they read is not copied
    )
    for part in parts:
        yield torch.from_numpy(part).float() / 127.5 - 1
