"""The neighbors of a whole training set as one parquet file, and how often each item is one: what a training
elsewhere reads instead of searching.

Streamed: neither the source nor the knowledge base is ever in memory as a whole. Source of p_D: RDM, arXiv 2204.11824,
section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import atomic_path
from bowerbird.core.progress import Progress
from bowerbird.core.types import ABSENT
from bowerbird.data.item import SourceItem, content_id
from bowerbird.data.portions import BYTES
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import registry
from bowerbird.knowledge.ingest import prepare
from bowerbird.knowledge.ingest.prepare import Choice
from bowerbird.knowledge.neighbors.tables import MODES
from bowerbird.knowledge.search import dense, query
from bowerbird.knowledge.search.protocol import Searchable

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

SPARE = 32
"""How many results beyond k are asked for at first, as the guard may take some away."""
GRAPH = pa.schema([("id", pa.int64()), ("neighbors", pa.list_(pa.int64())), ("scores", pa.list_(pa.float32()))])


@dataclass
class Guard:
    """What may not be a neighbor: the item itself always; what is more alike than `max_similarity`; what shares its
    value of a metadata column.

    `moved`: content hashes by id, of items whose id is another number. `seen`: whether anybody had a value in that
    column.
    """

    max_similarity: float | None
    exclude_key: str | None
    moved: dict[int, int]
    seen: bool = False


def write_neighbors(
    kb: KnowledgeBase,
    source: str | Path,
    out: str | Path,
    k: int,
    *,
    mode: str = "dense",
    max_similarity: float | None = None,
    exclude_key: str | None = None,
    counts: str | Path | None = None,
    progress: Progress | None = None,
    report: SourceReport | None = None,
) -> int:
    """Write `id`, `neighbors` (list of ids, best first) and `scores` for every readable item of `source`; returns how
    many.

    `mode`: `dense` by the pictures' embeddings, `bm25` or `hybrid` by their captions. The guard: an item's own id is
    never among its neighbors, nor one whose embedding is more similar than `max_similarity` (the same picture in
    other form), nor one with the same value of the metadata column `exclude_key`; k neighbors are found wherever k
    are allowed. `counts`: a second parquet file, `id` and `count` of every item of the knowledge base, the numerator
    of p_D. `report` counts what reading the source passed over.
    Raises: BowerbirdError when nothing of `source` can be read, or captions are missing.
    """
    if mode not in MODES:
        raise BowerbirdError(f"search mode {mode!r} is not known; choose one of {', '.join(MODES)}")
    guard, total, done, written = Guard(max_similarity, exclude_key, _moved(kb)), registry.count(source), 0, 0
    times: dict[int, int] = {}
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, GRAPH) as writer:
        for items, read in prepare.chunks([source], Choice(), size=BYTES, report=report):
            prepared = prepare.prepare(items, kb.encoder)
            if prepared.items:
                found, scores = _neighbors(kb, prepared.items, prepared.embeddings, k, mode, guard)
                ids = [[int(i) for i in row if i != ABSENT] for row in found]
                kept = [row[: len(i)].tolist() for row, i in zip(scores, ids, strict=True)]
                writer.write_table(
                    pa.table(
                        {"id": [content_id(i) for i in prepared.items], "neighbors": ids, "scores": kept}, schema=GRAPH
                    )
                )
                for number in (number for row in ids for number in row):
                    times[number] = times.get(number, 0) + 1
            written, done = written + len(prepared.items), done + read
            if progress is not None:
                progress(done, total)
        if not written:
            raise BowerbirdError(f"{source}: no readable picture, so no neighbors were written")
        if exclude_key is not None and not guard.seen:
            raise BowerbirdError(
                f"`exclude_key` {exclude_key!r}: no item of {kb.path} or {source} has such a column, so it would"
                " exclude nothing"
            )
    if counts is not None:
        every = np.sort(kb.ids())
        with atomic_path(counts) as temporary:
            pq.write_table(
                pa.table({"id": every, "count": pa.array([times.get(int(number), 0) for number in every], pa.int64())}),
                temporary,
            )
    return written


def _neighbors(
    kb: KnowledgeBase, items: list[SourceItem], embeddings: np.ndarray, k: int, mode: str, guard: Guard
) -> tuple[np.ndarray, np.ndarray]:
    """The ids and scores `(n, k)` of some items' neighbors; -1 pads where fewer are allowed."""
    if mode != "dense" and any(not item.caption.strip() for item in items):
        name = next(item.name for item in items if not item.caption.strip())
        raise BowerbirdError(f"{name}: has no caption to search by; use `mode=dense`")
    snapshot: Searchable = kb.store.snapshot
    own = np.asarray([content_id(item) for item in items], np.int64)
    ids, scores = np.full((len(items), k), ABSENT, np.int64), np.full((len(items), k), -np.inf, np.float32)
    left, wanted = np.arange(len(items)), min(len(kb), k + SPARE)
    while len(left):
        vectors = dense.prepare(embeddings[left], kb.normalize)
        if mode == "dense":
            rows, found = snapshot.dense(vectors, wanted)
        else:
            texts = [items[i].caption for i in left]
            encoder = None if mode == "bm25" else kb.encoder
            options = query.TextOptions(mode, kb.normalize, typos=False)  # captions, not what somebody typed
            rows, found = query.by_text(snapshot, encoder, texts, wanted, allowed=None, options=options).found
        allowed = (rows != ABSENT) & (_contents(snapshot.ids_of(rows), guard.moved) != own[left, None])
        if guard.max_similarity is not None:
            likeness = np.einsum(
                "qd,qkd->qk",
                vectors,
                dense.prepare(snapshot.embeddings(rows).reshape(-1, kb.dim), kb.normalize).reshape(*rows.shape, -1),
            )
            allowed &= likeness <= guard.max_similarity
        if guard.exclude_key is not None:
            theirs = snapshot.values(guard.exclude_key, rows)
            mine = [items[i].metadata.get(guard.exclude_key) for i in left]
            guard.seen |= any(value is not None for line in [*theirs, mine] for value in line)
            # two items without a value do not share one
            allowed &= np.asarray(
                [
                    [one is None or other is None or str(one) != str(other) for one in line]
                    for line, other in zip(theirs, mine, strict=True)
                ]
            )
        for at, i in enumerate(left):
            good = np.flatnonzero(allowed[at])[:k]
            ids[i, : len(good)], scores[i, : len(good)] = snapshot.ids_of(rows[at, good]), found[at, good]
        # more is asked for where the guard took too many, and there is more: a search by words ends where no word is
        # shared
        short = (allowed.sum(1) < k) & (rows != ABSENT).all(1) & (wanted < len(kb))
        left, wanted = left[short], min(len(kb), 4 * wanted)
    return ids, scores


def _moved(kb: KnowledgeBase) -> dict[int, int]:
    """The content hashes of items that kept their id when they were changed, by id."""
    ids, contents = kb.store.all_ids(), kb.store.contents()
    return dict(zip(ids[ids != contents].tolist(), contents[ids != contents].tolist(), strict=True))


def _contents(ids: np.ndarray, moved: dict[int, int]) -> np.ndarray:
    """The content hashes of items by their `ids`, of the same shape."""
    made = ids.copy()
    for at in np.argwhere(np.isin(ids, list(moved))) if moved else ():
        made[tuple(at)] = moved[int(ids[tuple(at)])]
    return made
