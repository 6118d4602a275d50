"""The text and JSON files beside pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from bowerbird.data.sources import layout


class Sidecars:
    """`names` of texts and JSON, and which of the `pictures` each belongs to.

    `samples`: as in a webdataset, what stands under one name up to the first dot belongs together. `kinds`: the
    suffixes there are. `without_picture`: names that are no picture's.
    """

    def __init__(self, pictures: Sequence[str], names: Sequence[str], *, samples: bool) -> None:
        self._samples, self._pictures = samples, pictures
        self._names = layout.NameIndex(names)
        self.kinds = {layout.suffix_of(name) for name in names}
        self._owners: set[int] = set()  # hashes of what files of pictures are called: there may be millions
        for picture in pictures if names else ():
            self._owners.update(hash(layout.fold(base).casefold()) for base in self._own(picture))
        self._of_sample: dict[tuple[str, str], list[str]] = {}
        for name in names if samples else ():
            self._of_sample.setdefault((layout.sample_key(name), layout.suffix_of(name)), []).append(name)
        self.without_picture = [name for name in names if not self._has_picture(name)]

    def find(self, picture: str, suffix: str) -> str | None:
        """The file of this suffix beside a picture: the same name with another suffix, or with one more, or the only
        such file of its sample. One that is written otherwise is another picture's where that has its very name."""
        own = self._own(picture)
        names = [f"{base}{suffix}" for base in own]
        if suffix == ".json":
            names.append(f"{picture}{layout.TAKEOUT}")
        for name in names:
            found = self._names.find(name)
            if found is not None and (found == name or not self._is_anothers(found[: -len(suffix)], own)):
                return found
        alone = self._of_sample.get((layout.sample_key(picture), suffix), []) if self._samples else []
        return alone[0] if len(alone) == 1 and not self._is_anothers(alone[0][: -len(suffix)], own) else None

    @cached_property
    def _exact(self) -> set[int]:
        """Hashes of what may stand before the suffix, as pictures are called."""
        return {hash(base) for picture in self._pictures for base in self._own(picture)}

    def _is_anothers(self, base: str, own: Sequence[str]) -> bool:
        return base not in own and hash(base) in self._exact

    def _own(self, picture: str) -> list[str]:
        """What may stand before the suffix of a file beside a picture, as it is called."""
        stem = picture.rpartition(".")[0] if layout.suffix_of(picture) else picture
        return [stem, picture, *([layout.sample_key(picture)] if self._samples else [])]

    def _has_picture(self, name: str) -> bool:
        stem = name[: -len(layout.TAKEOUT)] if name.endswith(layout.TAKEOUT) else name.rpartition(".")[0]
        bases = [stem, *([layout.sample_key(name)] if self._samples else [])]
        return any(hash(layout.fold(base).casefold()) in self._owners for base in bases)
