"""The one place where pictures become tensors and back: PIL or uint8 <-> float in [-1, 1].

Knows nothing of models; every network in the package reads and writes the range fixed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    import torch
    from PIL import Image

Piece = TypeVar("Piece")
NOT_FINITE = (
    "the model's output is not finite: its weights are damaged, or float16 is too narrow for them; compute in float32,"
    " or fetch it again"
)


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 in 0..255 of any shape -> float32 in [-1, 1] of the same shape."""
    return pixels.float().div(127.5).sub(1.0)


def to_uint8(sample: torch.Tensor) -> torch.Tensor:
    """Float in [-1, 1] (clipped) of any shape -> uint8 of the same shape, rounded to nearest."""
    return sample.float().clamp(-1, 1).add(1).mul(127.5).round().byte()


def stack(images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size -> uint8 `(n, 3, H, W)`."""
    import torch

    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def to_pil(sample: torch.Tensor) -> list[Image.Image]:
    """Float `(n, 3, H, W)` in [-1, 1] or uint8 of the same shape -> n RGB pictures."""
    import torch
    from PIL import Image

    pixels = sample if sample.dtype == torch.uint8 else to_uint8(sample)
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def side_by_side(task: Callable[[Piece], torch.Tensor], pieces: Sequence[Piece]) -> list[torch.Tensor]:
    """`task` of each piece, in order, on as many threads as torch would use for one, each with a single torch thread.

    Small pieces go faster so, and decoding threads beside them do not hold up a whole team of torch's.
    """
    import torch

    count = torch.get_num_threads()
    if count == 1 or len(pieces) < 2 * count:
        return [task(piece) for piece in pieces]

    def alone(piece: Piece) -> torch.Tensor:
        torch.set_num_threads(1)  # of this thread; and of threads that start later, until it is set back
        return task(piece)

    try:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(alone, pieces))
    finally:
        torch.set_num_threads(count)


def pick_device(name: str) -> str:
    """The torch device for `name`; `auto` takes a GPU when there is one, `cuda:1` is the second. Raises:
    BowerbirdError when it is not there."""
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise BowerbirdError(f"`device` {name!r} is not known; choose auto, cpu, cuda, cuda:1 or mps")
    if name == "cpu":
        return "cpu"
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next((device for device, found in there.items() if found), "cpu")
    if not there[kind] or (number and int(number) >= torch.cuda.device_count()):
        raise BowerbirdError(
            f"`device={name}`: torch finds none on this machine; use `device=cpu`, or see bowerbird doctor"
        )
    return name
