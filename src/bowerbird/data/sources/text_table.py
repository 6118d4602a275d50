"""A table of texts that is given by itself, as a catalog often is: its rows name pictures beside it, or addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import shorten
from bowerbird.data.item import SourceItem
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import layout
from bowerbird.data.sources.addresses import address_column, read_addresses
from bowerbird.data.sources.base import SourceOptions
from bowerbird.data.sources.folder import FolderTree, walk
from bowerbird.data.sources.listing import Listing, Table
from bowerbird.data.sources.rows import TEXT_TABLES, read_rows
from bowerbird.data.sources.sidecars import Sidecars
from bowerbird.data.sources.tree import read_tree, sort_names


class TextTable:
    """CSV, TSV, JSON lines or JSON: the pictures of its folder and below that its rows name, and no others."""

    def matches(self, place: str) -> bool:
        path = Path(place)
        low = path.name.lower()
        return (low.endswith((*layout.TABLES, ".json")) or low in TEXT_TABLES) and path.is_file()

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        path, unsaid = Path(place), SourceReport()  # what else lies in the folder was not asked for
        tree = FolderTree(path.parent, walk(path.parent, unsaid))
        files = sort_names(tree, unsaid)
        table = Table(path.name, read_rows(path, path.name, unsaid))
        address = address_column(table.rows)
        Listing(files.pictures, options.caption_column, unsaid).add(table, "")
        if table.met:
            others = set(Sidecars(files.pictures, files.sidecars, samples=False).without_picture) - {path.name}
            files.sidecars = [name for name in files.sidecars if name not in others]
            files.tables, files.archives = [path.name], []
            yield from read_tree(tree, options, files, listed=True)
        elif address is not None:
            yield from read_addresses(path, options)
        else:
            raise BowerbirdError(
                f"{place}: {_what(table.rows, unsaid)}; its rows name pictures, as file_name does, in its folder"
                f" {path.parent} or below; where they lie beside it or in archives, give the folder that holds both"
            )


def _what(rows: list[dict[str, Any]], report: SourceReport) -> str:
    """What is wrong with rows of which none names a picture that is there."""
    if not rows:
        return "; ".join(report.lines()) or "no rows"
    first = shorten(", ".join(f"{name}: {value}" for name, value in rows[0].items()), 120)
    return f"none of its {len(rows):,} rows names a picture that is there (the first is {first})"
