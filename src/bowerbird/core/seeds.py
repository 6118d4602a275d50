"""Randomness with names: every draw comes from a generator made of a seed and the thing it is for.

Picture i depends on seed i alone, batch n of a training on (seed, n, rank) alone, so neither batch size nor a restart
changes a result. The global generators are never touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


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
    import torch

    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Standard normal `(len(generators), *shape)` in float32 on the CPU, row i from generator i.

    Drawn on the CPU on purpose: the same seed gives the same picture on every device.
    """
    import torch

    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])
