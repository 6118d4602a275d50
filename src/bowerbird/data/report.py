"""What reading a source passed over, counted: every format writes into it, and every verb that reads a source shows
it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bowerbird.core.progress import OnMessage

FIRST = 5
"""So many names are kept of each kind."""
KINDS = {
    "encodings": "texts not in UTF-8, read in another encoding",
    "files_damaged": "damaged files, left out where the damage begins",
    "rows_left_out": "rows of metadata that cannot be read",
    "rows_without_picture": "rows that name no picture here",
    "pictures_without_row": "pictures without a row in the metadata",
    "pictures_without_caption": "pictures without a caption",
    "prompts_taken": "pictures whose caption is the prompt or description in their file",
    "embeddings_without_picture": "embeddings whose picture was not found; bowerbird import clip-retrieval --pictures"
    " FOLDER says where they lie",
    "pictures_not_read": "files of picture formats that are not read",
    "texts_without_picture": "text and JSON files that belong to no picture",
    "further_pictures": "masks and further pictures of a sample, not items of their own",
    "hidden_files": "hidden and system files and folders, left out",
    "links_left_out": "links not followed (to a folder that is read already or lies above, or to nothing)",
    "files_left_out": "files passed over",
    "other_files": "files of other kinds, left alone",
    "values_left_out": "values that cannot be kept",
    "tables_without_captions": "tables without a usual column of captions, which --caption-column NAME can name",
    "columns_taken": "columns taken for pictures' names, as their values are such",
    "columns_renamed": "columns under another name",
}
"""The kinds of ours, as a line for a person calls them; a format of somebody else's may have others."""


@dataclass
class SourceReport:
    """How many of each kind there are, and the first few names. `columns`: those that metadata beside pictures has,
    None where a source did not say."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    columns: set[str] | None = None

    def note(self, kind: str, name: str, count: int = 1) -> None:
        """Count `count` more of `kind`, and remember `name` if it is among the first."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        names = self.names.setdefault(kind, [])
        if len(names) < FIRST:
            names.append(name if len(name) <= 200 else f"{name[:199]}…")

    def note_columns(self, names: Iterable[str]) -> None:
        """Remember that these columns are there, so that a caption column that no row has can be refused."""
        self.columns = set() if self.columns is None else self.columns
        self.columns.update(names)

    def lines(self) -> list[str]:
        """A line for each kind, for a person."""
        made = []
        for kind in sorted(self.counts, key=lambda k: list(KINDS).index(k) if k in KINDS else len(KINDS)):
            names, count = self.names[kind], self.counts[kind]
            more = ", …" if count > len(names) else ""
            made.append(f"{KINDS.get(kind, kind.replace('_', ' '))}: {count:,} ({', '.join(names)}{more})")
        return made

    def tell(self, on_message: OnMessage, place: object) -> None:
        """Give the lines to `on_message`, with the place they are about."""
        for line in self.lines():
            on_message(f"{place}: {line}")

    def facts(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {kind: {"count": count, "first": self.names[kind]} for kind, count in sorted(self.counts.items())}
