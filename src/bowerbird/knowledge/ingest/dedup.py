"""Near-duplicates: the same picture saved again, scaled, or recompressed, found by its embedding while a knowledge
base is filled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bowerbird.knowledge.search import dense

DEFAULT = 0.99
"""Cosine from which two pictures count as one: `docs/knowledge-base.md` says what the bundled encoder gives copies and
strangers."""


class NearDuplicates:
    """Which of the items that come are near-duplicates of one that is there: `before` asks the knowledge base, the
    rest was seen here.

    `before(vectors (n, d) of unit length) -> (names, cosines (n,))` of the nearest item that was there before.
    """

    def __init__(self, similarity: float, before: Callable[[np.ndarray], tuple[list[str], np.ndarray]] | None) -> None:
        self.similarity, self.before = similarity, before
        self._vectors: list[np.ndarray] = []
        self._names: list[str] = []

    def settle(self, before: Callable[[np.ndarray], tuple[list[str], np.ndarray]] | None) -> None:
        """What was seen here is in the knowledge base by now."""
        self.before, self._vectors, self._names = before, [], []

    def sift(self, names: list[str], embeddings: np.ndarray) -> tuple[list[int], list[tuple[str, str, float]]]:
        """The positions to keep, and of the others (name, the name it is like, cosine). The first of several alike is
        kept.

        `embeddings`: raw `(n, d)`.
        """
        unit = dense.prepare(embeddings, True)
        best = np.full(len(unit), -np.inf)
        like = [""] * len(unit)
        if self.before is not None and len(unit):
            like, best = self.before(unit)
        keep: list[int] = []
        duplicates = []
        if self._vectors:
            found = unit @ np.concatenate(self._vectors).T
            nearest = found.argmax(1)
            for i, (at, score) in enumerate(zip(nearest, found.max(1), strict=True)):
                if score > best[i]:
                    best[i], like[i] = score, self._names[at]
        among = unit @ unit.T
        for i, name in enumerate(names):
            if keep and among[i, keep].max() > best[i]:
                nearest_kept = keep[int(among[i, keep].argmax())]
                best[i], like[i] = among[i, nearest_kept], names[nearest_kept]
            if best[i] >= self.similarity:
                duplicates.append((name, like[i], float(best[i])))
            else:
                keep.append(i)
        if keep:
            self._vectors.append(unit[keep])
            self._names += [names[i] for i in keep]
        return keep, duplicates
