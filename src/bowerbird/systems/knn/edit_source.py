"""A picture to edit: its pixels and latents, and where an edit changed it enough to count.

Nobody draws a mask. The network regenerates everything, faintly wrong where it means to keep; what differs little from
the source in latent space is taken for such a fault, and the source's own pixels stand there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import check_opened, frame_of, framed, on_background
from bowerbird.core.types import ABSENT, Encoder, Neighbors
from bowerbird.systems.latent_cache import encode_latents

if TYPE_CHECKING:
    from PIL import Image

PRESERVATION = 0.25
"""How far what is not asked for is drawn to the source; chosen as CHANGE_THRESHOLD is."""
CHANGE_THRESHOLD = 0.6
"""What counts as a change, in units of the latents' deviation; chosen on drawings of known things (docs/log.md)."""
SEEN = 0.2
"""From which difference of colors on a change is seen wholly, and from half of it at all; colors are in [-1, 1]."""
ALIKE = 0.3
"""Within which difference of colors an edit shows the ground that is near."""


Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Source:
    """Pictures to edit, one a row: each whole in a square, and its `boxes` there (left, top, right, bottom); `pixels`
    float `(B, 3, S, S)` in [-1, 1], scaled `latents` `(B, C, h, w)`."""

    pictures: list[Image.Image]
    boxes: list[Box]
    pixels: Tensor
    latents: Tensor


@torch.no_grad()
def encode_source(
    vae: Any, source: Image.Image | Sequence[Image.Image], count: int, edge: int, device: torch.device
) -> Source:
    """Pictures of any size and mode for `count` rows. Raises: BowerbirdError when they do not go evenly on them."""
    squares, boxes = framed_sources(source, count, edge)
    pixels = tensors.to_float(tensors.stack(squares)).to(device)
    latents = encode_latents(vae, pixels, device.type).float().to(device)
    return repeated(squares, boxes, pixels, latents, count)


def repeated(
    squares: Sequence[Image.Image], boxes: Sequence[Box], pixels: Tensor, latents: Tensor, count: int
) -> Source:
    """Each picture on as many rows of `count` as the others."""
    times = count // len(squares)
    rows = [i for i in range(len(squares)) for _ in range(times)]
    return Source([squares[i] for i in rows], [boxes[i] for i in rows], pixels[rows], latents[rows])


def framed_sources(
    source: Image.Image | Sequence[Image.Image], count: int, edge: int
) -> tuple[list[Image.Image], list[Box]]:
    """The pictures to edit, each once: whole in squares of `edge` pixels, and where they are in them. Raises:
    BowerbirdError when they do not go evenly on `count` rows."""
    pictures = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    if not pictures or count % len(pictures):
        raise BowerbirdError(f"{len(pictures)} pictures to edit for {count} to generate; give one, or one a prompt")
    check_opened(pictures, "source")
    squares = [framed(on_background(picture), edge) for picture in pictures]
    return squares, [frame_of(picture.size, edge) for picture in pictures]


def own_query(encoder: Encoder, pictures: Sequence[Image.Image], columns: int) -> Neighbors:
    """Each picture's own embedding as a query without neighbors, padded to `columns` as what it is compared with."""
    embeddings = encoder.embed_images([on_background(picture) for picture in pictures])
    alone = Neighbors.from_embeddings(embeddings[:, None], [["(source)"]] * len(pictures))
    absent = ((0, 0), (0, columns - 1))
    return Neighbors(
        ids=np.pad(alone.ids, absent, constant_values=ABSENT),
        scores=np.pad(alone.scores, absent),
        embeddings=np.pad(alone.embeddings, (*absent, (0, 0))),
        captions=tuple((*row, *[""] * (columns - 1)) for row in alone.captions),
        metadata=tuple((*row, *[{}] * (columns - 1)) for row in alone.metadata),
    )


def change(latents: Tensor, before: Tensor, least: float) -> Tensor:
    """How much of the edit counts at each place, 0..1, `(B, 1, h, w)`: 0 where it differs from `before` by less than
    half of `least`, 1 from `least` on.

    The difference is the root of the mean square over channels, the largest about each place, in units of the latents'
    deviation.
    """
    apart = (latents - before).float().square().mean(1, keepdim=True).sqrt()
    near = F.max_pool2d(apart, 3, stride=1, padding=1)
    near = F.avg_pool2d(F.pad(near, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return ((near - least / 2) / (least / 2)).clamp(0, 1)


def paste_unchanged(images: Tensor, source: Source, latents: Tensor, least: float) -> Tensor:
    """Edited pictures `(B, 3, S, S)` with the source's pixels where the change does not count; `least` 0: all of the
    edit.

    What was not changed comes back in a color a little off, a pale ground most of all, which would stand as a halo
    round what was changed. So how far colors are off near a place is measured where nothing changed; what differs by no
    more than that is the source's too, and where the edit shows the ground that is there the difference is taken away.
    """
    if least <= 0:
        return images
    mask = F.interpolate(
        change(latents, source.latents, least), size=images.shape[-1], mode="bilinear", align_corners=False
    )
    kept = (mask == 0).float()
    off, ground = _near(images - source.pixels, kept), _near(images, kept)
    apart = (images - source.pixels - off).square().mean(1, keepdim=True).sqrt()
    seen = ((apart - SEEN / 2) / (SEEN / 2)).clamp(0, 1)
    anywhere = kept.flatten(1).any(1)[:, None, None, None]  # else all of it changed, and there is nothing to compare
    mask = torch.where(anywhere, mask * seen, mask)
    like_ground = (1 - (images - ground).square().mean(1, keepdim=True).sqrt() / ALIKE).clamp(0, 1)
    return source.pixels * (1 - mask) + (images - off * like_ground).clamp(-1, 1) * mask


def _near(x: Tensor, where: Tensor) -> Tensor:
    """The mean of `x` `(B, C, S, S)` about each place, of the places in `where` `(B, 1, S, S)`; where none is near of
    all of them, and 0 where there are none."""
    reach = 2 * (x.shape[-1] // 4) + 1
    total, count = x.float() * where, where
    for kernel in ((reach, 1), (1, reach)):  # rows, then columns: the square of `reach` would take minutes at 512 px
        padding = (kernel[0] // 2, kernel[1] // 2)
        total, count = (F.avg_pool2d(each, kernel, stride=1, padding=padding) for each in (total, count))
    everywhere = (x * where).sum((2, 3), keepdim=True) / where.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(count > 0, total / count.clamp(min=1e-6), everywhere)


def without_frame(images: Any, source: Source) -> Any:
    """Edited pictures in the shape of their sources, where they are of PIL; arrays stay the squares they are."""
    if not isinstance(images, list):
        return images
    return [image.crop(box) for image, box in zip(images, source.boxes, strict=True)]
