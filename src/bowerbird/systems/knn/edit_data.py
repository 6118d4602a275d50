"""What mask-free local editing learns from: pictures a part of which was replaced by an aligned neighbor.

I_manip = I (1 - M) + nn M: the region M of picture I taken from its neighbor, which ECC laid onto I. The network is
shown I_manip and the embedding of what stood in M, and generates I: it learns which part a condition speaks of, and to
leave the rest.
Source: KNN-Diffusion, arXiv 2204.02849, section 3.3.

Differs from the paper: M has soft edges. A picture that a person brings has no seams, so in a share of the samples M is
everything: then the neighbor is the one of several that is most like the picture already, as an edit changes a part.
In another share nothing was replaced: what is right already stays. A neighbor that ECC cannot lay onto the picture is
taken as it lies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.cache import memoize
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.systems.knn import ecc
from bowerbird.systems.latent_cache import (
    CacheSettings,
    LatentCache,
    encode_latents,
    latents_place,
    views_of,
    with_database,
)
from bowerbird.systems.objective import RunContext
from bowerbird.systems.settings import Count, Share

CANDIDATES = 5
"""Neighbors that one is chosen from."""


class EditSettings(BaseModel):
    """`each`: edits prepared of every picture; `share`: of the samples that are edits; `whole`: of the edits, those
    whose region is everything; `same`: those in which nothing was replaced; `near`: the neighbor is one of so many
    nearest; `sides`: of a region, as shares of the picture; `soft`: width of its edge in pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    each: Count = 6
    share: Share = 0.45
    whole: Share = 0.3
    same: Share = 0.1
    near: Count = 12
    sides: tuple[float, float] = (0.25, 0.75)
    soft: int = 2


@dataclass(frozen=True)
class EditCache:
    """E edits of each of the n pictures: latents of I_manip `(n, E, C, h, w)` float16, embeddings of the region `(n,
    E, d)` float16, and the view `(n, E)` under which both were made."""

    latents: Tensor
    regions: Tensor
    view: Tensor


def region(rng: np.random.Generator, drawn: Any, settings: EditSettings) -> np.ndarray:
    """A soft mask `(S, S)` in 0..1: an ellipse or a box around a point of the drawing (boolean `drawn` `(S, S)`)."""
    size = drawn.shape[0]
    there = np.argwhere(drawn)
    y, x = there[rng.integers(len(there))] if len(there) else rng.integers(size, size=2)
    height, width = rng.uniform(*settings.sides, size=2) * size / 2
    down, right = np.abs(np.arange(size) - y)[:, None] / height, np.abs(np.arange(size) - x)[None] / width
    inside = (down**2 + right**2 <= 1) if rng.random() < 0.5 else (np.maximum(down, right) <= 1)
    mask = torch.from_numpy(inside.astype(np.float32))[None, None]
    edge = settings.soft
    return (
        F.avg_pool2d(F.pad(mask, (edge,) * 4, mode="replicate"), 2 * edge + 1, stride=1)[0, 0].numpy()
        if edge
        else mask[0, 0].numpy()
    )


def replace_part(
    rng: np.random.Generator, target: np.ndarray, near: np.ndarray, settings: EditSettings
) -> tuple[np.ndarray, np.ndarray]:
    """I_manip and the mask of a picture, uint8 `(S, S, 3)` and float `(S, S)`, from its nearest neighbors `(m, S, S,
    3)`."""
    everything = np.ones(target.shape[:2], np.float32)
    luck = rng.random()
    if luck < settings.same or not len(near):
        return target, everything
    if luck < settings.same + settings.whole:
        apart = [np.abs(target.astype(np.int16) - other).mean() for other in near]
        other, mask = near[int(np.argmin(apart))], everything
    else:
        other, mask = near[int(rng.integers(len(near)))], region(rng, np.any(target < 250, axis=2), settings)
    found = ecc.align(other, target)
    other = other if found is None else found
    return np.rint(target * (1 - mask[..., None]) + other * mask[..., None]).astype(np.uint8), mask


@torch.no_grad()
def build_edits(
    settings: EditSettings,
    sampling: CacheSettings,
    cache: LatentCache,
    pictures: Pictures,
    autoencoder: Any,
    encoder: Encoder,
    seed: int,
    device: str = "cpu",
) -> EditCache:
    """Prepare the edits of every picture of X, the first of `pictures`: draw a view, a neighbor and a region, lay the
    neighbor onto the picture, encode and embed."""
    views = views_of(sampling, pictures.size, seed)
    latents, regions, chosen = [], [], []
    for number in range(settings.each):
        rng = seeds.numpy_generator(seed, "edits", number)
        shown, inner, view = [], [], []
        for row in range(cache.latents.shape[1]):
            view.append(int(rng.integers(len(views))) if rng.random() < sampling.view_probability else 0)
            table = cache.tables[int(rng.integers(len(cache.tables)))][row].numpy()
            near = table[table != ABSENT][: settings.near]
            near = rng.permutation(near)[:CANDIDATES]
            pixels = (
                tensors.to_uint8(views[view[-1]](tensors.to_float(pictures.pixels[[row, *near]])))
                .permute(0, 2, 3, 1)
                .numpy()
            )
            picture, mask = replace_part(rng, pixels[0], pixels[1:], settings)
            shown.append(picture)
            inner.append(np.rint(pixels[0] * mask[..., None] + 255 * (1 - mask[..., None])).astype(np.uint8))
        sides = [torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in (shown, inner)]
        latents.append(encode_latents(autoencoder, tensors.to_float(sides[0]), device))
        regions.append(
            torch.from_numpy(
                np.concatenate([encoder.embed_images(tensors.to_pil(part)) for part in torch.split(sides[1], 64)])
            ).half()
        )
        chosen.append(torch.tensor(view))
    return EditCache(torch.stack(latents, 1), torch.stack(regions, 1), torch.stack(chosen, 1))


def cached_edits(
    settings: EditSettings,
    sampling: CacheSettings,
    cache: LatentCache,
    pictures: Pictures,
    autoencoder: Any,
    encoder: Encoder,
    run: RunContext,
) -> EditCache:
    """The edits of a run, from the file beside its latents where the same were made before."""
    sampling, pictures = with_database(sampling, pictures, run)
    path, latents_key = latents_place(sampling, pictures, autoencoder, encoder, run)
    shaping = settings.model_dump_json(exclude={"share"})  # how often they are sampled does not change them
    key = hashlib.sha256(f"{latents_key} {shaping} {sampling.view_probability}".encode()).hexdigest()

    def make() -> dict[str, Tensor]:
        edits = build_edits(settings, sampling, cache, pictures, autoencoder, encoder, run.seed, run.device)
        return {"latents": edits.latents, "regions": edits.regions, "view": edits.view}

    stored = memoize(path.with_name(f"{path.stem}-edits.safetensors"), key, make)
    return EditCache(stored["latents"], stored["regions"], stored["view"])
