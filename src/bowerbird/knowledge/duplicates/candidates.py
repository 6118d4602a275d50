"""Which pairs of pictures could be copies of each other, cheaply: a few pairs among the square of all.

Everything here works on grids, uint8 `(n, GRID, GRID, 3)`: each picture stretched to a small square. It may say too
much, which `same_picture` then looks at; what it leaves out is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import seeds
from bowerbird.core.progress import Progress
from bowerbird.knowledge.duplicates.same_picture import LEAST_SHARE, TURNS, Place, View, scaled, turned

if TYPE_CHECKING:
    import faiss

GRID = 16
"""Edge of a grid."""
NEAREST = 16
"""So many nearest descriptors of each picture are looked at. More copies of one picture than that are found through
each other."""
RADIUS = 10.0
"""The most that grids of copies differ, root mean square in levels of 255: small ones saved with losses reach 7."""
BLOCK = 4096
CELLS = 6
"""Edge of what a window of a grid is compared as."""
LIKELY = 0.22
"""Squared difference of a window and a picture, relative to the picture's variance, up to which it is looked at."""
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
ASPECT_STEP = 0.05
"""Windows of one relative aspect ratio stand for those that differ by less, in logarithms."""


def grid_of(view: View) -> np.ndarray:
    """A picture as a grid; on black where nothing of it shows on white."""
    pixels = view.pixels[..., :3]
    if view.pixels.shape[2] == 4 and int(pixels.max()) - int(pixels.min()) < 8:
        pixels = (pixels * (view.pixels[..., 3:] / 255.0)).astype(np.uint8)
    return scaled(pixels, GRID, GRID).round().astype(np.uint8)


