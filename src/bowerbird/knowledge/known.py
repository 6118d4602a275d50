"""The ids that are there: eight bytes each, not a Python set of a hundred million numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Known:
    """A set of int64 ids that grows."""

    def __init__(self, ids: np.ndarray) -> None:
        self._sorted = np.sort(ids)
        self._fresh: set[int] = set()

    def new(self, ids: Sequence[int]) -> list[int]:
        """The positions of those `ids` that are not here yet, each id's first; they are here from now on."""
        wanted = np.asarray(ids, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, wanted), max(0, len(self._sorted) - 1))
        there = self._sorted[at] == wanted if len(self._sorted) else np.zeros(len(wanted), bool)
        found = []
        for position, number in enumerate(wanted.tolist()):
            if not there[position] and number not in self._fresh:
                self._fresh.add(number)
                found.append(position)
        if len(self._fresh) > max(100_000, len(self._sorted) // 8):
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._fresh, np.int64, len(self._fresh))]))
            self._fresh = set()
        return found

    def forget(self, ids: Sequence[int]) -> None:
        """Ids that came lately and are not here after all."""
        self._fresh.difference_update(ids)
