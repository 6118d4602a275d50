"""What a knowledge base says of items by their ids: rows, neighbors, names, credits, pictures, tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import images
from bowerbird.core.credit import credit_of, source_name
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.knowledge.rerank.tokens import count_of, unpack
from bowerbird.knowledge.storage.protocol import HoldsTokens

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.storage.protocol import Store

LoadPictures = Callable[[np.ndarray], "list[list[Image.Image | None]]"]


def as_ids(ids: Sequence[int]) -> np.ndarray:
    """Ids as int64 `(n,)`. Raises: BowerbirdError for a number that is too large for one."""
    try:
        return np.asarray(ids, np.int64)
    except OverflowError as error:
        raise BowerbirdError("an id is a number of up to 63 bits; one of those given is larger") from error


def rows_of(store: Store, ids: Sequence[int]) -> np.ndarray:
    """The rows of these items. Raises: BowerbirdError for an id that is no item's."""
    wanted = as_ids(ids)
    rows = store.snapshot.rows_of(wanted)
    if (rows == ABSENT).any():
        raise BowerbirdError(
            f"{store.path}: no item with id {wanted[rows == ABSENT][0]}; list them with bowerbird kb list"
            f" {in_shell(store.path)}"
        )
    return rows


def neighbors(store: Store, rows: np.ndarray, scores: np.ndarray, load_images: LoadPictures) -> Neighbors:
    """The items at `rows` `(Q, K)` with all that is known of them but their pictures."""
    snapshot = store.snapshot
    captions, metadata = snapshot.describe(rows)
    return Neighbors(
        ids=snapshot.ids_of(rows),
        scores=scores,
        embeddings=snapshot.embeddings(rows),
        captions=captions,
        metadata=metadata,
        load_images=load_images,
        encoder=str(store.manifest["encoder"]["fingerprint"]),
    )


def credits_of(store: Store, ids: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
    """See `KnowledgeBase.credits`; `columns` are those that say who made an item."""
    rows = store.snapshot.rows_of(as_ids(ids))
    there = np.flatnonzero(rows != ABSENT)
    names, metadata = store.snapshot.names(rows[there]), store.snapshot.describe(rows[there][None])[1][0]
    found: list[dict[str, Any]] = [{} for _ in rows]
    for at, name, values in zip(there.tolist(), names, metadata, strict=True):
        found[at] = {"name": source_name(name), "credit": credit_of(values, columns)}
    return found


def pictures(store: Store, ids: np.ndarray, *, at_least: int | None = None) -> list[list[Image.Image | None]]:
    """See `KnowledgeBase.pictures`."""
    found, cap = store.pictures([int(i) for i in ids.reshape(-1) if i >= 0]), images.MOST_PIXELS
    decoded = {i: images.decode(data, str(i), at_least=at_least, max_pixels=cap) for i, data in found.items()}
    return [[decoded.get(int(i)) for i in row] for row in ids]


def tokens(store: Store, ids: Sequence[int]) -> dict[int, np.ndarray]:
    """See `KnowledgeBase.tokens`."""
    if not count_of(store.manifest) or not isinstance(store, HoldsTokens):
        return {}
    dim, found = int(store.manifest["tokens"]["dim"]), store.tokens(ids)
    made = {number: unpack(data, dim) for number, data in found.items()}
    damaged = next((number for number, matrix in made.items() if matrix is None), None)
    if damaged is not None:
        raise BowerbirdError(
            f"{store.path}: the tokens of id {damaged} are not as they were written; bowerbird kb verify"
            f" {in_shell(store.path)} names the damaged file"
        )
    return {number: matrix for number, matrix in made.items() if matrix is not None}
