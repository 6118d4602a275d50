"""Dense search: an exact FAISS index over the items' embeddings. A cache: made from rows, checked by hash, remade when stale."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.types import ABSENT

if TYPE_CHECKING:
    import faiss


def prepare(vectors: np.ndarray, normalize: bool) -> np.ndarray:
    """Float32 and contiguous, rows scaled to length 1 where the database says so (zero rows stay zero)."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors


def build(ids: np.ndarray, vectors: np.ndarray) -> faiss.Index:
    """An exact inner-product index of `vectors` (n, d) under `ids` (n,)."""
    import faiss

    index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(vectors, np.ascontiguousarray(ids, dtype=np.int64))
    return index


def search(index: faiss.Index, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(ids, scores)`, each `(Q, k)`, among the ids in `allowed` (all when None); id -1 and score -inf pad."""
    import faiss

    parameters: Any = None
    if allowed is not None:
        parameters = faiss.SearchParameters(  # type: ignore[call-arg]
            sel=faiss.IDSelectorBatch(np.ascontiguousarray(allowed, dtype=np.int64))
        )
    scores, ids = index.search(queries, k, params=parameters)
    return ids.astype(np.int64), np.where(ids == ABSENT, -np.inf, scores).astype(np.float32)


def vectors_of(index: faiss.Index, ids: np.ndarray) -> np.ndarray:
    """The stored vectors `(n, d)` of `ids` (n,)."""
    return np.stack([index.reconstruct(int(i)) for i in ids]) if len(ids) else np.zeros((0, index.d), np.float32)


def save(index: faiss.Index, path: Path) -> str:
    """Write the index and return its sha256 (FAISS itself loads flipped bits without a word)."""
    import faiss

    faiss.write_index(index, str(path))
    return file_hash(path)


def load(path: Path, sha256: str) -> faiss.Index | None:
    """The index at `path`, or None when it is not there or not the file that was written."""
    import faiss

    if not path.is_file() or file_hash(path) != sha256:
        return None
    return faiss.read_index(str(path))


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
