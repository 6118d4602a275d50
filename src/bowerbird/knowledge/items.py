"""One picture of a source, before anybody looked at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bowerbird.knowledge.rows import hash_of, renamed

CAPTION_COLUMNS = ("caption", "text", "name", "title", "label")
"""Columns taken for the caption when none is named, first match wins."""


@dataclass(frozen=True)
class SourceItem:
    """A picture's bytes, a name for reports, a caption, flat metadata, and the raw embedding where the source brings one `(d,)`.

    With an embedding, the picture may be missing (no bytes).
    """

    data: bytes
    name: str
    caption: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    embedding: np.ndarray | None = None


def content_id(item: SourceItem) -> int:
    """`rows.hash_of` an item; of one without a picture, its embedding stands for it."""
    return hash_of(item.data, item.caption) if item.embedding is None else renamed(item.data, item.embedding, item.caption)
