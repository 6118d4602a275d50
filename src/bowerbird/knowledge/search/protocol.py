"""What searching needs of a store, whichever it is, and what making an index needs of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from bowerbird.knowledge.search.analyzer import Analyzer
from bowerbird.knowledge.search.typos import Near


class Searchable(Protocol):
    """The items of a store at one version, by row number: the contract of a store's `snapshot`.

    What a row number is (any int64 from 0 on), and what `allowed` is, is the store's own business (`Store.allowed`
    gives it); -1 (`ABSENT`) is no row. `Q` queries, `K` results each, best first; -1 and a score of -inf pad where
    fewer are found.
    """

    @property
    def ids(self) -> np.ndarray:
        """The ids of all items, int64 `(n,)`."""
        ...

    def __len__(self) -> int:
        """Items."""
        ...

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The row of each id `(n,)`, int64; -1 for an id that is not here."""
        ...

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """The id of each row, of any shape; -1 stays."""
        ...

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """The raw embeddings of `rows`, of any shape, float32 `(…, d)`; zeros for -1."""
        ...

    def describe(self, rows: np.ndarray) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[dict[str, Any], ...], ...]]:
        """Captions and metadata (without empty values) of `rows` `(Q, K)`; empty ones for -1."""
        ...

    def names(self, rows: np.ndarray) -> list[str]:
        """Where each of `rows` `(n,)` came from: its file or row name."""
        ...

    def values(self, column: str, rows: np.ndarray) -> list[list[Any]]:
        """One metadata column of `rows` `(Q, K)`; None for -1, or where there is no value."""
        ...

    def dense(
        self, queries: np.ndarray, k: int, allowed: Any = None, *, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, scores)` of prepared queries float32 `(Q, d)`, each `(Q, k)`, among `allowed` (all when
        None): inner products, with unit vectors where the knowledge base normalizes. `exact`: miss none."""
        ...

    @property
    def analyzer(self) -> Analyzer:
        """How texts become words."""
        ...

    def near_words(self, text: str) -> Near:
        """For each word of `text` that no item has, those that it may mean (`search.typos`); {} where a store cannot
        say."""
        ...

    def narrowed(self, phrase: str, allowed: Any = None) -> Any:
        """Those of `allowed` that have the words of `phrase` next to each other; `allowed` itself where a store cannot
        say."""
        ...

    def words(
        self, text: str, k: int, allowed: Any = None, *, near: Near | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, scores)`, each `(k,)`, by BM25 (`search.words.words` of captions and tags); only items
        that share a word with `text`, or have one of those `near` it."""
        ...


@runtime_checkable
class SearchesCaptions(Protocol):
    """What a snapshot has beyond `Searchable` where captions have vectors of their own."""

    def captions(self, queries: np.ndarray, k: int, allowed: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The k best `(rows, cosines)` of raw caption queries float32 `(Q, d)`, each `(Q, k)`, among the items with a
        caption: as `Searchable.dense`, and always exact."""
        ...

    def caption_embeddings(self, rows: np.ndarray) -> np.ndarray:
        """The raw vectors of the captions of `rows`, of any shape, float32 `(…, d)`; zeros where there is none."""
        ...


class IndexedRows(Protocol):
    """The rows of one version, as an index is made from them; `storage.lance.Rows` is one."""

    def __len__(self) -> int: ...
    def keys(self) -> tuple[np.ndarray, np.ndarray]: ...
    def of(self, ids: Sequence[int]) -> pa.Table: ...
    def schema_without(self, *names: str) -> pa.Schema: ...
    def checked_batches(self, size: int, ids: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]: ...
