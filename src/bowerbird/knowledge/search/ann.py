"""The approximate index: trained on a sample, filled in shards, then measured, so that what it misses is known and not
hoped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import files, seeds
from bowerbird.core.progress import OnMessage
from bowerbird.core.types import ABSENT
from bowerbird.knowledge.search import dense
from bowerbird.knowledge.search.planner import INDEXES, Plan

if TYPE_CHECKING:
    import faiss

SAVES = 8
"""How often, at most, an index is saved while it is filled."""
QUERIES = 200
"""Queries that recall is measured with: items of the database, none of which the lists were trained on, each without
itself."""
K = 20
WANTED = 0.98
"""Recall at 20 that probes and depth are raised to."""
PROBES = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
DEPTHS = (40, 60, 80, 100, 160, 240, 400, 800)


def build(vectors: dense.Vectors, plan: Plan, folder: Path, on_message: OnMessage) -> faiss.Index:
    """The filled index of `plan` over `vectors`, by row number; what is done is kept in `folder` from time to time,
    and gone on with."""
    import faiss

    kept = folder / "shard.faiss"
    if kept.is_file():
        index = dense.load(kept)
    else:
        on_message(f"training {plan.lists} lists on {plan.sample:,} vectors" if plan.lists else "turning the vectors")
        spec = (INDEXES[plan.kind].factory or "Flat").format(lists=plan.lists)
        index = faiss.index_factory(plan.dim, spec, faiss.METRIC_INNER_PRODUCT)
        index.train(_gather(vectors, _sample(plan)))
    saved = index.ntotal
    for start in range(index.ntotal, plan.items, plan.shard):
        stop = min(start + plan.shard, plan.items)
        index.add(vectors.scaled(slice(start, stop)))
        vectors.release()
        if stop < plan.items and stop - saved >= max(plan.shard, plan.items // SAVES):
            on_message(f"indexed {stop:,} of {plan.items:,}")
            # FAISS can merge shards too, but of this kind of index 1.15 corrupts memory when it does
            with files.atomic_path(kept) as temporary:
                dense.save(index, temporary)
            saved = stop
    return index


def _gather(vectors: dense.Vectors, rows: np.ndarray) -> np.ndarray:
    """The vectors of many rows from all over the file; the system maps far more around each than was asked for, which
    is given back in between."""
    made = np.empty((len(rows), vectors.raw.shape[1]), np.float32)
    for start in range(0, len(rows), 4096):
        made[start : start + 4096] = vectors.scaled(rows[start : start + 4096])
        vectors.release()
    return made


def _sample(plan: Plan) -> np.ndarray:
    """Rows that the lists are trained on, in order; the rows that recall is measured with are not among them."""
    order = seeds.numpy_generator(0, "index").permutation(plan.items)
    size = plan.sample or min(plan.items, 10_000)
    return np.sort(order[min(QUERIES, plan.items - size) :][:size])


def tune(index: faiss.Index, vectors: dense.Vectors, plan: Plan, on_message: OnMessage) -> dict[str, Any]:
    """The fewest probes and the least depth whose recall at 20 reaches `WANTED`, or the most there are; with the
    recall measured."""
    rows = np.sort(seeds.numpy_generator(0, "index").permutation(plan.items)[:QUERIES])
    queries = vectors.scaled(rows)
    truth = _others(dense.exact(vectors, queries, K + 1)[0], rows)
    best: dict[str, Any] = {"probes": 0, "depth": DEPTHS[0], "recall@20": 0.0}
    for probes in [p for p in PROBES if p <= plan.lists] or [0]:
        found = dense.candidates_of(index, queries, min(plan.items, DEPTHS[-1]), probes)
        for depth in DEPTHS:
            kept = [
                dense.narrow(vectors, found[q, :depth][found[q, :depth] != ABSENT], queries[q], K)
                for q in range(len(rows))
            ]
            hit = np.mean([len(np.intersect1d(truth[q], kept[q])) / len(truth[q]) for q in range(len(rows))])
            if hit > best["recall@20"] + 1e-9:
                best = {"probes": probes, "depth": depth, "recall@20": round(float(hit), 4)}
            if best["recall@20"] >= WANTED:
                on_message(f"recall@20 {best['recall@20']:.3f} with {probes} probes, {depth} items ranked exactly")
                return best
    on_message(f"recall@20 {best['recall@20']:.3f}, {WANTED} was wanted")
    return best


def _others(found: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Each row without its own number, one column fewer."""
    return np.stack([row[row != number][: found.shape[1] - 1] for row, number in zip(found, own, strict=True)])
