"""Sources that need no file of yours: `drawn`, pictures that code draws, `emoji-font`, the machine's color emoji, and
`starter`, the collection that travels with the package."""

from __future__ import annotations

from collections.abc import Iterator

from bowerbird.data.item import SourceItem
from bowerbird.data.sources.base import SourceOptions


class Drawn:
    """`drawn`: see `data.drawn`."""

    def matches(self, place: str) -> bool:
        return place == "drawn"

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        from bowerbird.data.drawn import read_drawn

        return read_drawn()


class EmojiFont:
    """`emoji-font`: see `data.emoji_font`."""

    def matches(self, place: str) -> bool:
        return place == "emoji-font"

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        from bowerbird.data.emoji_font import read_emoji_font

        return read_emoji_font()


class Starter:
    """`starter`: see `data.datasets.starter`."""

    def matches(self, place: str) -> bool:
        return place == "starter"

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        from bowerbird.data.datasets.starter import ARCHIVE
        from bowerbird.data.sources.archive import Archive

        return Archive().read(str(ARCHIVE), options)
