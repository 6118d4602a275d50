"""The second look at likely copies: lay one picture over the other, and ask how surely they agree line by line.

Descriptors say which references are worth the look; they forget where things are. Here the edges of both pictures, at
several sizes and mirrored, are correlated at every shift (half whitened, as in phase correlation); the best shifts are
laid over each other, and in every window the evidence for a copy is counted: for n edge samples that correlate by r,
-n/2 log(1 - r²) nats, less what pictures have that are only alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import tensors
from bowerbird.core.images import square

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.progress import Progress

SIZE = 64
PLANE = 96
"""Edge of the plane that pictures are shifted on: a picture may stick out by half of itself."""
SCALES = (1.0, 0.84, 0.71, 0.59, 0.5)
WINDOWS, STEP = (20, 28, 40, 60), 4
CELL, SHIFTS = 6, 8
ALIKE, SURE = 0.6, 0.97
"""Correlation that is no evidence yet, as of two drawings of one thing; and the highest that is believed."""
BLOCK = 192
"""References whose edge maps are in memory at once, with those of their mirror images: 0.8 MB each."""
CHUNK = 16
"""Pairs at a time: what they need fits the processor's cache."""

# one of the two is shrunk, never both
PAIRS = [(0, j) for j in range(len(SCALES))] + [(i, 0) for i in range(1, len(SCALES))]


@dataclass(frozen=True)
class Match:
    """Of m pairs: `evidence` in nats `(m,)`, and the window of the query it comes from, `(m, 3)`: left, top, edge as
    shares of the picture."""

    evidence: np.ndarray
    window: np.ndarray


def match(
    queries: Sequence[Image.Image],
    references: Sequence[Image.Image],
    pairs: np.ndarray,
    *,
    progress: Progress | None = None,
) -> Match:
    """Lay `references[j]` over `queries[i]` for each row (i, j) of `pairs` `(m, 2)`. Not for turned copies.

    `progress` counts pairs."""
    evidence, window = np.zeros(len(pairs), np.float32), np.zeros((len(pairs), 3), np.float32)
    order = np.argsort(pairs[:, 1], kind="stable")
    block = np.searchsorted(np.unique(pairs[:, 1]), pairs[order, 1]) // BLOCK
    done = 0
    with torch.inference_mode():
        for number in np.unique(block):
            rows = order[block == number]
            rows = rows[np.argsort(pairs[rows, 0], kind="stable")]
            there = np.unique(pairs[rows, 1])
            seen = _pixels([references[n] for n in there])
            plain, mirrored = _planes(seen), _planes(seen.flip(-1))
            for start in range(0, len(rows), CHUNK):
                part = rows[start : start + CHUNK]
                wanted, i = np.unique(pairs[part, 0], return_inverse=True)
                evidence[part], window[part] = _match(
                    _planes(_pixels([queries[n] for n in wanted])),
                    plain,
                    mirrored,
                    torch.from_numpy(i),
                    torch.from_numpy(np.searchsorted(there, pairs[part, 1])),
                )
                done += len(part)
                if progress is not None:
                    progress(done, len(pairs))
    return Match(evidence, window)


def _pixels(pictures: Sequence[Image.Image]) -> Tensor:
    return tensors.to_float(tensors.stack([square(p.convert("RGB"), SIZE) for p in pictures]))


def _blur(m: Tensor) -> Tensor:
    row = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    return F.conv2d(F.pad(m, (2, 2, 2, 2), mode="replicate"), (row[:, None] * row[None])[None, None])


def _edges(x: Tensor) -> Tensor:
    """Float `(n, 3, h, h)` -> `(n, h, h)`: how strong an edge is, in any color and direction, less its
    surroundings."""
    dx, dy = F.pad(x[..., 1:] - x[..., :-1], (0, 1)), F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    strength = (dx**2 + dy**2).amax(1, keepdim=True)
    m = _blur(strength.sqrt().sqrt())  # roots: a tinted line is still a line
    return (m - F.avg_pool2d(F.pad(m, (7, 7, 7, 7), mode="replicate"), 15, stride=1))[:, 0]


@dataclass(frozen=True)
class _Planes:
    """Edge maps of n pictures at each scale on the plane `(n, scales, 96, 96)`, their half-whitened spectra, and the
    spectra's lengths."""

    edges: Tensor
    spectra: Tensor
    lengths: Tensor


