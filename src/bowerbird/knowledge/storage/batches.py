"""Whole rows of a store, a few at a time: their pictures may be of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

BYTES = 64 * 1024**2
"""About so many bytes of pictures are read at once."""
FIRST = 8
T = TypeVar("T")


def read_in_batches(
    ids: Sequence[int], read: Callable[[Sequence[int]], T], size_of: Callable[[T], int], most: int
) -> Iterator[T]:
    """`read` of `ids` in their order, up to `most` at once, and fewer where those before were large.

    `size_of`: the bytes of what was read.
    """
    start, count = 0, min(FIRST, most)
    while start < len(ids):
        found = read(ids[start : start + count])
        each = size_of(found) / min(count, len(ids) - start)
        start += count
        yield found
        del found  # the caller may have let it go, and the next is to take its place
        count = max(1, min(most, int(BYTES / max(1.0, each))))
