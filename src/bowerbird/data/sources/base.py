"""The contract of a source format: how a place becomes a stream of items.

A format is a class without arguments to its constructor and with the three methods of `Source`; it is made
again whenever it is used, and keeps nothing. This is a whole one:

    from bowerbird.data.sources import SourceItem

    class Album:
        def matches(self, place):
            return place.endswith(".album")

        def count(self, place):
            return None

        def read(self, place, options):
            for line in open(place):
                name, caption = line.split("|")
                yield SourceItem(open(name, "rb").read(), name, caption, {"album": place})

It joins in one of three ways. On the command line, as the SOURCE `module:Class` or `module:Class@place`, with the
module in the current directory or installed: `bowerbird kb build KB albums:Album@summer.album`. As the same text
wherever the library takes a source. Or for good, by an entry point of a package in the group `bowerbird.sources`, which
is then asked `matches` for every place, before the formats of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import SourceItem
from bowerbird.data.report import SourceReport


class DamagedError(BowerbirdError):
    """A file of a source is not whole: by itself it is refused, in a folder it is named and the others are read."""


class WithoutPicturesError(BowerbirdError):
    """A table has no pictures: by itself it is refused, in a folder it is named and the others are read."""


@dataclass(frozen=True)
class SourceOptions:
    """What a person asks of a source, whichever it is; a format leaves alone what means nothing to it.

    `caption_column`: the column, key or field that holds the captions, None for the usual ones
    (`data.captions.CAPTION_COLUMNS`). `fetch_urls`: whether the network may be asked for pictures; False means that
    nothing is. `private_urls`: whether that holds for addresses of this machine and its network too. `pictures`: where
    the pictures lie that a source only names, folders and `.tar` shards. `report` counts what is passed over:
    `options.report.note("files_left_out", name)`.
    """

    caption_column: str | None = None
    fetch_urls: bool = False
    private_urls: bool = False
    report: SourceReport = field(default_factory=SourceReport)
    pictures: Sequence[str] = ()


class Source(Protocol):
    """One source format. It knows files and columns; it decodes no picture, and knows no encoder and no store.

    `place` is the text a person gave: mostly a path, relative to the current directory, else a name of the format's own
    such as `hf:NAME`. In `module:Class@place` it is what stands after the `@`, and `""` where there is nothing.
    """

    def matches(self, place: str) -> bool:
        """Whether this format reads what lies at `place`. By its name and what lies there, not by reading it through:
        every place is shown to every format. Not called for `module:Class@place`, which has chosen. Raises: nothing."""
        ...

    def count(self, place: str) -> int | None:
        """How many items `read` will give, or None where that is not known without reading them. Good for progress and
        estimates only: a wrong number does no harm. Raises: nothing."""
        ...

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        """The items, one after another, in the same order every time: an interrupted build goes on by it.

        An item is the bytes of a picture file (PNG, JPEG, WebP, …; not decoded), a name for reports, a caption, flat
        metadata (texts, numbers, booleans, lists of texts; dates and the like are made such), and the raw embedding
        float32 `(d,)` where the source brings one. A picture that cannot be had is an item with no bytes and the reason
        in `problem`: it is reported by name, and the rest goes in.
        Give items as they are read, and hold no more than a few: sources are larger than memory.

        Raises: BowerbirdError when the place as a whole cannot be read: what was found, what is expected.
        """
        ...
