"""Phrases: which rows have the words of a quoted text next to each other.

Most that have them have them as they were quoted, which one pass of Arrow over the captions sees; only the others are
taken apart into words.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bowerbird.data.captions import EVERY as CAPTIONS
from bowerbird.knowledge.search.analyzer import Analyzer
from bowerbird.knowledge.search.bm25 import FURTHER
from bowerbird.knowledge.search.words import all_words, bare_name

BETWEEN = r'[\s.,;:!?/()"-]'
"""Characters that part words and are none, in any script."""


def rows_that_say(table: pa.Table, rows: np.ndarray, phrase: str, analyzer: Analyzer) -> np.ndarray:
    """Those of `rows` `(n,)`, which have all words of `phrase`, that have them one after another in a caption, a tag or
    the file's name."""
    own = analyzer.sequence(phrase)
    if len(own) < 2:
        return rows
    found = _as_quoted(table["caption"].take(rows), phrase)
    others, wanted = np.flatnonzero(~found), f" {' '.join(own)} "
    columns = [name for name in ("caption", "name", *FURTHER) if name in table.column_names]
    for at, item in zip(others, table.select(columns).take(rows[others]).to_pylist(), strict=True):
        found[at] = any(wanted in f" {' '.join(analyzer.sequence(text))} " for text in _texts_of(item))
    return rows[found]


def _as_quoted(captions: pa.ChunkedArray, phrase: str) -> np.ndarray:
    """Which captions have the words of a phrase as they stand there, in any case; none where that does not say that
    they are the same words."""
    parts = all_words(phrase, parts=False)
    if not phrase.isascii() or not all(part.isalnum() for part in parts):
        return np.zeros(len(captions), bool)
    pattern = f"(?:^|{BETWEEN}){f'{BETWEEN}+'.join(parts)}(?:$|{BETWEEN})"
    there: np.ndarray = pc.match_substring_regex(captions, pattern, ignore_case=True).to_numpy().astype(bool)
    return there


def _texts_of(item: dict[str, Any]) -> list[str]:
    """Everything that an item is called."""
    tags, captions = item.get("tags") or "", item.get(CAPTIONS)
    labels = [*map(str, tags)] if isinstance(tags, list) else re.split("[,;|]", str(tags))
    others = [*map(str, captions)] if isinstance(captions, list) else []
    return [str(item["caption"]), *others, *labels, bare_name(str(item["name"]))]
