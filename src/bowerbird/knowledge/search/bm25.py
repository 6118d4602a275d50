"""Word search: BM25 over captions and tags. A cache like the dense index.

Scores are worked out when the index is made, as in bm25s (Lù, arXiv 2407.03618), whose files and bits these are: a
sparse matrix of items by words, word after word (CSC), and the words' numbers. Searching is a sum of a few columns.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.core import files
from bowerbird.core.text import parse_json
from bowerbird.core.types import ABSENT
from bowerbird.data.captions import EVERY as CAPTIONS
from bowerbird.knowledge.search import typos
from bowerbird.knowledge.search.analyzer import PLAIN, Analyzer
from bowerbird.knowledge.search.compounds import Compounds
from bowerbird.knowledge.search.words import bare_name, exact, whole_of

K1, B = 1.5, 0.75
HASHES, ROWS, EXACT = "wholes.npy", "wholes.rows.npy", "exact.npy"
DATA, INDICES, INDPTR = "data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"
VOCABULARY, PARAMETERS = "vocab.index.json", "params.index.json"
EVERY = "="
"""The word that every caption has once: it stands where the whole caption would, so that lengths are the same, and its
scores hold the lengths."""
COMPOUND_WEIGHT = 0.5
"""What a word counts that is part of a longer one, beside one that stands alone."""
NAME, NAME_WEIGHT = "/", 0.5
"""What stands before a word of a file's name in the vocabulary, and what such a word counts beside one of a caption."""
FURTHER = ("tags", CAPTIONS)
"""Metadata columns whose words are searched beside those of the caption."""
MOST_WORDS = 50_000_000
"""Of a vocabulary that is read."""


