"""Sources that need no file: `drawn`, pictures that code draws, and `emoji-font`, the machine's color emoji."""

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
