"""The contract of a store: where a knowledge base lies, and what `KnowledgeBase` asks of that place.

A store holds items. An item has a 63-bit content id (`data.item.content_id`), a caption, a name for reports, the bytes
of its picture (none for an item that is an embedding only), flat metadata, and a raw embedding float32 `(d,)`. A store
object is fixed at one version; a change moves it to a new one. It knows embeddings as arrays and an encoder by the
facts in its manifest only.

A new store is a class with these members and one entry in `storage.open.STORES`. `tests/test_milvus.py` holds a second
store to the answers of the first; a third passes the same tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from bowerbird.core.progress import OnMessage
from bowerbird.knowledge.search.protocol import Searchable

if TYPE_CHECKING:
    import pyarrow as pa


CAPTIONS = "captions"
"""What a manifest says of the vectors of captions, where there are any: `name`, `fingerprint` and `dim` of their
encoder."""
EmbedCaptions = Callable[[Sequence[str]], np.ndarray]
"""n captions -> their vectors, float32 `(n, d)`."""


@runtime_checkable
class HoldsCaptionVectors(Protocol):
    """What a store has beyond a `Store` when it keeps, for each caption, a vector: as a part of the row, which is made
    when the row is written. Its manifest then has `captions`, and its snapshot is a `search.protocol.SearchesCaptions`.

    `embed_captions` is set by whoever opens it to change it."""

    embed_captions: EmbedCaptions | None


@runtime_checkable
class HoldsTokens(Protocol):
    """What a store has beyond a `Store` when it can hold token matrices: its items may have `token_matrix` (bytes),
    which is kept, versioned and checked as the rest of them."""

    def tokens(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The token matrices of these items, by id, and nothing else read; items without are left out."""
        ...


class Store(Protocol):
    """One knowledge base at one version. Every method raises BowerbirdError, one line with the place in it, where the
    place cannot be read or written; that is not repeated below."""

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | str:
        """The place, as it is shown to a person and written into pictures: no password is in it."""
        ...

    @property
    def manifest(self) -> dict[str, Any]:
        """At least `version` (int, counts commits), `encoder` (`name`, `fingerprint`, `dim`, `normalize`), `metric`
        (`cosine` or `inner product`) and `words` (how often a word of the caption, and of the tags, counts in BM25);
        `credit` (names of metadata columns) and `caption_column` where they were kept. Read only."""
        ...

    @property
    def memory(self) -> int:
        """Bytes that making an index may take."""
        ...

    @property
    def on_message(self) -> OnMessage:
        """Gets a line on what takes long."""
        ...

    @property
    def dim(self) -> int:
        """The embedding dimension d."""
        ...

    @property
    def versions(self) -> list[int]:
        """The versions that `at_version` can open, ascending; at least the present one."""
        ...

    def __len__(self) -> int:
        """Items of this version."""
        ...

    def info(self) -> dict[str, Any]:
        """What `kb info --json` says beyond the manifest: `indexes` (`dense`, `bm25`, `beside them`), `bytes` on disk
        (0 where that is not known), and `metadata`, from a column's name to its Arrow type as text."""
        ...

    # -- reading -----------------------------------------------------------------------------------------------------

    def at_version(self, version: int) -> Store:
        """The same place at an earlier version. Raises: BowerbirdError when that version is not kept."""
        ...

    @property
    def snapshot(self) -> Searchable:
        """What is searched, at this version; the same object until a commit."""
        ...

    def ids(self, where: str | None = None) -> np.ndarray:
        """The ids of all items, or of those whose metadata, caption or name satisfy the SQL condition `where`, int64
        `(n,)`. Raises: BowerbirdError for a condition that is none, or names an unknown column."""
        ...

    def all_ids(self) -> np.ndarray:
        """The ids of all items int64 `(n,)`, also of those appended inside `writing` and not committed yet."""
        ...

    def contents(self) -> np.ndarray:
        """The content hashes (`data.item.content_id`) of all items int64 `(n,)`, as `all_ids`: the same numbers, but
        for items that kept their id when their picture or caption was changed."""
        ...

    def columns(self) -> dict[str, str]:
        """Metadata columns and their types, as Arrow names them."""
        ...

    def allowed(self, where: str) -> Any:
        """The items that satisfy `where`, in the form that this store's `snapshot` takes as `allowed`. Raises: as
        `ids`."""
        ...

    def pictures(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The original bytes of these items' pictures, by id; unknown ids and items without a picture are left out.
        Raises: BowerbirdError when a picture is not the one that was added (its id says which that was)."""
        ...

    def whole(self, ids: Sequence[int]) -> pa.Table:
        """All that is held of these items, in their order: columns `id`, `caption`, `name`, `image` (binary),
        `embedding` (a list of d floats), `added`, `check`, and one for each metadata column."""
        ...

    # -- changing ----------------------------------------------------------------------------------------------------

    def writing(self) -> AbstractContextManager[None]:
        """Be the one writer, at the newest version. What is appended, deleted or changed within and not committed when
        the block ends is undone where the place can do that. Raises: BowerbirdError when another writer does not
        finish."""
        ...

    def unfit(self, item: dict[str, Any]) -> str | None:
        """Why an item (as for `append`) cannot be stored here, in a few words; None when it can."""
        ...

    def append(self, items: Sequence[dict[str, Any]], embeddings: np.ndarray) -> None:
        """Add items, each `{"id", "caption", "name", "image", "metadata"}` with a new id, and their raw embeddings
        float32 `(n, d)`; within `writing`. Metadata columns that are new are made. A value of another
        type than its column makes that a column of texts, or raises BowerbirdError."""
        ...

    def delete(self, ids: Sequence[int]) -> None:
        """Remove items; within `writing`."""
        ...

    def change(self, ids: Sequence[int], caption: str | None, metadata: dict[str, Any]) -> None:
        """Give items another caption (None keeps it), with which they get another id, and other values in the columns
        of `metadata` (None empties one); within `writing`. Raises: BowerbirdError, before anything is changed, when
        two items would become one."""
        ...

    def keep(self, facts: Mapping[str, Any]) -> None:
        """Keep facts in the manifest, for every version: `credit`, `caption_column`; within `writing`, and not undone
        when the block ends otherwise."""
        ...

    def restore(self, version: int) -> None:
        """Hold, from the next `commit` on, what `version` holds; within `writing`. Raises: BowerbirdError when that
        version is not kept."""
        ...

    def commit(self) -> None:
        """Make what was done within `writing` the next version, whole or not at all; this object is at it then."""
        ...

    def renew(self) -> None:
        """Bring the indexes up to the present version. What cannot be made is no loss: it goes to `on_message`, and
        searches do without."""
        ...

    def compact(self, *, drop_history: bool) -> None:
        """Take less space, for the same items; with `drop_history`, drop every version but the newest."""
        ...

    def close(self) -> None:
        """Give back what others may be waiting for; the object is not used afterwards."""
        ...
