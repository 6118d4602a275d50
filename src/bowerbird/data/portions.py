"""Items of a source a portion at a time, by number and by bytes: sources are larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bowerbird.data.item import SourceItem

ITEMS, BYTES = 512, 128 * 1024**2


def portions(items: Iterable[SourceItem], *, count: int = ITEMS, size: int = BYTES) -> Iterator[list[SourceItem]]:
    """`items` in their order, a portion full at `count` items or `size` bytes, with the one that reaches it."""
    portion: list[SourceItem] = []
    held = 0
    for item in items:
        portion.append(item)
        held += len(item.data) + len(item.caption)
        if len(portion) >= count or held >= size:
            yield portion
            portion, held = [], 0
    if portion:
        yield portion
