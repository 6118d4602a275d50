"""Which metadata columns are credited: names that a person gave, as they are called, before anything is embedded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from bowerbird.core.credit import MOST_COLUMNS
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import column_name
from bowerbird.data.sources import registry
from bowerbird.knowledge.ingest.prepare import Choice


def known_columns(columns: Sequence[str], there: Collection[str], place: str) -> list[str]:
    """`columns` as they are called among those `there`, each once; case, blanks and signs do not matter.

    Raises: BowerbirdError for one that is not there, naming those that are.
    """
    found = []
    for column in columns:
        alike = [name for name in there if name.casefold() == column_name(column).casefold()]
        if column not in there and len(alike) != 1:
            rest = f"it has {', '.join(sorted(there))}" if there else "it has no metadata at all"
            raise BowerbirdError(f"`credit` {column!r}: {place} has no such column; {rest}")
        found.append(column if column in there else alike[0])
    if len(found) > MOST_COLUMNS:
        raise BowerbirdError(f"`credit`: {len(found)} columns; give up to {MOST_COLUMNS}")
    return list(dict.fromkeys(found))


def check_sources(sources: Sequence[str | Path], choice: Choice, columns: Sequence[str]) -> None:
    """Read items until each of `columns` was seen in one, mostly the first; decodes no picture.

    Raises: BowerbirdError, when all are read, for a column that none has.
    """
    wanted = {column_name(column).casefold() for column in columns}
    there: set[str] = set()
    for most, source in [*((1, source) for source in sources), *((None, source) for source in sources)]:
        items = registry.read(
            source,
            caption_column=choice.caption_column,
            fetch_urls=choice.fetch_urls,
            private_urls=choice.private_urls,
        )
        for item in islice(items, most):
            there.update(item.metadata)
            wanted.difference_update(name.casefold() for name in item.metadata)
            if not wanted:
                return
    known_columns(columns, there, ", ".join(map(str, sources)))
