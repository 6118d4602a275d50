"""Every source format there is, and the two functions that the rest of bowerbird calls: `read` and `count`.

A format of ours is one line of `BUILT_IN`; `base.py` says what it must do, and how one of somebody else's joins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bowerbird.core import plugins
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.captions import check_asked
from bowerbird.data.item import Cleaner, SourceItem
from bowerbird.data.report import SourceReport
from bowerbird.data.sources.archive import Archive
from bowerbird.data.sources.base import Source, SourceOptions
from bowerbird.data.sources.edit_folder import EditFolder
from bowerbird.data.sources.embeddings import ClipRetrieval, CompvisParts
from bowerbird.data.sources.folder import Folder, Picture
from bowerbird.data.sources.generated import Drawn, EmojiFont, Starter
from bowerbird.data.sources.huggingface import HubDataset, SavedDataset
from bowerbird.data.sources.table import Parquet
from bowerbird.data.sources.text_table import TextTable

BUILT_IN: tuple[Source, ...] = (
    EmojiFont(),
    Drawn(),
    Starter(),
    HubDataset(),
    ClipRetrieval(),
    SavedDataset(),
    CompvisParts(),
    EditFolder(),
    Folder(),  # takes any folder, so those that know better stand before it
    Parquet(),
    TextTable(),
    Archive(),
    Picture(),
)
"""The formats of ours; the first that matches a place reads it."""
KINDS = (
    "a folder of pictures, a picture, a .parquet, .csv or .jsonl table, .tar or .zip archives, a clip-retrieval folder,"
    " a saved HF data set, hf:NAME, emoji-font, or module:Class"
)
ENTRY_POINTS = "bowerbird.sources"


def read(
    place: str | Path,
    *,
    caption_column: str | None = None,
    fetch_urls: bool = False,
    private_urls: bool = False,
    report: SourceReport | None = None,
    pictures: Sequence[str] = (),
) -> Iterator[SourceItem]:
    """All items of the source at `place`, by what lies there: see `KINDS`; `drawn` are pictures that code draws,
    `starter` those that travel with the package.

    `fetch_urls` allows addresses to be asked, `private_urls` also those of this machine and its network. `report`
    counts what is passed over. `pictures`: where pictures lie that the source only names. Items are storable: whole
    characters, plain values, names that can be columns.

    Raises: BowerbirdError when there is nothing at `place`, or nothing in it that could be a picture, or no row has the
    column for captions that was asked for.
    """
    source, inside = find(place)
    report = SourceReport() if report is None else report
    report.columns = None  # those of a source before it are of no concern
    options = SourceOptions(caption_column, fetch_urls, private_urls, report, pictures)
    cleaner = Cleaner(report)
    for item in source.read(inside, options):
        if not isinstance(item, SourceItem):
            raise BowerbirdError(
                f"{place}: this source gives {type(item).__name__}; give bowerbird.data.sources.SourceItem"
            )
        item = cleaner.clean(item)
        if item.data and not item.caption.strip():
            report.note("pictures_without_caption", item.name)
        yield item
    check_asked(place, caption_column, report.columns)


def count(place: str | Path) -> int | None:
    """How many items the source at `place` has, where that is known without reading them, else None."""
    try:
        source, inside = find(place)
    except BowerbirdError:  # `read` says it
        return None
    return source.count(inside)


def group(places: Sequence[str | Path]) -> list[list[str]]:
    """Places one by one, but pictures that are named one after another together: as one source they cost what their
    folder costs."""
    made: list[list[str]] = []
    open_group = False
    for place in map(str, places):
        single = Picture().matches(place)
        if single and open_group:
            made[-1].append(place)
        else:
            made.append([place])
        open_group = single
    return made


def find(place: str | Path) -> tuple[Source, str]:
    """The format that reads `place`, and what it takes for its place. Raises: BowerbirdError when none does."""
    text = str(place)
    for source in (*_installed(), *BUILT_IN):
        if source.matches(text):
            return source, text
    spec, _, inside = text.partition("@")
    if plugins.is_path(spec) and not Path(text).exists():
        return _instance(plugins.load_object(spec, "source"), spec), inside
    reason = "not a source" if Path(text).exists() else "no such file or folder"
    raise BowerbirdError(f"{text}: {reason}; give {KINDS}")


@cache
def _installed() -> tuple[Source, ...]:
    """Formats of installed packages, by entry points."""
    names = plugins.entry_point_names(ENTRY_POINTS)
    return tuple(_instance(plugins.entry_point(ENTRY_POINTS, name), name) for name in names)


def _instance(found: Any, name: str) -> Source:
    """A format of somebody else's, made when it is a class. Raises: BowerbirdError when it is no format."""
    missing = plugins.missing_members(found, ("matches", "count", "read"))
    if missing:
        raise BowerbirdError(
            f"source {name!r}: has no {', '.join(missing)}; see bowerbird.data.sources.Source for what it must have"
        )
    source: Source = found() if isinstance(found, type) else found
    return source
