"""What changes the rows of a knowledge base: removed, updated, restored, as functions of its store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.columns import clean
from bowerbird.data.item import OWN_COLUMNS, clean_metadata
from bowerbird.knowledge.ingest.credit import known_columns
from bowerbird.knowledge.items import as_ids

if TYPE_CHECKING:
    from bowerbird.knowledge.storage.protocol import Store


def check_dedup(store: Store, dedup: float | None) -> None:
    """Raises: BowerbirdError for what is no cosine, or where items are not compared by cosine."""
    if dedup is not None and not 0 < dedup <= 1:
        raise BowerbirdError(f"near-duplicates from a cosine of {dedup}: give a number above 0 and up to 1, as in 0.99")
    if dedup is not None and not store.manifest["encoder"]["normalize"]:
        raise BowerbirdError(
            f"{store.path}: near-duplicates are found by cosine, and this knowledge base compares by inner products;"
            " leave out dedup"
        )


def check_change(caption: str | None, metadata: Mapping[str, Any] | None) -> None:
    """Raises: BowerbirdError when `update` was given nothing to change, or what is not to be changed."""
    if caption is None and not metadata:
        raise BowerbirdError("update: nothing to change; give `caption` or `metadata`")
    own = sorted(set(metadata or {}) & set(OWN_COLUMNS))
    if own:
        raise BowerbirdError(
            f"update: {own[0]} is not metadata; a caption has its own option, and the rest says what the item is"
        )


def select_ids(store: Store, ids: Sequence[int] | None, where: str | None) -> np.ndarray:
    """Those of `ids` that are here, or the ids that satisfy `where`, int64 `(n,)`. Raises: BowerbirdError when neither
    or both are given, or the condition is empty."""
    if (ids is None) == (where is None):
        raise BowerbirdError(f"{store.path}: give `ids` or `where`, one of them; `where=true` means every item")
    if where is not None:
        return store.ids(where)
    return np.intersect1d(as_ids(ids or ()), store.all_ids())


def remove(store: Store, ids: Sequence[int] | None, where: str | None, *, expected_version: int | None) -> int:
    """See `KnowledgeBase.remove`."""
    with store.writing():
        _check_unchanged(store, expected_version, "removed")
        gone = select_ids(store, ids, where)
        if len(gone):
            store.delete(gone.tolist())
            _publish(store)
    return len(gone)


def update(
    store: Store,
    ids: Sequence[int] | None,
    where: str | None,
    *,
    caption: str | None,
    metadata: Mapping[str, Any] | None,
) -> int:
    """See `KnowledgeBase.update`."""
    check_change(caption, metadata)
    with store.writing():
        chosen = select_ids(store, ids, where)
        if len(chosen):
            new = caption if caption is None else clean(caption)
            store.change(chosen.tolist(), new, clean_metadata(dict(metadata or {})))
            _publish(store)
    return len(chosen)


def restore(store: Store, version: int, *, expected_version: int | None) -> None:
    """See `KnowledgeBase.restore`."""
    with store.writing():
        _check_unchanged(store, expected_version, "restored")
        if version != int(store.manifest["version"]):
            store.restore(version)
            _publish(store)


def set_credit(store: Store, columns: Sequence[str]) -> None:
    """See `KnowledgeBase.set_credit`."""
    with store.writing():
        store.keep({"credit": list(known_columns(columns, store.info()["metadata"], str(store.path)))})


def _check_unchanged(store: Store, expected_version: int | None, what: str) -> None:
    now = int(store.manifest["version"])
    if expected_version not in (None, now):
        raise BowerbirdError(
            f"{store.path}: has changed since version {expected_version} (now {now}), so nothing was {what}; look at"
            " it again"
        )


def _publish(store: Store) -> None:
    """Make what was written the new version."""
    store.commit()
    store.renew()
