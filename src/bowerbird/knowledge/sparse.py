"""Word search: BM25 over captions and tags with bm25s. A cache like the dense index."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.types import ABSENT

if TYPE_CHECKING:
    import bm25s

FUNCTION_WORDS = frozenset(
    ["a", "an", "and", "as", "at", "be", "by", "for", "from", "in", "into", "is", "it", "of", "on", "or", "that", "the", "this", "to", "with"]
)


def words(text: str) -> list[str]:
    """Lower-case words of any script without function words; accents folded, a plain plural s dropped."""
    folded = unicodedata.normalize("NFKD", text.lower())
    folded = "".join(c for c in folded if not unicodedata.combining(c)).replace("’", "'").replace("'s", "")
    found = [w for w in re.findall(r"[^\W_]+|[#*]", folded) if w not in FUNCTION_WORDS]
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found]


def whole(text: str) -> str:
    """One token for a text as a whole: an item whose entire caption is the query shares this word too, and so comes first."""
    return "=" + " ".join(words(text))


def build(captions: Sequence[str], tags: Sequence[str]) -> bm25s.BM25:
    """A BM25 index (Lucene's form, k1 1.5, b 0.75) of captions and further words, in their order."""
    import bm25s

    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    tokens = [[whole(caption), *words(caption), *words(more)] for caption, more in zip(captions, tags, strict=True)]
    index.index(tokens, show_progress=False)
    return index


def search(index: bm25s.BM25, ids: np.ndarray, text: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(ids, scores)`, each `(k,)`, among the boolean rows `allowed`; only items that share a word; -1 pads."""
    known = [w for w in dict.fromkeys([whole(text), *words(text)]) if w in index.vocab_dict and w != "="]
    found_ids, found_scores = np.full(k, ABSENT, np.int64), np.full(k, -np.inf, np.float32)
    if not known:
        return found_ids, found_scores
    scores = index.get_scores(known)
    if allowed is not None:
        scores = np.where(allowed, scores, 0)
    best = np.argsort(-scores, kind="stable")[:k]
    best = best[scores[best] > 0]
    found_ids[: len(best)], found_scores[: len(best)] = ids[best], scores[best]
    return found_ids, found_scores


def save(index: bm25s.BM25, path: Path) -> None:
    """Write the index to the directory `path` (plain .npy and .json)."""
    index.save(str(path), show_progress=False)


def load(path: Path) -> bm25s.BM25 | None:
    """The index in the directory `path`, or None when it is not there or damaged."""
    import bm25s

    try:
        return bm25s.BM25.load(str(path), load_corpus=False, mmap=False, allow_pickle=False)
    except (OSError, ValueError, KeyError, EOFError):
        return None
