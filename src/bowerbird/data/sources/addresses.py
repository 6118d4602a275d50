"""Rows that name their pictures by addresses on the web: which column has them, and the pictures that lie there.

Nothing is asked of the network unless a person allowed it (`fetch_urls`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bowerbird.core.credit import is_address
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.captions import caption_column, note_texts, take_captions, with_captions
from bowerbird.data.columns import column_key
from bowerbird.data.item import SourceItem
from bowerbird.data.sources import urls
from bowerbird.data.sources.base import SourceOptions
from bowerbird.data.sources.layout import FILE_COLUMNS
from bowerbird.data.sources.rows import read_rows, type_rows

URL_COLUMNS = ("image_url", "img_url", "image_link", "image_src", "url")
"""Columns of addresses; `url` comes last, as beside another one it is the page that the picture stands on."""
SOME = 200
"""So many rows say whether a column holds addresses."""


def url_column(names: Iterable[str]) -> str | None:
    """The column that is called as those of addresses are, however it is written; None where there is none."""
    keys: dict[str, str] = {}
    for name in names:
        keys.setdefault(column_key(name), name)
    return next((keys[key] for key in map(column_key, URL_COLUMNS) if key in keys), None)


def address_column(rows: Sequence[dict[str, Any]]) -> str | None:
    """The column of pictures' addresses, called so or as those of files are; None where its values are none."""
    some = rows[:SOME]
    keys: dict[str, str] = {}
    for name in (name for row in some for name in row):
        keys.setdefault(column_key(name), name)
    named = (keys[key] for key in map(column_key, (*URL_COLUMNS, *FILE_COLUMNS)) if key in keys)
    return next((name for name in named if are_addresses([row.get(name) for row in some])), None)


def are_addresses(cells: Iterable[Any]) -> bool:
    """Whether all cells that say something are addresses."""
    said = [cell for cell in cells if cell not in (None, "")]
    return bool(said) and all(map(is_address, said))


def refuse_addresses(place: object) -> BowerbirdError:
    """What to say of a table of addresses that may not be asked."""
    return BowerbirdError(
        f"{place}: has addresses of pictures and no pictures; they are downloaded only with `fetch_urls`"
    )


def read_addresses(path: Path, options: SourceOptions) -> Iterator[SourceItem]:
    """The pictures whose addresses the rows of a text table have. Raises: BowerbirdError where none may be asked."""
    if not options.fetch_urls:
        raise refuse_addresses(path)
    rows = read_rows(path, path.name, options.report)
    column = address_column(rows)
    names = list(dict.fromkeys(name for row in rows for name in row if name != column))
    caption = caption_column(names, options.caption_column)
    if caption is None and options.caption_column is None:
        note_texts(path.name, rows[:SOME], names, options.report)
    options.report.note_columns(names)
    type_rows(rows, path.name, [name for name in (column, caption) if name])
    fetched = urls.fetch([row.get(column) if column else None for row in rows], private=options.private_urls)
    for number, (row, (data, name, problem)) in enumerate(zip(rows, fetched, strict=True)):
        text, metadata = with_captions(take_captions(row, caption), row)
        yield SourceItem(data, name or f"{path.name}[{number}]", text, metadata, problem=problem)
