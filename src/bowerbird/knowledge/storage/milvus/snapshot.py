"""Searching a Milvus collection: what `search.snapshot.Snapshot` is for a directory. A row's number is its id."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.types import ABSENT
from bowerbird.knowledge.search import bm25, typos
from bowerbird.knowledge.search.analyzer import PLAIN, Analyzer
from bowerbird.knowledge.search.compounds import Compounds
from bowerbird.knowledge.search.typos import Near
from bowerbird.knowledge.storage.milvus.client import one_line_errors

if TYPE_CHECKING:
    from pymilvus import MilvusClient

FIELDS = ["id", "caption", "name", "metadata", "vector"]
PAGE = 1000
KEPT = 20_000
"""So many items are remembered between a search and what is asked of its results."""
READ = 200_000
"""Items whose words are read for near words and compounds, which Milvus does not give; with more there are none."""
DEPTH = 100
"""Items, at least, that each of the words that are searched beside others finds before they are summed."""


class MilvusSnapshot:
    """The collection as it is at the time of asking: Milvus keeps no versions."""

    def __init__(
        self,
        place: str,
        client: MilvusClient,
        collection: str,
        dim: int,
        metric: str,
        analyzer: Analyzer = PLAIN,
    ) -> None:
        self.place, self.client, self.collection, self.dim, self.metric = place, client, collection, dim, metric
        self.analyzer = analyzer
        self._records: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        with one_line_errors(self.place):
            return int(self.client.query(self.collection, filter="", output_fields=["count(*)"])[0]["count(*)"])

    @cached_property
    def ids(self) -> np.ndarray:
        """All ids, ascending, int64 `(n,)`."""
        return self.ids_where("")

    def ids_where(self, condition: str) -> np.ndarray:
        """The ids that satisfy a condition of Milvus, ascending."""
        return np.sort(np.asarray([row["id"] for row in self.scan(condition, ["id"])], np.int64))

    def scan(self, condition: str, fields: Sequence[str]) -> list[dict[str, Any]]:
        """Some fields of all items, or of those that satisfy a condition of Milvus, page by page."""
        found: list[dict[str, Any]] = []
        with one_line_errors(self.place):
            pages = self.client.query_iterator(
                self.collection, batch_size=PAGE, filter=condition, output_fields=list(fields)
            )
            while page := pages.next():
                found += page
            pages.close()
        return found

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The ids that are there; -1 for the others."""
        there = self._of(np.asarray(ids).ravel())
        return np.asarray(
            [number if number in there else ABSENT for number in np.asarray(ids).ravel().tolist()], np.int64
        )

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """A row's number is its id."""
        return rows

    def _of(self, rows: np.ndarray) -> dict[int, dict[str, Any]]:
        """The items of these ids that are there."""
        wanted = {int(number) for number in np.asarray(rows).ravel() if number >= 0}
        there = {number: self._records[number] for number in wanted if number in self._records}
        missing = sorted(wanted - there.keys())
        for start in range(0, len(missing), PAGE):
            with one_line_errors(self.place):
                found = self.client.get(self.collection, ids=missing[start : start + PAGE], output_fields=FIELDS)
            there |= {int(row["id"]): dict(row) for row in found}
            self._remember(found)
        return there

    def _remember(self, found: Sequence[dict[str, Any]]) -> None:
        if len(self._records) > KEPT:
            self._records.clear()
        self._records |= {int(row["id"]): dict(row) for row in found}

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """The raw embeddings of `rows`, of any shape, float32 `(…, d)`; zeros for -1."""
        there = self._of(rows)
        nothing = np.zeros(self.dim, np.float32)
        flat = [
            np.asarray(there[row]["vector"], np.float32) if row in there else nothing
            for row in np.asarray(rows).ravel().tolist()
        ]
        return np.stack(flat).reshape(*rows.shape, self.dim) if flat else np.zeros((*rows.shape, self.dim), np.float32)

    def describe(self, rows: np.ndarray) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[dict[str, Any], ...], ...]]:
        """Captions and metadata of `rows` `(Q, K)`; empty ones for -1."""
        there = self._of(rows)
        captions = tuple(
            tuple(str(there[row]["caption"]) if row in there else "" for row in line) for line in rows.tolist()
        )
        return captions, tuple(
            tuple(dict(there[row]["metadata"] or {}) if row in there else {} for row in line) for line in rows.tolist()
        )

    def names(self, rows: np.ndarray) -> list[str]:
        """Where each of `rows` `(n,)` came from."""
        there = self._of(rows)
        return [str(there[row]["name"]) for row in rows.tolist()]

    def values(self, column: str, rows: np.ndarray) -> list[list[Any]]:
        """One metadata column of `rows` `(Q, K)`; None where there is none."""
        there = self._of(rows)
        return [
            [(there[row]["metadata"] or {}).get(column) if row in there else None for row in line]
            for line in rows.tolist()
        ]

    def dense(
        self, queries: np.ndarray, k: int, allowed: str | None = None, *, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, scores)`, each `(Q, k)`; -1 and -inf pad. `allowed`: a condition of Milvus. As exact as
        the collection's index is."""
        if not len(queries):
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        with one_line_errors(self.place):
            found = self.client.search(
                self.collection,
                data=[query.tolist() for query in queries],
                anns_field="vector",
                limit=k,
                filter=allowed or "",
                output_fields=FIELDS,
                search_params={"metric_type": self.metric},
            )
        return self._rank(found, k)

    @cached_property
    def _counts(self) -> Mapping[str, int]:
        """How many items have each word; read from all of them, when it is first asked for, and nothing of more than
        `READ`."""
        counts = Counter[str]()
        if len(self) <= READ:
            for row in self.scan("", ["words"]):
                counts.update(set(str(row["words"]).split()))
        return counts

    @cached_property
    def _lexicon(self) -> typos.Lexicon:
        return typos.lexicon(self._counts)

    @cached_property
    def _compounds(self) -> Compounds:
        return Compounds.of(self._counts if self.analyzer.compounds else ())

    def near_words(self, text: str) -> Near:
        """For each word of `text` that no item has, those that it may mean."""
        every = dict.fromkeys(self.analyzer.query_words(text))
        asked = [word for word in every if typos.may_be_mistyped(word)]
        unknown = [word for word in asked if not (self._has(word) or self._compounds.related(word))]
        found = {
            word: typos.choose(word, typos.near_words(self._lexicon, word), self._counts)
            for word in unknown
            if self._counts
        }
        for pair in every:
            if (signs := typos.signs(pair)) and not self._has(pair):
                found[pair] = dict.fromkeys(filter(self._has, signs), typos.SIGN)
        return {word: others for word, others in found.items() if others}

    def _has(self, word: str) -> bool:
        """Whether an item has a word; asked of the server, as reading all words takes longer."""
        return bool(self._by_words(word, 1, None)[0][0] != ABSENT)

    def narrowed(self, phrase: str, allowed: str | None = None) -> str | None:
        """`allowed` itself: Milvus does not say what stands next to what."""
        return allowed

    def words(
        self, text: str, k: int, allowed: str | None = None, *, near: Near | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, scores)`, each `(k,)`, by the words of `text`, and by those `near` them; only items that
        share one.

        Milvus weighs no word of a query, so each of those that count less is a search of its own, and what it finds is
        summed with the rest.
        """
        asked = self.analyzer.query_words(text)
        parts = {word: others for word in dict.fromkeys(asked) if (others := self._compounds.related(word))}
        less = [
            *(near or {}).values(),
            *({other: bm25.COMPOUND_WEIGHT * share for other, share in others.items()} for others in parts.values()),
        ]
        if not less:
            return self._by_words(query_words(text, self.analyzer), k, allowed)
        depth = max(DEPTH, 2 * k)
        rows, values = self._by_words(query_words(text, self.analyzer), depth, allowed)
        totals = {row: float(score) for row, score in zip(rows.tolist(), values.tolist(), strict=True) if row != ABSENT}
        for weighed in less:
            best: dict[int, float] = {}
            for other, weight in weighed.items():
                rows, values = self._by_words(_plain(other), depth, allowed)
                for row, score in zip(rows.tolist(), values.tolist(), strict=True):
                    if row != ABSENT:
                        best[row] = max(best.get(row, 0.0), weight * float(score))
            for row, score in best.items():
                totals[row] = totals.get(row, 0.0) + score
        order = sorted((-score, row) for row, score in totals.items())[:k]
        found, scores = np.full(k, ABSENT, np.int64), np.full(k, -np.inf, np.float32)
        found[: len(order)], scores[: len(order)] = [row for _, row in order], [-minus for minus, _ in order]
        return found, scores

    def _by_words(self, query: str, k: int, allowed: str | None) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, scores)`, each `(k,)`, for words as they are stored; all the same to Milvus."""
        if not query:
            return np.full(k, ABSENT, np.int64), np.full(k, -np.inf, np.float32)
        with one_line_errors(self.place):
            found = self.client.search(
                self.collection,
                data=[query],
                anns_field="sparse",
                limit=k,
                filter=allowed or "",
                output_fields=FIELDS,
                search_params={"metric_type": "BM25"},
            )
        rows, scores = self._rank(found, k, abs)  # Milvus Lite counts BM25 downwards, servers upwards
        return rows[0], scores[0]

    def _rank(self, found: Any, k: int, score: Callable[[float], float] = float) -> tuple[np.ndarray, np.ndarray]:
        """Hits as arrays, best first, equal ones by id."""
        rows, scores = np.full((len(found), k), ABSENT, np.int64), np.full((len(found), k), -np.inf, np.float32)
        for q, hits in enumerate(found):
            self._remember([{"id": hit["id"], **hit["entity"]} for hit in hits])
            best = sorted((-score(float(hit["distance"])), int(hit["id"])) for hit in hits)
            rows[q, : len(best)], scores[q, : len(best)] = [number for _, number in best], [-minus for minus, _ in best]
        return rows, scores


def stored_words(caption: str, tags: str, weights: Sequence[int], analyzer: Analyzer = PLAIN) -> str:
    """The words of an item as Milvus's standard analyzer takes them: ours already, each of letters and digits alone."""
    return " ".join(_plain(token) for token in next(iter(bm25.tokens_of([caption], [tags], weights, _short, analyzer))))


def query_words(text: str, analyzer: Analyzer = PLAIN) -> str:
    """The words of a query, each once; the whole caption is one of them."""
    wholes = analyzer.query_wholes(text)
    asked = [*map(_short, wholes), *analyzer.query_words(text)] if wholes else []
    return " ".join(dict.fromkeys(_plain(token) for token in asked))


def _short(whole: str) -> str:
    """A whole caption as one short word."""
    return "w" + hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _plain(token: str) -> str:
    """A token without anything that an analyzer would part it at."""
    return token if token.isalnum() else "x" + token.encode("utf-8").hex()