def descriptors(grids: np.ndarray) -> np.ndarray:
    """Grids as float32 `(n, 60)` that no turn changes; they are no further apart than the grids are, turned as fits
    best, in sums over half as many cells each way.

    Each is made of the cells that turns put in each other's place: their mean, and their standard deviation.
    """
    half = GRID // 2
    cells = grids.reshape(len(grids), half, 2, half, 2, 3).mean((2, 4), dtype=np.float32)
    views = np.stack([turned(cells, turn) for turn in range(len(TURNS))])
    rows, columns = np.triu_indices(half // 2)  # one of each set of eight
    orbits = views[:, :, rows, columns]
    sizes = np.where(rows == columns, 4, 8)[:, None]
    made = np.stack([orbits.mean(0) * np.sqrt(sizes), orbits.std(0) * np.sqrt(sizes)], axis=1)
    return np.ascontiguousarray(made.reshape(len(grids), -1), np.float32)


def whole_pairs(
    grids: np.ndarray, rows: np.ndarray, progress: Progress | None = None
) -> Iterator[tuple[int, int, list[int]]]:
    """Pairs `i < j` of `rows` (positions in it) that may show the same as a whole, and the turns by which `j` may come
    from `i`."""
    import faiss

    vectors = np.concatenate([descriptors(grids[rows[s : s + BLOCK]]) for s in range(0, len(rows), BLOCK)])
    index = _index(vectors)
    radius = RADIUS**2 * 3 * (GRID // 2) ** 2
    width = min(NEAREST + 1, len(rows))
    lists = getattr(index, "nlist", 0)
    parameters = faiss.SearchParametersIVF(nprobe=min(8, lists)) if lists else None  # type: ignore[call-arg]
    for start in range(0, len(vectors), BLOCK):
        distances, found = index.search(vectors[start : start + BLOCK], width, params=parameters)
        own, others = np.repeat(np.arange(start, start + len(found)), width), found.ravel()
        close = (distances.ravel() <= radius) & (others >= 0) & (own != others)
        pairs = np.unique(np.sort(np.stack([own[close], others[close]], 1), axis=1), axis=0)
        for at in range(0, len(pairs), 1024):
            some = pairs[at : at + 1024]
            for (i, j), turns in zip(some.tolist(), fitting_turns(grids, rows[some]), strict=True):
                if turns:
                    yield i, j, turns
        if progress is not None:
            progress(min(start + BLOCK, len(vectors)), len(vectors))


def _index(vectors: np.ndarray) -> faiss.Index:
    import faiss

    count, dim = vectors.shape
    if count < 20_000:
        flat = faiss.IndexFlatL2(dim)
        flat.add(vectors)
        return flat
    lists = int(2 * np.sqrt(count))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, lists)
    sample = seeds.numpy_generator(0, "duplicates").choice(count, min(count, 40 * lists), replace=False)
    index.cp.niter = 6
    index.train(vectors[np.sort(sample)])
    for start in range(0, count, 16 * BLOCK):
        index.add(vectors[start : start + 16 * BLOCK])
    return index


def fitting_turns(grids: np.ndarray, pairs: np.ndarray) -> list[list[int]]:
    """Of pairs int64 `(m, 2)`: by which turns the second may come from the first."""
    a, b = grids[pairs[:, 0]].astype(np.float32), grids[pairs[:, 1]].astype(np.float32)
    apart = [((turned(a, turn) - b) ** 2).mean((1, 2, 3)) for turn in range(len(TURNS))]
    return [np.flatnonzero(fits).tolist() for fits in np.stack(apart, 1) <= RADIUS**2]


def windows(
    grids: np.ndarray, aspects: np.ndarray, pairs: np.ndarray, progress: Progress | None = None
) -> Iterator[tuple[int, int, Place]]:
    """Of `pairs` (whole, part) int64 `(m, 2)` those whose part may be a window of the whole, and where in it.

    `aspects`: width over height of each picture.
    """
    relative = np.log(aspects[pairs[:, 1]] / aspects[pairs[:, 0]])
    steps = np.round(relative / ASPECT_STEP).astype(np.int64)
    done = 0
    for step in np.unique(steps):
        own = pairs[steps == step]
        own = own[np.argsort(own[:, 0], kind="stable")]
        places, bank = _bank(int(step))
        for start in range(0, len(own), 1024) if len(places) else ():
            some = own[start : start + 1024]
            yield from _fitting(grids, some, places, bank)
        done += len(own)
        if progress is not None:
            progress(done, len(pairs))


def _fitting(
    grids: np.ndarray, pairs: np.ndarray, places: list[Place], bank: np.ndarray
) -> Iterator[tuple[int, int, Place]]:
    """The `pairs`, sorted by their wholes, that fit at one of `places`."""
    wholes, starts = np.unique(pairs[:, 0], return_index=True)
    parts, part_at = np.unique(pairs[:, 1], return_inverse=True)
    cut = (_gray(grids[wholes]) @ bank).reshape(len(wholes), len(places), CELLS * CELLS)
    shown = _gray(grids[parts]) @ _whole_bank()
    cut_squares, shown_squares = (cut**2).sum(2), (shown**2).sum(1)
    variances = np.maximum(shown.var(1), 1.0) * CELLS * CELLS
    for w, (start, end) in enumerate(zip(starts, [*starts[1:], len(pairs)], strict=True)):
        p = part_at[start:end]
        apart = (cut_squares[w][:, None] + shown_squares[p] - 2 * cut[w] @ shown[p].T) / variances[p]
        best = apart.argmin(0)
        for n in np.flatnonzero(apart.min(0) <= LIKELY).tolist():
            place = places[best[n]]
            if _color_residual(grids[wholes[w]], grids[parts[p[n]]], place) <= LIKELY:
                yield int(wholes[w]), int(parts[p[n]]), place


def _color_residual(whole: np.ndarray, part: np.ndarray, place: Place) -> float:
    """Mean square difference of a window and a picture in color, over the picture's variance."""
    left, top, width, height = place
    cut = np.einsum("rh,cw,hwk->rck", _means(top, height), _means(left, width), whole, optimize=False)
    shown = np.einsum("rh,cw,hwk->rck", _means(0, 1), _means(0, 1), part, optimize=False)
    return float(((cut - shown) ** 2).mean() / max(1.0, shown.var((0, 1)).mean()))


def _gray(grids: np.ndarray) -> np.ndarray:
    """Grids in gray, float32 `(n, cells)`."""
    weighed = grids.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return weighed.reshape(len(grids), -1)


@lru_cache(maxsize=4)
def _bank(step: int) -> tuple[list[Place], np.ndarray]:
    """Windows whose relative aspect ratio is `step` times `ASPECT_STEP`, and the matrix `(cells of a grid, windows x
    CELLS²)` that cuts them all."""
    ratio = float(np.exp(step * ASPECT_STEP))
    places: list[Place] = []
    for share in SHARES:
        width, height = (share, share / ratio) if ratio >= 1 else (share * ratio, share)
        if min(width, height) < LEAST_SHARE - 1e-9 or min(width, height) > 0.98:
            continue
        for top in _offsets(1 - height):
            places += [(left, top, width, height) for left in _offsets(1 - width)]
    matrices = [np.kron(_means(top, height), _means(left, width)) for left, top, width, height in places]
    bank = np.concatenate(matrices).T if matrices else np.zeros((GRID * GRID, 0))
    return places, np.ascontiguousarray(bank, np.float32)


@lru_cache(maxsize=1)
def _whole_bank() -> np.ndarray:
    return np.ascontiguousarray(np.kron(_means(0, 1), _means(0, 1)).T, np.float32)


def _offsets(room: float) -> Sequence[float]:
    return np.linspace(0, room, round(room / 0.05) + 1).tolist()


def _means(start: float, length: float) -> np.ndarray:
    """Matrix `(CELLS, GRID)` of the means over equal parts of the span from `start`, in shares of an edge."""
    borders = (start + length * np.arange(CELLS + 1) / CELLS) * GRID
    left, right = borders[:-1, None], borders[1:, None]
    cells = np.arange(GRID)[None]
    covered = (np.minimum(right, cells + 1) - np.maximum(left, cells)).clip(0)
    made: np.ndarray = covered / covered.sum(1, keepdims=True)
    return made