@dataclass(frozen=True)
class Words:
    """A BM25 index of captions and tags, and beside it every whole caption as a number, sorted `(n,)`, with its row
    `(n,)`.

    `vocabulary` gives a word its number w; its postings are `rows_of[starts[w] : starts[w + 1]]`, ascending, and `data`
    at the same places its score in each, float32. Whole captions are words too, but nearly as many as items, too many
    for a vocabulary in memory. `exact`: each row's caption as it stands, as a number `(n,)`. `like`: the index whose
    counts weigh these words, of one that stands beside another. `analyzer`: how texts became words.
    """

    documents: int
    vocabulary: dict[str, int]
    data: np.ndarray
    rows_of: np.ndarray
    starts: np.ndarray
    hashes: np.ndarray
    rows: np.ndarray
    exact: np.ndarray
    like: Words | None = None
    analyzer: Analyzer = PLAIN

    def span(self, word: str) -> slice:
        """Where the postings of a word lie; empty for one that no item has."""
        at = self.vocabulary.get(word)
        return (
            slice(0, 0)
            if at is None or at + 1 >= len(self.starts)
            else slice(int(self.starts[at]), int(self.starts[at + 1]))
        )

    @cached_property
    def lexicon(self) -> typos.Lexicon:
        """The words that a mistyped one may mean, those of file names too."""
        return typos.lexicon(dict.fromkeys(word.removeprefix(NAME) for word in self.vocabulary))

    @cached_property
    def compounds(self) -> Compounds:
        """The words as parts of each other; without any where the analyzer takes no word apart."""
        return Compounds.of(self.vocabulary if self.analyzer.compounds else ())

    def rarity(self, word: str) -> float:
        """What the rarity of a word adds to the scores of its postings."""
        by, own = self.like or self, self.span(word)
        span = by.span(word)
        if span.stop > span.start:
            return _rarity(by.documents, span.stop - span.start)
        return math.log(1 + by.documents / (own.stop - own.start + 0.5))

    def count(self, word: str, live: np.ndarray | None) -> int:
        """How many rows have a word, in their caption, tags or name, or in a compound; of the boolean rows `live` where
        they are given."""
        spans = [self.span(place) for place in (word, NAME + word, *self.compounds.related(word))]
        if live is None:
            return sum(span.stop - span.start for span in spans)
        return sum(int(live[self.rows_of[span]].sum()) for span in spans)

    def rows_with_all(self, words: Sequence[str]) -> np.ndarray:
        """The rows that have every one of `words`, int64, ascending."""
        each = [np.union1d(self.rows_of[self.span(word)], self.rows_of[self.span(NAME + word)]) for word in words]
        found = each[0]
        for rows in each[1:]:
            found = np.intersect1d(found, rows, assume_unique=True)
        return found.astype(np.int64)

    def same(self, text: str) -> np.ndarray:
        """The rows whose whole caption is what this text asks for, in their order."""
        found = [self.rows[:0]]
        for number in map(_number, self.analyzer.query_wholes(text)):
            first, last = (int(np.searchsorted(self.hashes, number, side)) for side in ("left", "right"))
            found.append(self.rows[first:last])
        return np.sort(np.concatenate(found))

    def closeness(self, rows: np.ndarray, text: str) -> np.ndarray:
        """How much of each caption the text is, of `rows` `(n,)`: 2 as it stands, 1 all of its words, 0 less."""
        return np.isin(rows, self.same(text)).astype(np.int64) * (1 + (self.exact[rows] == _short_number(text)))

    def score_of_same(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """`same`, and what the whole caption adds to the score of each, as if it were a word among the others."""
        rows, span = self.same(text), self.span(EVERY)
        if not len(rows) or span.stop == span.start:
            return rows[:0], np.zeros(0, np.float32)
        by = self.like or self
        frequency = len(by.same(text)) or len(rows)
        # the common word's score is its own rarity times what a caption of this length makes of a word that is there
        # once
        share = self.data[span][rows] / _rarity(by.documents, by.documents)
        return rows, (share * _rarity(by.documents, frequency)).astype(np.float32)


def _rarity(documents: int, frequency: int) -> float:
    return math.log(1 + (documents - frequency + 0.5) / (frequency + 0.5))


def _number(text: str) -> np.uint64:
    return np.uint64(
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    )


def _short_number(text: str) -> int:
    """A text as it stands, as 32 bits, which are enough among captions of the same words."""
    return zlib.crc32(exact(text).encode("utf-8", "surrogatepass"))


def further_words(metadata: Mapping[str, Any]) -> str:
    """What is searched of an item beside its caption: its tags, and its other captions where it has several."""
    tags, captions = metadata.get("tags") or "", metadata.get(CAPTIONS)
    others = captions[1:] if isinstance(captions, list) else []
    return " ".join([*map(str, tags), *others] if isinstance(tags, list) else [str(tags), *others])


def tokens_of(
    captions: Iterable[str],
    tags: Iterable[str],
    weights: Sequence[int],
    first: Callable[[str], str] = str,
    analyzer: Analyzer = PLAIN,
) -> Iterator[list[str]]:
    """The words that stand for each item: `first` of its whole caption, the caption's, the tags', each so often as its
    field's weight says.

    That is BM25F with whole weights: a word's frequency and an item's length are sums over the fields.
    """
    for caption, more in zip(captions, tags, strict=True):
        own = analyzer.words(caption)
        yield [first(whole_of(own, caption)), *own] * weights[0] + analyzer.words(more) * weights[1]


def name_tokens(name: str, own: Sequence[str], analyzer: Analyzer = PLAIN) -> list[str]:
    """The words of an item's file name that are not its `own` already, each once."""
    return [NAME + word for word in dict.fromkeys(analyzer.words(bare_name(name))) if word not in own]


def build(
    captions: Iterable[str],
    tags: Iterable[str],
    weights: Sequence[int] = (1, 1),
    names: Iterable[str] | None = None,
    analyzer: Analyzer = PLAIN,
) -> Words:
    """A BM25 index (Lucene's form, k1 1.5, b 0.75) of captions and further words, in their order; `weights` of the two
    fields. A file's name is a third one, without weight in the length of an item."""
    return build_and_count(captions, tags, weights, names, analyzer)[0]


def build_and_count(
    captions: Iterable[str],
    tags: Iterable[str],
    weights: Sequence[int],
    names: Iterable[str] | None = None,
    analyzer: Analyzer = PLAIN,
) -> tuple[Words, float]:
    """`build`, and the mean number of words an item, which `build_like` needs."""
    vocabulary: dict[str, int] = {}
    numbers, exacts, tokens, lengths = array("Q"), array("I"), array("i"), array("i")
    named: dict[str, array[int]] = {}
    # numbers in place of words: a million captions are then arrays, not lists of strings
    words_of = tokens_of(_note_exact(captions, exacts), tags, weights, _number_wholes(numbers), analyzer)
    for row, (each, name) in enumerate(zip(words_of, names or repeat(""), strict=names is not None)):
        tokens.extend([vocabulary.setdefault(word, len(vocabulary)) for word in each])
        lengths.append(len(each))
        for word in name_tokens(name, each, analyzer) if name else ():
            named.setdefault(word, array("i")).append(row)
    if not vocabulary:  # no item has a word; an index has at least one, and nobody can ask for this one
        vocabulary, lengths = {"": 0}, array("i", [1] * max(1, len(lengths)))
        tokens = array("i", [0] * len(lengths))
    sizes = np.frombuffer(lengths, np.int32)
    parts = _postings(np.frombuffer(tokens, np.int32), sizes, len(vocabulary))
    for word in named:
        vocabulary[word] = len(vocabulary)
    data, rows_of, starts = _with_names(parts, named, len(sizes))
    vocabulary.setdefault("", len(vocabulary))  # bm25s has it as well, without postings
    short = np.frombuffer(exacts or b"", np.uint32)
    made = Words(len(sizes), vocabulary, data, rows_of, starts, *_sort(numbers), short, analyzer=analyzer)
    return made, len(tokens) / max(1, len(sizes))


def _with_names(
    parts: tuple[np.ndarray, np.ndarray, np.ndarray], named: dict[str, array[int]], items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, rows and starts with those of the names' words behind: each is there once, whatever else is."""
    if not named:
        return parts
    counts = [len(rows) for rows in named.values()]
    scores = np.asarray([_name_score(_rarity(items, n)) for n in counts], np.float32)
    rows = np.concatenate([np.frombuffer(each, np.int32) for each in named.values()])
    starts = np.concatenate([parts[2], parts[2][-1] + np.cumsum(counts, dtype=np.int64)])
    return np.concatenate([parts[0], np.repeat(scores, counts)]), np.concatenate([parts[1], rows]), starts


def _name_score(rarity: float) -> float:
    return NAME_WEIGHT * rarity / (1 + K1)


def _postings(tokens: np.ndarray, sizes: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, rows and the words' starts from the words of all items one after another `(t,)` and how many each has
    `(n,)`; to the last bit those of bm25s."""
    items = len(sizes)
    keys = tokens.astype(np.int64) * items + np.repeat(np.arange(items, dtype=np.int64), sizes)
    keys.sort()
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    counts = np.diff(first, append=len(keys)).astype(np.float32)
    words, rows = np.divmod(keys[first], items)
    starts = np.searchsorted(words, np.arange(vocabulary + 1)).astype(np.int64)
    rarity = np.asarray([_rarity(items, int(n)) for n in np.diff(starts)], np.float32)
    longer = K1 * ((1 - B) + B * sizes / sizes.mean())
    data = np.empty(len(first), np.float32)
    for at in range(0, len(first), 1_000_000):  # in double precision, so a part at a time
        part = slice(at, at + 1_000_000)
        data[part] = rarity[words[part]] * (counts[part] / (longer[rows[part]] + counts[part]))
    return data, rows.astype(np.int32), starts


def _number_wholes(numbers: array[int]) -> Callable[[str], str]:
    """Takes a whole caption down as a number, and leaves the common word in its place."""

    def number(token: str) -> str:
        numbers.append(int(_number(token)))
        return EVERY

    return number


def _note_exact(captions: Iterable[str], numbers: array[int]) -> Iterator[str]:
    """The captions, each taken down as a number while it passes."""
    for caption in captions:
        numbers.append(_short_number(caption))
        yield caption


def _sort(numbers: array[int]) -> tuple[np.ndarray, np.ndarray]:
    hashes = np.frombuffer(numbers, np.uint64) if len(numbers) else np.zeros(0, np.uint64)
    rows = np.argsort(hashes, kind="stable").astype(np.int32)
    return hashes[rows], rows


def build_like(
    like: Words,
    mean_words: float,
    captions: Sequence[str],
    tags: Sequence[str],
    weights: Sequence[int],
    names: Sequence[str],
) -> Words:
    """An index of further captions whose scores can stand beside those of `like`: the weights of words and the mean
    length are that one's.

    `mean_words`: words an item of `like`. A word that `like` does not know weighs as one that only these items have.
    """
    numbers, exacts = array("Q"), array("I")
    analyzer, note = like.analyzer, _number_wholes(numbers)
    tokens = [Counter(t) for t in tokens_of(_note_exact(captions, exacts), tags, weights, note, analyzer)]
    named = [name_tokens(name, list(counts), analyzer) for name, counts in zip(names, tokens, strict=True)]
    frequencies = Counter(word for each in (*tokens, *named) for word in each)

    def rarity(word: str) -> float:
        span = like.span(word)
        known = span.stop - span.start
        return _rarity(like.documents, known) if known else math.log(1 + like.documents / (frequencies[word] + 0.5))

    columns: dict[str, list[tuple[int, float]]] = {}
    for row, (counts, more) in enumerate(zip(tokens, named, strict=True)):
        longer = K1 * (1 - B + B * counts.total() / mean_words)
        for word, count in counts.items():
            # as `_postings` has it, to the last bit, so that equal captions are equal here and there
            score = float(np.float32(rarity(word))) * (count / (longer + count))
            columns.setdefault(word, []).append((row, score))
        for word in more:
            columns.setdefault(word, []).append((row, _name_score(rarity(word))))
    return Words(
        len(tokens),
        {word: i for i, word in enumerate(columns)},
        np.asarray([score for column in columns.values() for _, score in column], np.float32),
        np.asarray([row for column in columns.values() for row, _ in column], np.int32),
        np.cumsum([0, *map(len, columns.values())]).astype(np.int64),
        *_sort(numbers),
        np.frombuffer(exacts or b"", np.uint32),
        like,
        analyzer,
    )


def best_rows(
    index: Words,
    text: str,
    k: int,
    allowed: np.ndarray | None = None,
    ids: np.ndarray | None = None,
    near: typos.Near | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(rows, scores)`, each `(k,)`, among the boolean rows `allowed`; only items that share a word, or one
    of those `near` it; equal ones by the `ids` of the rows, or by row; -1 pads. Captions that are the text come first
    (`lift`)."""
    rows, best = np.full(k, ABSENT, np.int64), np.full(k, -np.inf, np.float32)
    asked = dict.fromkeys(index.analyzer.query_words(text))
    places = [place for word in asked for place in (word, NAME + word)]
    spans = [span for word in places if (span := index.span(word)).stop > span.start]
    related = {word: others for word in asked if (others := index.compounds.related(word))}
    same = index.score_of_same(text)
    if k < 1 or not (spans or near or related or len(same[0])):
        return rows, best
    scores = np.zeros(index.documents, np.float32)
    scores[same[0]] += same[1]
    for span in spans:  # a word has each row once, so no sum is lost
        scores[index.rows_of[span]] += index.data[span]
    for near_ones in (near or {}).values():
        scores += _near_scores(index, near_ones)
    for word, parts in related.items():
        scores += _compound_scores(index, word, parts)
    if allowed is not None:
        scores *= allowed
    found = np.flatnonzero(scores > 0)
    if len(found) > 4 * k:
        edge = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= edge]
    if len(same[0]):
        found = np.union1d(found, same[0][scores[same[0]] > 0])
        scores[found] = lift(scores[found], index.closeness(found, text))
    found = found[np.lexsort((found if ids is None else ids[found], -scores[found]))][:k]
    rows[: len(found)], best[: len(found)] = found, scores[found]
    return rows, best


def _near_scores(index: Words, others: Mapping[str, float]) -> np.ndarray:
    """What words searched in place of one add to each row's score `(n,)`: the best of them, as if it stood there
    alone."""
    scores = np.zeros(index.documents, np.float32)
    for other, weight in others.items():
        for span in (index.span(other), index.span(NAME + other)):
            rows = index.rows_of[span]
            scores[rows] = np.maximum(scores[rows], np.float32(weight) * index.data[span])
    return scores


def _compound_scores(index: Words, word: str, related: Mapping[str, float]) -> np.ndarray:
    """What words that have `word` as a part, or are a part of it, add to each row's score `(n,)`: the best of them.

    A compound is rarer than its part, and is weighed as if the part stood in its place.
    """
    scores, spans = np.zeros(index.documents, np.float32), {other: index.span(other) for other in related}
    by, own = index.like or index, (index.like or index).span(word)
    there = own.stop - own.start + sum(span.stop - span.start for span in map(by.span, related))
    most = _rarity(by.documents, min(by.documents, there))
    for other, span in spans.items():
        weight = COMPOUND_WEIGHT * related[other] * min(1.0, most / index.rarity(other))
        rows = index.rows_of[span]
        scores[rows] = np.maximum(scores[rows], np.float32(weight) * index.data[span])
    return scores


def lift(scores: np.ndarray, closeness: np.ndarray) -> np.ndarray:
    """The scores `(n,)` with those of closer captions raised, where they have to be, just over all that are less
    close."""
    lifted = scores.copy()
    for level in (1, 2):
        closer, below = closeness == level, lifted[closeness < level]
        if closer.any() and len(below) and np.isfinite(below.max()):
            over = np.nextafter(below.max(), np.float32(np.inf), dtype=np.float32)
            lifted[closer] = np.maximum(lifted[closer], over)
    return lifted


def search(
    index: Words, ids: np.ndarray, text: str, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`best_rows` by the `ids` of the rows."""
    rows, scores = best_rows(index, text, k, allowed, ids if len(ids) else None)
    return np.where(rows == ABSENT, ABSENT, ids[rows]) if len(ids) else rows, scores


def save(index: Words, path: Path) -> None:
    """Write the index to the directory `path`: plain .npy and .json, which bm25s reads too."""
    path.mkdir(parents=True, exist_ok=True)
    np.save(path / DATA, index.data)
    np.save(path / INDICES, index.rows_of)
    np.save(path / INDPTR, index.starts)
    (path / VOCABULARY).write_text(json.dumps(index.vocabulary, ensure_ascii=False), encoding="utf-8")
    parameters = {"k1": K1, "b": B, "delta": 0.5, "method": "lucene", "idf_method": "lucene", "dtype": "float32"}
    parameters |= {"int_dtype": "int32", "num_docs": index.documents}
    (path / PARAMETERS).write_text(json.dumps(parameters, indent=4), encoding="utf-8")
    np.save(path / HASHES, index.hashes)
    np.save(path / ROWS, index.rows)
    np.save(path / EXACT, index.exact)


def load(path: Path, analyzer: Analyzer = PLAIN) -> Words:
    """The index in the directory `path`, whose files are ours, checked by their hashes; large arrays are mapped, not
    read. `analyzer`: the one it was made with."""
    names = (DATA, INDICES, INDPTR, HASHES, ROWS, EXACT)
    data, rows_of, starts, hashes, rows, exacts = (
        np.load(path / name, mmap_mode="r", allow_pickle=False) for name in names
    )
    text = (path / VOCABULARY).read_bytes()
    vocabulary = parse_json(text, str(path), "vocabulary", characters=len(text), values=MOST_WORDS)
    documents = int(files.read_json(path / PARAMETERS, "list of parameters")["num_docs"])
    return Words(documents, vocabulary, data, rows_of, starts, hashes, rows, exacts, analyzer=analyzer)
