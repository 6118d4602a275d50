"""Dense search: exact over the vectors as they lie, or approximate by FAISS first and exact again over what it finds.

Scores are inner products of the queries with the vectors scaled to length 1 (cosine), or as they are; always exact
ones.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT

if TYPE_CHECKING:
    import faiss

FEW = 512
"""Up to so many rows are read one by one."""
SPARE = 16
"""So many rows beyond those wanted are kept, for the last of them may have equals."""
ROUNDING = 1e-6
"""Of the lengths of query and vector: scores that are closer are compared again."""
NO_LENGTH = np.float32(1e-12)
"""What stands for the length of a zero vector."""
BLOCK_BYTES = 64 * 1024**2
"""Vectors compared at once by exact search."""


def prepare(vectors: np.ndarray, normalize: bool) -> np.ndarray:
    """Float32 and contiguous, rows scaled to length 1 where the database says so (zero rows stay zero)."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    return vectors / lengths_of(vectors, normalize)[:, None] if normalize else vectors


def lengths_of(vectors: np.ndarray, normalize: bool) -> np.ndarray:
    """What each vector `(n, d)` is divided by to be compared, float32 `(n,)`: its length, or 1; a zero vector stays
    zero."""
    if not normalize:
        return np.ones(len(vectors), np.float32)
    return np.maximum(np.linalg.norm(vectors, axis=-1), NO_LENGTH).astype(np.float32)


class RowFile:
    """A `.npy` file of float32 rows `(n, d)`, held open: the same file as long as this lives, whatever takes
    its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(file)
            self.start, self.dim = file.tell(), int(shape[1])
            if kind != np.dtype("<f4"):
                raise ValueError(f"{path}: holds {kind}, not float32")
            self.handle = os.dup(file.fileno())
        self._turn = threading.Lock()  # for systems that read only where a file's position is
        weakref.finalize(self, os.close, self.handle)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The rows of these numbers `(n,)`, float32 `(n, d)`."""
        made = np.empty((len(rows), self.dim), np.float32)
        for at, row in enumerate(rows.tolist()):
            if self._read_into(made[at], self.start + 4 * self.dim * row) != made[at].nbytes:
                raise BowerbirdError(f"{self.path}: shorter than when it was opened; open the knowledge base again")
        return made

    def _read_into(self, row: np.ndarray, offset: int) -> int:
        """Bytes read into `row` from `offset` on. `os.preadv` where the system has it (Linux, macOS 11, BSD), else
        (Windows) a seek and a read, one thread at a time."""
        if hasattr(os, "preadv"):
            return os.preadv(self.handle, [row.data], offset)
        with self._turn:
            os.lseek(self.handle, offset, os.SEEK_SET)
            data = os.read(self.handle, row.nbytes)
        row[: len(data) // 4] = np.frombuffer(data, "<f4", len(data) // 4)
        return len(data)


@dataclass(frozen=True)
class Vectors:
    """Raw vectors `(n, d)`, in memory or mapped from a file, and what to divide each by `(n,)`.

    `small`: the scaled vectors in 8 bits a number `(n, d)`, to be multiplied by the row's `steps` `(n,)`; a quarter of
    the pages to touch. `file`: where the raw vectors can also be read one by one, without mapping what lies around
    them.
    """

    raw: np.ndarray
    lengths: np.ndarray
    small: np.ndarray | None = None
    steps: np.ndarray | None = None
    file: RowFile | None = None

    def __len__(self) -> int:
        return len(self.raw)

    def scaled(self, rows: np.ndarray | slice) -> np.ndarray:
        """The vectors of `rows` as they are compared."""
        return np.asarray(self.raw[rows], np.float32) / self.lengths[rows][..., None]

    def few(self, rows: np.ndarray) -> np.ndarray:
        """The raw vectors of some `rows` `(n,)`, float32 `(n, d)`."""
        return self.raw[rows] if self.file is None or len(rows) > FEW else self.file.read(rows)

    def release(self) -> None:
        """Give back the memory of what was read through a mapping: a sweep over a large file is not to stay."""
        mapped = getattr(self.raw, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def quantize(vectors: Vectors, path: Path) -> np.ndarray:
    """Write `Vectors.small` to the file `path`, block by block; returns the `steps`."""
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=vectors.raw.shape)
    steps = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 16_384):
        rows = slice(start, min(start + 16_384, len(vectors)))
        block = vectors.scaled(rows)
        steps[rows] = np.maximum(np.abs(block).max(1), 1e-12) / 127
        made[rows] = np.rint(block / steps[rows, None])
        vectors.release()
    made.flush()
    return steps


