"""The neighbours of a whole source as one parquet file: what a training elsewhere reads instead of searching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bowerbird import images
from bowerbird.checkpoint import atomic_path
from bowerbird.errors import BowerbirdError, PictureError
from bowerbird.knowledge import dense, sources
from bowerbird.knowledge.graph import knn_graph

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase


def write_neighbors(
    kb: KnowledgeBase, source: str | Path, out: str | Path, k: int, *, max_similarity: float | None = None, exclude_key: str | None = None
) -> int:
    """Write `id`, `neighbors` (list of ids, best first) and `scores` for every readable item of `source`; returns how many.

    The guard: an item's own id is never among its neighbours, nor one more similar than `max_similarity`, nor one with the same
    value of the metadata column `exclude_key`. Raises: BowerbirdError when nothing of `source` can be read.
    """
    ids, vectors, keys = [], [], []
    for item in sources.read(source):
        try:
            picture = images.decode(item.data, item.name)
        except PictureError:
            continue
        ids.append(sources.content_id(item))
        vectors.append(kb.encoder.embed_images([picture])[0])
        keys.append(str(item.metadata.get(exclude_key or "", "")))
    if not ids:
        raise BowerbirdError(f"{source}: no readable picture, so no neighbours were written")
    items = kb.get(kb.ids().tolist())
    normalize = bool(kb.manifest["encoder"]["normalize"])
    excluded = (keys, [str(m.get(exclude_key, "")) for m in items.metadata[0]]) if exclude_key else None
    positions, scores = knn_graph(
        dense.prepare(np.stack(vectors), normalize), dense.prepare(items.embeddings[0], normalize), k,
        query_ids=np.asarray(ids, np.int64), database_ids=items.ids[0], max_similarity=max_similarity, exclude=excluded,
    )  # fmt: skip
    found = [[int(items.ids[0, p]) for p in row if p >= 0] for row in positions]
    table = pa.table({"id": ids, "neighbors": found, "scores": [s[: len(f)].tolist() for s, f in zip(scores, found, strict=True)]})
    with atomic_path(out) as temporary:
        pq.write_table(table, temporary)
    return len(ids)
