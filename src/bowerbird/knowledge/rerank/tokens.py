"""Token matrices: pooled to few, packed into the bytes that a row holds, and compared by MaxSim.

Source: ColBERT, arXiv 2004.12832 (MaxSim); "Reducing the Footprint of Multi-Vector Retrieval with Minimal Performance
Impact via Token Pooling", arXiv 2409.14683 (hierarchical pooling, as ColPali's authors use it).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bowerbird.core.errors import BowerbirdError

LEAST, MOST, USUAL = 4, 256, 64
"""Tokens that an item may be pooled to, and to how many it is."""
HEAD = 8
"""Bytes before the numbers: a checksum of the rest, and how many tokens there are."""


def check_tokens(count: int) -> int:
    """`count` itself. Raises: BowerbirdError when an item cannot have so many tokens."""
    if not LEAST <= count <= MOST:
        raise BowerbirdError(f"`tokens` is how many an item keeps, from {LEAST} to {MOST}; got {count}")
    return count


def count_of(manifest: Mapping[str, Any]) -> int:
    """To how many tokens a knowledge base of this manifest pools its items; 0 where it holds none."""
    said = manifest.get("tokens")
    count = said.get("count") if isinstance(said, dict) else None
    return count if isinstance(count, int) and LEAST <= count <= MOST else 0


def pool(tokens: np.ndarray, most: int) -> np.ndarray:
    """Unit vectors `(m, d)` -> at most `most` of them: those alike (Ward's clusters of their cosines) become their
    mean, of length 1."""
    if len(tokens) <= most:
        return tokens
    from scipy.cluster.hierarchy import fcluster, linkage

    distances = 1 - tokens @ tokens.T
    at = np.triu_indices(len(tokens), 1)
    cluster = fcluster(linkage(distances[at].clip(min=0), "ward"), most, "maxclust") - 1
    sums = np.zeros((int(cluster.max()) + 1, tokens.shape[1]), np.float32)
    np.add.at(sums, cluster, tokens)
    return unit(sums)


def unit(tokens: np.ndarray) -> np.ndarray:
    """Each row of length 1, float32."""
    scaled: np.ndarray = tokens / np.linalg.norm(tokens, axis=1, keepdims=True).clip(min=1e-12)
    return scaled.astype(np.float32)


def pack(tokens: np.ndarray) -> bytes:
    """Unit vectors `(m, d)` as 8-bit numbers, with the largest of each beside them: a checksum, m, m float32 steps, m d
    int8."""
    steps = np.maximum(np.abs(tokens).max(1), 1e-12).astype("<f4") / np.float32(127)
    small = np.rint(tokens / steps[:, None]).astype(np.int8)
    body = len(tokens).to_bytes(4, "little") + steps.tobytes() + small.tobytes()
    return zlib.crc32(body).to_bytes(4, "little") + body


def unpack(data: bytes, dim: int) -> np.ndarray | None:
    """What `pack` was given, float32 `(m, dim)`, within half a step; None for bytes that are not as they were
    packed."""
    count = int.from_bytes(data[4:HEAD], "little")
    if len(data) != HEAD + count * (4 + dim) or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
        return None
    steps = np.frombuffer(data, "<f4", count, HEAD)
    small = np.frombuffer(data, np.int8, count * dim, HEAD + 4 * count).reshape(count, dim)
    found: np.ndarray = small * steps[:, None]
    return found


def max_sim(query: np.ndarray, items: Sequence[np.ndarray]) -> np.ndarray:
    """How near a query's tokens `(q, d)` are to those of each of n items `(m, d)`, float32 `(n,)`: for each token of
    the query the largest cosine to one of the item's, in the mean; -1 to 1. One product of matrices for all items."""
    if not items:
        return np.zeros(0, np.float32)
    starts = np.cumsum([0, *(len(each) for each in items[:-1])])
    cosines = np.concatenate(items) @ query.T
    found: np.ndarray = np.maximum.reduceat(cosines, starts, axis=0).mean(1)
    return found
