"""What is searched at one version: the main segment without what was removed since, and the rows that came since,
exactly.

Rows are numbered through: those of the main segment first, then the others. A row is the same when its id and the
version it came with are, so any segment serves any version, newer or older than itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from bowerbird.core.types import ABSENT
from bowerbird.knowledge.search import bm25, dense, typos
from bowerbird.knowledge.search.analyzer import PLAIN, Analyzer
from bowerbird.knowledge.search.ann import K as MEASURED_K
from bowerbird.knowledge.search.phrases import rows_that_say
from bowerbird.knowledge.search.segment import Segment
from bowerbird.knowledge.search.typos import Near

FEW = 20_000
"""Up to so many allowed rows are compared one by one; an index would look where they are not."""


@dataclass(frozen=True)
class Snapshot:
    """`live`: which rows of `main` are of this version, boolean; `tail`: the rows that `main` has not."""

    main: Segment
    live: np.ndarray
    tail: Segment

    @cached_property
    def whole(self) -> bool:
        """Whether every row of the main segment is live."""
        return bool(self.live.all())

    def __len__(self) -> int:
        return int(self.live.sum()) + len(self.tail)

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids of this version, int64 `(n,)`."""
        return np.concatenate([self.main.ids[self.live], self.tail.ids])

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The row of each id, -1 for none of this version."""
        rows, recent = self.main.rows_of(ids), self.tail.rows_of(ids)
        there = (rows >= 0) & self.live[rows] if len(self.main) else np.zeros(len(ids), bool)
        return np.where(recent >= 0, recent + len(self.main), np.where(there, rows, ABSENT))

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """The id of each row, of any shape; -1 stays."""
        every = self._every_id
        return np.where(rows == ABSENT, ABSENT, every[rows]) if len(every) else rows

    @cached_property
    def _every_id(self) -> np.ndarray:
        return np.concatenate([self.main.ids, self.tail.ids]) if len(self.tail) else self.main.ids

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """The raw embeddings of `rows`, of any shape, float32 `(…, d)`; zeros for -1."""
        made = np.zeros((*rows.shape, self.main.vectors.raw.shape[1]), np.float32)
        recent = rows >= len(self.main)
        here = (rows >= 0) & ~recent
        made[here] = self.main.vectors.few(rows[here])
        made[recent] = self.tail.vectors.raw[rows[recent] - len(self.main)]
        return made

    def describe(self, rows: np.ndarray) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[dict[str, Any], ...], ...]]:
        """Captions and metadata (without empty values) of `rows` `(Q, K)`; empty ones for -1."""
        places = [[None if row == ABSENT else self._of(row) for row in line] for line in rows.tolist()]
        captions = tuple(
            tuple("" if p is None else str(p[0].table["caption"][p[1]].as_py()) for p in line) for line in places
        )
        return captions, tuple(tuple({} if p is None else p[0].metadata(p[1]) for p in line) for line in places)

    def names(self, rows: np.ndarray) -> list[str]:
        """Where each of `rows` `(n,)` came from: its file or row name."""
        return [str(segment.table["name"][at].as_py()) for segment, at in map(self._of, rows.tolist())]

    def values(self, column: str, rows: np.ndarray) -> list[list[Any]]:
        """One metadata column of `rows` `(Q, K)`; None for -1, or where there is no such column."""
        every = [_column(self.main, column), _column(self.tail, column)]
        cut = len(self.main)
        return [
            [None if row == ABSENT else every[row >= cut][row - cut * (row >= cut)].as_py() for row in line]
            for line in rows.tolist()
        ]

    def _of(self, row: int) -> tuple[Segment, int]:
        """The segment of a row, and its number there."""
        return (self.main, row) if row < len(self.main) else (self.tail, row - len(self.main))

    def dense(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None, *, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, scores)`, each `(Q, k)`, among the rows `allowed` (ascending; all when None): never fewer
        than there are."""
        cut = len(self.main)
        here = None if allowed is None else allowed[allowed < cut]
        recent = None if allowed is None else allowed[allowed >= cut] - cut
        found = self._main_dense(queries, k, here, exact)
        within = dense.rounding(self.main.vectors, queries, found[0])
        if len(self.tail):
            late_rows, late = dense.nearest(self.tail.vectors, queries, k, recent)
            within = np.maximum(within, dense.rounding(self.tail.vectors, queries, late_rows))
            found = dense.merge(found, (np.where(late_rows == ABSENT, ABSENT, late_rows + cut), late))
        return dense.settle_ties(found, queries, k, within, self._scaled, self.ids_of)

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of `rows` `(n,)` as they are compared."""
        cut = len(self.main)
        lengths = np.ones(len(rows), np.float32)
        here = rows < cut
        lengths[here] = self.main.vectors.lengths[rows[here]]
        lengths[~here] = self.tail.vectors.lengths[rows[~here] - cut]
        scaled: np.ndarray = self.embeddings(rows) / lengths[:, None]
        return scaled

    def _main_dense(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None, exact: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        main = self.main
        count = len(allowed) if allowed is not None else int(self.live.sum())
        if exact or main.index is None or count <= FEW:
            rows = allowed if allowed is not None else None if self.whole else np.flatnonzero(self.live)
            return dense.nearest(main.vectors, queries, k, rows)
        mask = (
            None
            if allowed is None and self.whole
            else self.live
            if allowed is None
            else np.isin(np.arange(len(main)), allowed, assume_unique=True)
        )
        facts = main.facts["index"]
        # with a filter, or with holes, more must be fetched for as many to be left
        depth = int(facts["depth"] * max(1.0, k / MEASURED_K) * len(main) / count)
        found = dense.approximate(
            main.index, main.vectors, queries, k, probes=int(facts["probes"]), depth=depth, live=mask
        )
        short = np.flatnonzero((found[0] == ABSENT).any(1)) if k <= count else np.arange(len(queries))
        if len(short):
            rows, scores = dense.exact(
                main.vectors, queries[short], k, np.flatnonzero(mask) if mask is not None else None
            )
            found[0][short], found[1][short] = rows, scores
        return found

    @property
    def analyzer(self) -> Analyzer:
        """How texts become words."""
        return next((one.words.analyzer for one in (self.main, self.tail) if one.words is not None), PLAIN)

    def captions(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, cosines)` of caption queries, each `(Q, k)`, among the rows `allowed` that have a
        caption."""
        queries = dense.prepare(queries, True)
        found = np.full((len(queries), k), ABSENT, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        for segment, start, live in (
            (self.main, 0, None if self.whole else self.live),
            (self.tail, len(self.main), None),
        ):
            if segment.captions is None or not len(segment):
                continue
            chosen = None  # as they lie: choosing rows copies them
            if allowed is not None or live is not None:
                mask = np.ones(len(segment), bool) if live is None else live.copy()
                if allowed is not None:
                    mask &= np.isin(np.arange(start, start + len(segment)), allowed, assume_unique=True)
                chosen = np.flatnonzero(mask)
            rows, scores = dense.exact(segment.captions, queries, k, chosen)
            none = (rows == ABSENT) | (segment.captions.lengths[rows] <= dense.NO_LENGTH)
            found = dense.merge(found, (np.where(none, ABSENT, rows + start), np.where(none, -np.inf, scores)))
        return found[0][:, :k], found[1][:, :k]

    def caption_embeddings(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of the captions of `rows`, of any shape, float32 `(…, d)`; zeros where there is none."""
        main, tail = self.main.captions, self.tail.captions
        if main is None or tail is None:
            return np.zeros((*rows.shape, 0), np.float32)
        made = np.zeros((*rows.shape, main.raw.shape[1]), np.float32)
        recent = rows >= len(self.main)
        here = (rows >= 0) & ~recent
        made[here] = main.few(rows[here])
        made[recent] = tail.raw[rows[recent] - len(self.main)]
        return made

    def near_words(self, text: str) -> Near:
        """For each word of `text` that no item has, those of the index that it may mean."""
        parts = ((self.main.words, None if self.whole else self.live), (self.tail.words, None))
        indexes = [(index, live) for index, live in parts if index is not None]
        chosen: dict[str, dict[str, float]] = {}
        for word in dict.fromkeys(self.analyzer.query_words(text)):
            signs = typos.signs(word)
            if not (signs or typos.may_be_mistyped(word)) or any(index.count(word, live) for index, live in indexes):
                continue
            if signs:
                there = [sign for sign in signs if any(index.count(sign, live) for index, live in indexes)]
                chosen[word] = dict.fromkeys(there, typos.SIGN)
                continue
            near = {other: d for index, _ in indexes for other, d in typos.near_words(index.lexicon, word).items()}
            counts = {other: sum(index.count(other, live) for index, live in indexes) for other in near}
            chosen[word] = typos.choose(word, {other: d for other, d in near.items() if counts[other]}, counts)
        return {word: others for word, others in chosen.items() if others}

    def narrowed(self, phrase: str, allowed: np.ndarray | None = None) -> np.ndarray | None:
        """The rows of `allowed` (ascending; all when None) where the words of `phrase` stand next to each other, in a
        caption, a tag or the file's name."""
        content = dict.fromkeys(self.analyzer.query_words(phrase))
        if not content:
            return allowed
        found = []
        for segment, start in ((self.main, 0), (self.tail, len(self.main))):
            if segment.words is not None:
                rows = segment.words.rows_with_all(list(content))
                found.append(rows_that_say(segment.table, rows, phrase, segment.words.analyzer) + start)
        every = np.concatenate([np.zeros(0, np.int64), *found])
        here = every < len(self.main)
        every = every[~here | self.live[np.where(here, every, 0)]] if len(self.main) else every
        return every if allowed is None else np.intersect1d(every, allowed)

    def words(
        self, text: str, k: int, allowed: np.ndarray | None = None, *, near: Near | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, scores)`, each `(k,)`, by the words of `text`, and by those `near` them."""
        cut = len(self.main)
        parts, closeness = [], []
        for segment, start, always in ((self.main, 0, None if self.whole else self.live), (self.tail, cut, None)):
            if segment.words is None:
                continue
            mask = always
            if allowed is not None:
                mask = np.zeros(len(segment), bool)
                mask[allowed[(allowed >= start) & (allowed < start + len(segment))] - start] = True
            rows, scores = bm25.best_rows(segment.words, text, k, mask, segment.ids, near)
            there = rows != ABSENT
            closeness.append(segment.words.closeness(rows[there], text))
            parts.append((rows[there] + start, scores[there]))
        if len(parts) == 2:  # each has the closest of its own first; so has the whole
            lifted = bm25.lift(np.concatenate([p[1] for p in parts]), np.concatenate(closeness))
            parts = [(parts[0][0], lifted[: len(parts[0][0])]), (parts[1][0], lifted[len(parts[0][0]) :])]
        return self._best([part[0] for part in parts], [part[1] for part in parts], k)

    def _best(self, rows: list[np.ndarray], scores: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best of several lists, equal ones by id; -1 and -inf pad."""
        found, best = np.full(k, ABSENT, np.int64), np.full(k, -np.inf, np.float32)
        if rows:
            every, values = np.concatenate(rows), np.concatenate(scores)
            order = np.lexsort((self.ids_of(every), -values))[:k]
            found[: len(order)], best[: len(order)] = every[order], values[order]
        return found, best


def _column(segment: Segment, name: str) -> pa.ChunkedArray:
    """A column of the table, or as many nulls."""
    return segment.table[name] if name in segment.table.column_names else pa.chunked_array([pa.nulls(len(segment))])
