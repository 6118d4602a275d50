"""Word search: BM25 over captions and tags with bm25s. A cache like the dense index."""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.types import ABSENT

if TYPE_CHECKING:
    import bm25s

K1, B = 1.5, 0.75
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


def tokens_of(captions: Iterable[str], tags: Iterable[str], weights: Sequence[int]) -> Iterator[list[str]]:
    """The words that stand for each item: its whole caption as one, the caption's, the tags', each so often as its field's weight says.

    That is BM25F with whole weights: a word's frequency and an item's length are sums over the fields.
    """
    for caption, more in zip(captions, tags, strict=True):
        yield [whole(caption), *words(caption)] * weights[0] + words(more) * weights[1]


def build(captions: Iterable[str], tags: Iterable[str], weights: Sequence[int] = (1, 1)) -> bm25s.BM25:
    """A BM25 index (Lucene's form, k1 1.5, b 0.75) of captions and further words, in their order; `weights` of the two fields."""
    return build_and_count(captions, tags, weights)[0]


def build_and_count(captions: Iterable[str], tags: Iterable[str], weights: Sequence[int]) -> tuple[bm25s.BM25, float]:
    """`build`, and the mean number of words an item, which `build_like` needs."""
    import bm25s

    vocab: dict[str, int] = {}
    # numbers in place of words: a million captions are then arrays, not lists of strings
    tokens = [array("i", [vocab.setdefault(word, len(vocab)) for word in each]) for each in tokens_of(captions, tags, weights)]
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index((tokens, vocab), show_progress=False)
    return index, sum(map(len, tokens)) / max(1, len(tokens))


def build_like(index: bm25s.BM25, mean_words: float, captions: Sequence[str], tags: Sequence[str], weights: Sequence[int]) -> bm25s.BM25:
    """An index of further captions whose scores can stand beside those of `index`: the weights of words and the mean length are that one's.

    `mean_words`: words an item of `index`. A word that `index` does not know weighs as one that only these items have.
    """
    import bm25s

    tokens = [Counter(t) for t in tokens_of(captions, tags, weights)]
    frequencies = Counter(word for counts in tokens for word in counts)
    documents, starts = int(index.scores["num_docs"]), index.scores["indptr"]
    vocab = {word: i for i, word in enumerate(frequencies)}
    rows: list[list[int]] = [[] for _ in vocab]
    data: list[list[float]] = [[] for _ in vocab]
    for row, counts in enumerate(tokens):
        longer = K1 * (1 - B + B * counts.total() / mean_words)
        for word, count in counts.items():
            at = index.vocab_dict.get(word)
            known = 0 if at is None or at + 1 >= len(starts) else int(starts[at + 1] - starts[at])
            frequency = known or frequencies[word]
            idf = math.log(1 + (documents - frequency + 0.5) / (frequency + 0.5)) if known else math.log(1 + documents / (frequency + 0.5))
            rows[vocab[word]].append(row)
            data[vocab[word]].append(idf * count / (count + longer))
    made = bm25s.BM25(method="lucene", k1=K1, b=B)
    made.scores = {
        "data": np.asarray([x for column in data for x in column], np.float32),
        "indices": np.asarray([x for column in rows for x in column], np.int32),
        "indptr": np.cumsum([0, *map(len, rows)]).astype(np.int64),
        "num_docs": len(tokens),
    }
    made.vocab_dict = vocab
    return made


def best_rows(index: bm25s.BM25, text: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(rows, scores)`, each `(k,)`, among the boolean rows `allowed`; only items that share a word; equal ones by row; -1 pads."""
    rows, best = np.full(k, ABSENT, np.int64), np.full(k, -np.inf, np.float32)
    starts = index.scores["indptr"]
    known = [index.vocab_dict[w] for w in dict.fromkeys([whole(text), *words(text)]) if w in index.vocab_dict and w != "="]
    spans = [slice(int(starts[v]), int(starts[v + 1])) for v in known if v + 1 < len(starts)]
    if k < 1 or not any(span.stop > span.start for span in spans):
        return rows, best
    scores = np.zeros(int(index.scores["num_docs"]), np.float32)
    for span in spans:  # a word has each row once, so no sum is lost
        scores[index.scores["indices"][span]] += index.scores["data"][span]
    if allowed is not None:
        scores *= allowed
    found = np.flatnonzero(scores > 0)
    if len(found) > 4 * k:
        edge = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= edge]
    found = found[np.lexsort((found, -scores[found]))][:k]
    rows[: len(found)], best[: len(found)] = found, scores[found]
    return rows, best


def search(index: bm25s.BM25, ids: np.ndarray, text: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`best_rows` by the `ids` of the rows."""
    rows, scores = best_rows(index, text, k, allowed)
    return np.where(rows == ABSENT, ABSENT, ids[rows]) if len(ids) else rows, scores


def save(index: bm25s.BM25, path: Path) -> None:
    """Write the index to the directory `path` (plain .npy and .json)."""
    index.save(str(path), show_progress=False)


def load(path: Path) -> bm25s.BM25:
    """The index in the directory `path`, whose files are ours, checked by their hashes; large arrays are mapped, not read."""
    import bm25s

    return bm25s.BM25.load(str(path), load_corpus=False, mmap=True, allow_pickle=False)
