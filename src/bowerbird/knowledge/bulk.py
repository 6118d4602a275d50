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
from bowerbird.knowledge.items import content_id
from bowerbird.types import ABSENT

SPARE = 100
"""How many results beyond k a search by words fetches, as the guard may take some away."""

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase


def write_neighbors(
    kb: KnowledgeBase,
    source: str | Path,
    out: str | Path,
    k: int,
    *,
    mode: str = "dense",
    max_similarity: float | None = None,
    exclude_key: str | None = None,
) -> int:
    """Write `id`, `neighbors` (list of ids, best first) and `scores` for every readable item of `source`; returns how many.

    `mode`: `dense` by the pictures' embeddings, `bm25` or `hybrid` by their captions. The guard: an item's own id is never among its
    neighbours, nor one whose embedding is more similar than `max_similarity` (the same picture in other form), nor one with the same
    value of the metadata column `exclude_key`. Raises: BowerbirdError when nothing of `source` can be read, or captions are missing.
    """
    ids, vectors, captions, keys = [], [], [], []
    for item in sources.read(source):
        try:
            picture = images.decode(item.data, item.name)
        except PictureError:
            continue
        ids.append(content_id(item))
        vectors.append(kb.encoder.embed_images([picture])[0])
        captions.append(item.caption)
        keys.append(str(item.metadata.get(exclude_key or "", "")))
    if not ids:
        raise BowerbirdError(f"{source}: no readable picture, so no neighbours were written")
    empty = sum(not caption.strip() for caption in captions)
    if mode != "dense" and empty:
        raise BowerbirdError(f"{source}: {empty} pictures have no caption to search by; use --mode dense")
    items = kb.get(kb.ids().tolist())
    normalize = bool(kb.manifest["encoder"]["normalize"])
    queries, database = dense.prepare(np.stack(vectors), normalize), dense.prepare(items.embeddings[0], normalize)
    theirs = [str(m.get(exclude_key, "")) for m in items.metadata[0]] if exclude_key else []
    asked = np.asarray(ids, np.int64)
    if mode == "dense":
        positions, scores = knn_graph(
            queries, database, k, query_ids=asked, database_ids=items.ids[0], max_similarity=max_similarity, exclude=(keys, theirs) if exclude_key else None
        )  # fmt: skip
        found = [[int(items.ids[0, p]) for p in row if p >= 0] for row in positions]
        kept = [row[: len(f)].tolist() for row, f in zip(scores, found, strict=True)]
    else:
        at = {int(number): row for row, number in enumerate(items.ids[0])}
        hits = kb.search(text=captions, k=min(len(kb), k + SPARE), mode=mode)
        found, kept = [], []
        for q in range(len(ids)):
            rows = [(int(n), float(s), at[int(n)]) for n, s in zip(hits.ids[q], hits.scores[q], strict=True) if n != ABSENT and n != ids[q]]
            if max_similarity is not None:
                rows = [row for row in rows if float(queries[q] @ database[row[2]]) <= max_similarity]
            if exclude_key:
                rows = [row for row in rows if theirs[row[2]] != keys[q]]
            found.append([row[0] for row in rows[:k]])
            kept.append([row[1] for row in rows[:k]])
    table = pa.table({"id": ids, "neighbors": found, "scores": kept})
    with atomic_path(out) as temporary:
        pq.write_table(table, temporary)
    return len(ids)
