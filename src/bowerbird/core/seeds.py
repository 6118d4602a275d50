"""Randomness with names: every draw comes from a generator made of a seed and the thing it is for.

Picture i depends on seed i alone, batch n of a training on (seed, n, rank) alone, so neither batch size nor a restart
changes a result. The global generators are never touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    import torch

LARGEST = 2**64 - 1
"""The largest seed of a picture."""


def derive(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed that depends on `seed` and on each part of `purpose`, and on nothing else."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """A numpy generator for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))


def torch_generator(seed: int, *purpose: int | str, device: str = "cpu") -> torch.Generator:
    """A torch generator for one purpose, on `device`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


def picture_generators(seed: int, count: int) -> list[torch.Generator]:
    """One CPU generator a picture: picture i is drawn from seed `seed + i`, whatever batch it lands in."""
    return [picture_generator(seed + i) for i in range(count)]


def picture_generator(seed: int) -> torch.Generator:
    """The CPU generator that the picture of this seed is drawn from. Raises: BowerbirdError for what is no seed."""
    import torch

    if not 0 <= seed <= LARGEST:
        raise BowerbirdError(f"a picture's seed is a whole number from 0 to {LARGEST}; got {seed}")
    return torch.Generator().manual_seed(seed)


def noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Standard normal `(len(generators), *shape)` in float32 on the CPU, row i from generator i.

    Drawn on the CPU on purpose: the same seed gives the same picture on every device.
    """
    import torch

    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])