def load_small(path: Path) -> np.ndarray:
    """The file that `quantize` wrote, mapped as a whole where the system can: one call in place of a fault at every
    first touch."""
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if sys.platform == "linux":  # elsewhere the number may mean another advice
            found._mmap.madvise(_POPULATE_READ)  # type: ignore[attr-defined]
    return found


_POPULATE_READ = 22
"""Linux's MADV_POPULATE_READ, which Python names from 3.14 on."""


def exact(
    vectors: Vectors, queries: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(rows, scores)`, each `(Q, k)`, among `rows` (ascending; all when None), block by block; row -1 and
    score -inf pad.

    Equal scores are ordered by row.
    """
    found, scores = nearest(vectors, queries, k, rows)
    return _pad(found[:, :k], scores[:, :k], k)


def nearest(
    vectors: Vectors, queries: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`exact`, and beyond the k best every row that is as near as the last of them but for rounding, for
    `settle_ties`."""
    total = len(vectors) if rows is None else len(rows)
    width = min(k + SPARE, total)
    best_rows, best = np.full((len(queries), 0), ABSENT, np.int64), np.zeros((len(queries), 0), np.float32)
    for at, scores in _scores(vectors, queries, rows):
        best_rows, best = _merge(best_rows, best, np.broadcast_to(at, scores.shape), scores, width)
    if 0 < k < width < total:
        edge = best[:, k - 1] - rounding(vectors, queries, best_rows)
        crowded = np.flatnonzero(best[:, -1] >= edge)
        if len(crowded):  # more equal ones than there is room for: all of them, in a second pass
            all_rows = [[best_rows[q]] for q in range(len(queries))]
            all_scores = [[best[q]] for q in range(len(queries))]
            for q in crowded:
                all_rows[q], all_scores[q] = [], []
            for at, scores in _scores(vectors, queries[crowded], rows):
                for q, line in zip(crowded, scores, strict=True):
                    near = line >= edge[q]
                    all_rows[q].append(at[near])
                    all_scores[q].append(line[near])
            best_rows, best = _ragged([np.concatenate(r) for r in all_rows], [np.concatenate(x) for x in all_scores])
            order = np.lexsort((best_rows, -best), axis=1)
            best_rows, best = np.take_along_axis(best_rows, order, 1), np.take_along_axis(best, order, 1)
    return _pad(best_rows, best, k)


def _scores(vectors: Vectors, queries: np.ndarray, rows: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows `(b,)` and the scores `(Q, b)` of a block of them, block after block."""
    total = len(vectors) if rows is None else len(rows)
    block = max(1, BLOCK_BYTES // (4 * max(1, vectors.raw.shape[1])))
    for start in range(0, total, block):
        at = np.arange(start, min(start + block, total)) if rows is None else rows[start : start + block]
        raw = vectors.raw[start : start + block] if rows is None else vectors.raw[at]
        scores = queries @ raw.T
        scores /= vectors.lengths[at]
        yield at, scores
        if total > block:
            vectors.release()


def _ragged(rows: list[np.ndarray], scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lines of different lengths as arrays, padded."""
    width = max(map(len, rows))
    made, best = np.full((len(rows), width), ABSENT, np.int64), np.full((len(rows), width), -np.inf, np.float32)
    for q, (line, values) in enumerate(zip(rows, scores, strict=True)):
        made[q, : len(line)], best[q, : len(line)] = line, values
    return made, best


def rounding(vectors: Vectors, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How far apart the scores `(Q,)` of one and the same vector may lie: a product of matrices sums a row by where it
    stands."""
    longest = 1.0
    if len(vectors) and not (vectors.lengths[rows] != 1).any():  # not scaled to length 1
        some = np.unique(rows[rows != ABSENT])[:FEW]
        longest = float(np.linalg.norm(vectors.few(some), axis=1).max(initial=1e-12))
    found: np.ndarray = ROUNDING * longest * np.linalg.norm(queries, axis=1)
    return found


def settle_ties(
    found: tuple[np.ndarray, np.ndarray],
    queries: np.ndarray,
    k: int,
    within: np.ndarray,
    scaled: Callable[[np.ndarray], np.ndarray],
    ids: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of `found` `(rows, scores)`, best first, where those that are equal but for rounding (`within`,
    `(Q,)`) are compared again in double precision, one by one, and equal ones ordered by id: the same in every
    knowledge base that holds them, wherever its rows stand.

    `scaled`: rows -> the vectors as they are compared; `ids`: rows -> their ids.
    """
    rows, scores = found[0].copy(), found[1].copy()
    there = rows != ABSENT
    with np.errstate(invalid="ignore"):
        close = (scores[:, :-1] - scores[:, 1:] <= within[:, None]) & there[:, 1:]
    for q in np.flatnonzero(close[:, :k].any(1)):
        group = np.concatenate([[0], np.cumsum(~close[q])])
        again = np.flatnonzero(np.concatenate([[False], close[q]]) | np.concatenate([close[q], [False]]))
        for start in range(0, len(again), FEW):
            at = again[start : start + FEW]
            scores[q, at] = (scaled(rows[q, at]).astype(np.float64) * queries[q].astype(np.float64)).sum(1)
        order = np.lexsort((ids(rows[q]), -scores[q], group))
        rows[q], scores[q] = rows[q, order], scores[q, order]
    return _pad(rows[:, :k], scores[:, :k], k)


def approximate(
    index: faiss.Index,
    vectors: Vectors,
    queries: np.ndarray,
    k: int,
    *,
    probes: int,
    depth: int,
    live: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(rows, scores)` among the `depth` rows (at least k) that the index puts first and `live` (boolean,
    all when None) allows.

    Scores are exact; a row can be missed, and of rows with equal scores any may be found.
    """
    rows, scores = np.full((len(queries), k), ABSENT, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    candidates = candidates_of(index, queries, min(max(depth, k), len(vectors)), probes)
    for q, found in enumerate(candidates):
        found = found[found != ABSENT]
        found = np.sort(narrow(vectors, found if live is None else found[live[found]], queries[q], k))
        exactly = vectors.few(found) @ queries[q] / vectors.lengths[found]
        order = np.argsort(-exactly, kind="stable")[:k]
        rows[q, : len(order)], scores[q, : len(order)] = found[order], exactly[order]
    return rows, scores


def narrow(vectors: Vectors, rows: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """The `rows` that 8 bits a number put first, twice as many as the k wanted and some; all of them where there are
    no such numbers."""
    keep = 2 * k + 4
    if vectors.small is None or vectors.steps is None or len(rows) <= keep:
        return rows
    scores = (vectors.small[rows].astype(np.float32) @ query) * vectors.steps[rows]
    return rows[np.argpartition(-scores, keep)[:keep]]


def candidates_of(index: faiss.Index, queries: np.ndarray, depth: int, probes: int) -> np.ndarray:
    """The rows `(Q, depth)` that the index puts first, reading `probes` lists where it has lists; -1 pads."""
    import faiss

    parameters = faiss.SearchParametersIVF(nprobe=probes) if probes else None  # type: ignore[call-arg]
    threads = faiss.omp_get_max_threads()
    if len(queries) == 1:
        faiss.omp_set_num_threads(
            1
        )  # a team of threads has nothing to share, and waits for whoever else is at work on this machine
    try:
        _, rows = index.search(np.ascontiguousarray(queries, np.float32), depth, params=parameters)
    finally:
        faiss.omp_set_num_threads(threads)
    found: np.ndarray = rows.astype(np.int64)
    return found


def merge(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two results over different rows as one, best first, then by row."""
    return _merge(*first, *second, first[0].shape[1] + second[0].shape[1])


def _merge(
    rows_a: np.ndarray, a: np.ndarray, rows_b: np.ndarray, b: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `width` best of two sets of columns, best first, then by row."""
    if b.shape[1] > 4 * width > 0:
        some = np.argpartition(-b, width - 1, axis=1)
        edge = np.take_along_axis(b, some[:, width - 1 : width], 1)
        # argpartition picks any of equal scores at the edge; where there are more of them the first rows must win
        if (np.count_nonzero(b >= edge, axis=1) == width).all():
            some = some[:, :width]
        b, rows_b = np.take_along_axis(b, some, 1), np.take_along_axis(rows_b, some, 1)
    scores, rows = np.concatenate([a, b], 1), np.concatenate([rows_a, rows_b], 1)
    order = np.lexsort((rows, -scores), axis=1)[:, :width]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def _pad(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    missing = k - rows.shape[1]
    if missing > 0:
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=ABSENT)
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    return np.where(np.isneginf(scores), ABSENT, rows), scores


def save(index: faiss.Index, path: Path) -> None:
    """Write the index."""
    import faiss

    faiss.write_index(index, str(path))


def load(path: Path) -> faiss.Index:
    """The index at `path`, which must be a file of ours, checked by its hash: FAISS loads flipped bits without
    a word."""
    import faiss

    return faiss.read_index(str(path))
