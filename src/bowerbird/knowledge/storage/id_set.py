"""The ids that are there: eight bytes each, not a Python set of a hundred million numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Known:
    """A set of int64 ids that grows. One thread may ask while another adds."""

    def __init__(self, ids: np.ndarray) -> None:
        self._sorted = np.sort(ids)
        self._fresh: set[int] = set()

    def has(self, ids: Sequence[int]) -> list[bool]:
        """Whether each of `ids` is here."""
        there, wanted = self._sorted, np.asarray(ids, np.int64)
        nothing = np.zeros(len(wanted), bool)
        old = there[np.minimum(np.searchsorted(there, wanted), len(there) - 1)] == wanted if len(there) else nothing
        fresh = self._fresh
        return [was or number in fresh for was, number in zip(old.tolist(), wanted.tolist(), strict=True)]

    def holds(self, number: int) -> bool:
        """Whether one id is here."""
        return self.has([number])[0]

    def new(self, ids: Sequence[int]) -> list[int]:
        """The positions of those `ids` that are not here, each id's first."""
        first: dict[int, int] = {}
        for position, (number, there) in enumerate(zip(ids, self.has(ids), strict=True)):
            if not there:
                first.setdefault(number, position)
        return list(first.values())

    def add(self, ids: Sequence[int]) -> None:
        """These are here from now on."""
        self._fresh.update(ids)
        if len(self._fresh) > max(100_000, len(self._sorted) // 8):
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._fresh, np.int64, len(self._fresh))]))
            self._fresh = set()