def _planes(x: Tensor) -> _Planes:
    found = []
    for scale in SCALES:
        side = round(SIZE * scale)
        smaller = x if side == SIZE else F.interpolate(x, size=(side, side), mode="bicubic", antialias=True)
        found.append(F.pad(_edges(smaller), (0, PLANE - side, 0, PLANE - side)))
    edges = torch.stack(found, 1)
    spectra = torch.fft.rfft2(edges)
    spectra = spectra / (spectra.abs() + 1e-3).sqrt()
    return _Planes(edges, spectra, spectra.abs().square().sum((2, 3)).sqrt().clamp(min=1))


def _match(query: _Planes, plain: _Planes, mirrored: _Planes, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Evidence `(m,)` and window `(m, 3)` of the pairs (i, j)."""
    of_query, of_reference = torch.tensor([a for a, _ in PAIRS]), torch.tensor([b for _, b in PAIRS])
    spectra, lengths = [], []
    for side in (plain, mirrored):
        spectra.append(query.spectra[i][:, of_query] * side.spectra[j][:, of_reference].conj())
        lengths.append(query.lengths[i][:, of_query] * side.lengths[j][:, of_reference])
    table = torch.fft.irfft2(torch.cat(spectra, 1), s=(PLANE, PLANE))
    peaks, where = F.max_pool2d(table, CELL, return_indices=True)  # one shift a cell
    at = (peaks / torch.cat(lengths, 1)[:, :, None, None]).flatten(1).topk(SHIFTS, 1).indices
    place, shift = at // (PLANE // CELL) ** 2, where.flatten(1).gather(1, at)
    dy, dx = shift // PLANE, shift % PLANE
    dy, dx = (torch.where(d >= SIZE, d - PLANE, d) for d in (dy, dx))
    flip, pair = place >= len(PAIRS), place % len(PAIRS)
    row = i[:, None].expand_as(at)
    below = query.edges[row, of_query[pair]][..., :SIZE, :SIZE]
    row = j[:, None].expand_as(at)
    above = torch.where(
        flip[..., None, None], mirrored.edges[row, of_reference[pair]], plain.edges[row, of_reference[pair]]
    )
    steps = torch.arange(SIZE)
    y, x = (steps - dy[..., None]) % PLANE, (steps - dx[..., None]) % PLANE
    above = above.gather(2, y[..., None].expand(-1, -1, -1, PLANE)).gather(3, x[:, :, None].expand(-1, -1, SIZE, -1))
    evidence, window = _evidence(below.flatten(0, 1), above.flatten(0, 1))
    scale = torch.tensor(SCALES)[of_query[pair]]
    evidence, window = evidence.view(at.shape), window.view(*at.shape, 3) / (SIZE * scale[..., None])
    best = evidence.argmax(1, keepdim=True)
    return evidence.gather(1, best)[:, 0], window.gather(1, best[..., None].expand(-1, -1, 3))[:, 0]


def _evidence(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Edge maps laid over each other `(n, 64, 64)` -> the most that any window says `(n,)`, and that window (left,
    top, edge) in pixels."""
    products = torch.stack([a * b, a * a, b * b], 1)
    sums = F.pad(torch.cat([products, products[:, 1:].square()], 1).cumsum(2).cumsum(3), (1, 0, 1, 0))
    best, window = torch.zeros(len(a)), torch.zeros(len(a), 3)
    for side in WINDOWS:
        near, far = slice(0, SIZE - side + 1, STEP), slice(side, SIZE + 1, STEP)
        ab, aa, bb, a4, b4 = (
            sums[..., far, far] - sums[..., near, far] - sums[..., far, near] + sums[..., near, near]
        ).unbind(1)
        r = (ab / (aa * bb).clamp(min=1e-6).sqrt()).clamp(0, SURE)
        # edges are sparse: as many samples as share the energy among them
        n = torch.minimum(aa**2 / a4.clamp(min=1e-6), bb**2 / b4.clamp(min=1e-6)) * ((aa > 1) & (bb > 1))
        gain = n * (0.5 * (math.log(1 - ALIKE**2) - torch.log1p(-(r**2)))).clamp(min=0)
        value, at = gain.flatten(1).max(1)
        here = torch.stack(
            [at % gain.shape[2] * STEP, at // gain.shape[2] * STEP, torch.full_like(at, side)], 1
        ).float()
        window = torch.where((value > best)[:, None], here, window)
        best = torch.maximum(best, value)
    return best, window
