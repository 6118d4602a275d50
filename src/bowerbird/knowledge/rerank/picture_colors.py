"""The colors of stored pictures, each worked out once: few at a time, no more than a bound for one query, and small."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np

from bowerbird.data.color_words import EDGE, color_shares

if TYPE_CHECKING:
    from PIL import Image

MOST_PICTURES = 64
"""Pictures that are opened for one query; of further items only the words count."""
AT_ONCE = 8
"""Pictures in memory together."""
MOST_KNOWN = 20_000
"""Pictures of one knowledge base whose colors are kept."""

Shares = dict[str, float]
_known: WeakKeyDictionary[HasPictures, dict[tuple[int, int], Shares]] = WeakKeyDictionary()
_changing = threading.Lock()


@runtime_checkable
class HasPictures(Protocol):
    """A knowledge base that holds pictures."""

    @property
    def version(self) -> int: ...

    def pictures(self, ids: np.ndarray, *, at_least: int | None = None) -> list[list[Image.Image | None]]:
        """Those of `ids` `(Q, K)`; with `at_least`, large ones reduced, their shorter side still that many pixels."""
        ...


class PictureColors:
    """The colors of items of `base`, of which a query may open `MOST_PICTURES`."""

    def __init__(self, base: object) -> None:
        self.base = base if isinstance(base, HasPictures) else None
        self.left = MOST_PICTURES

    def of(self, ids: Sequence[int]) -> dict[int, Shares]:
        """The shares of colors (`color_shares`) of those items that have a picture, the first first, as far as the
        bound allows."""
        if self.base is None:
            return {}
        version = self.base.version
        with _changing:
            known = _known.setdefault(self.base, {})
            found = {item: known[version, item] for item in ids if (version, item) in known}
        missing = [item for item in ids if item not in found][: self.left]
        self.left -= len(missing)
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            pictures = self.base.pictures(np.asarray([some], np.int64), at_least=2 * EDGE)[0]
            made = {i: {} if shown is None else color_shares(shown) for i, shown in zip(some, pictures, strict=True)}
            found |= made
            with _changing:
                known.update({(version, item): shares for item, shares in made.items()})
                while len(known) > MOST_KNOWN:
                    del known[next(iter(known))]
        return found
