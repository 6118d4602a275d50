"""Neighbors as a person sees them in a console or a notebook: a line a query, or its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bowerbird.core.contact_sheet import labeled_grid
from bowerbird.core.images import encode_png
from bowerbird.core.neighbor_pictures import ABSENT
from bowerbird.core.text import shorten

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MOST_ROWS, MOST_COLUMNS = 8, 8
"""Queries, and neighbors of each, that are shown."""


def as_text(ids: np.ndarray, scores: np.ndarray, names: Sequence[Sequence[str]], queries: Sequence[str]) -> str:
    """How many there are, then of each query its neighbors: score and name."""
    lines = [f"Neighbors: {len(ids)} {'query' if len(ids) == 1 else 'queries'}, {ids.shape[1]} each"]
    for row in range(min(len(ids), MOST_ROWS)):
        there = [column for column in range(ids.shape[1]) if ids[row, column] != ABSENT]
        each = [f"{scores[row, column]:.3f} {names[row][column]}" for column in there[:MOST_COLUMNS]]
        each += [f"and {len(there) - MOST_COLUMNS} more"] if len(there) > MOST_COLUMNS else []
        name = f"{shorten(queries[row], 40)!r}: " if queries and queries[row] else ""
        lines.append(f"  {name}{'; '.join(each) or 'none'}")
    lines += [f"  and {len(ids) - MOST_ROWS} more queries"] if len(ids) > MOST_ROWS else []
    return "\n".join(lines)


def as_png(
    pictures: Sequence[Sequence[Image.Image | None]], names: Sequence[Sequence[str]], queries: Sequence[str]
) -> bytes:
    """A sheet of pictures, a row a query, with their names."""
    rows = [(shorten(queries[row], 100) if queries else "", each, names[row]) for row, each in enumerate(pictures)]
    return encode_png(labeled_grid(rows))
