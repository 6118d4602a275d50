"""The neighbor graph against brute force, its leak guard, and p_D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT
from bowerbird.knowledge.neighbors.export import write_neighbors
from bowerbird.knowledge.neighbors.graph import knn_graph, neighbor_counts, proposal


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_guard_holds_and_the_rest_is_brute_force(seed: int, n: int, k: int, guarded: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ids, style, entity = np.arange(n) + 100, [str(i % 3) for i in range(n)], [str(i % 4) for i in range(n)]
    limit = 0.5 if guarded else None
    positions, scores = knn_graph(
        x,
        x,
        k,
        query_ids=ids,
        database_ids=ids,
        max_similarity=limit,
        within=(style, style),
        exclude=(entity, entity),
        block=7,
    )
    for q in range(n):
        allowed = [
            d
            for d in range(n)
            if d != q
            and style[d] == style[q]
            and entity[d] != entity[q]
            and (limit is None or float(x[q] @ x[d]) <= limit)
        ]
        best = sorted((float(x[q] @ x[d]) for d in allowed), reverse=True)[:k]
        found = positions[q][positions[q] != ABSENT]
        assert set(found) <= set(allowed)
        assert scores[q][: len(best)] == pytest.approx(best, abs=1e-5)
        assert (positions[q][len(best) :] == ABSENT).all()


def test_proposal_is_the_count_distribution_and_top_m_cuts_it() -> None:
    positions = np.array([[1, 2, 3], [0, 2, ABSENT], [1, 0, 3], [1, ABSENT, ABSENT]])
    counts = neighbor_counts(positions, 4, k=2)
    assert counts.tolist() == [2, 3, 2, 0]
    assert proposal(counts) == pytest.approx([2 / 7, 3 / 7, 2 / 7, 0])
    assert proposal(counts, 0.25).tolist() == [0, 1, 0, 0]
    with pytest.raises(BowerbirdError, match="counts"):
        proposal(np.zeros(4, np.int64))
    with pytest.raises(BowerbirdError, match="top_m"):
        proposal(counts, 0.0)


def test_bulk_neighbors_of_a_source_leave_the_item_out(kb_path: Path, drawn_folder: Path, tmp_path: Path) -> None:
    kb = KnowledgeBase.open(kb_path)
    assert write_neighbors(kb, "drawn", tmp_path / "n.parquet", 5, exclude_key="thing") == 216
    table = pq.read_table(tmp_path / "n.parquet").to_pylist()
    things = dict(zip(kb.ids().tolist(), [m["thing"] for m in kb.get(kb.ids().tolist()).metadata[0]], strict=True))
    assert all(len(row["neighbors"]) == 5 and row["id"] not in row["neighbors"] for row in table)
    assert all(things[row["id"]] not in {things[n] for n in row["neighbors"]} for row in table)
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in table)
    assert write_neighbors(kb, "drawn", tmp_path / "w.parquet", 3, mode="bm25", max_similarity=0.999) == 216
    words = pq.read_table(tmp_path / "w.parquet").to_pylist()
    assert all(row["id"] not in row["neighbors"] for row in words)
    same = [things[n] == things[row["id"]] for row in words for n in row["neighbors"]]
    assert sum(same) > 0.9 * len(same)  # words find the same thing
