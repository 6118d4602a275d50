"""What a knowledge base is as a whole: how like its items a query is, and how often they are neighbors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT
from bowerbird.knowledge.search import dense, query

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.searching import Searched
    from bowerbird.knowledge.storage.protocol import Store


def similarities(
    base: Searched, text: str | None, query_mix: Sequence[tuple[str | Image.Image | np.ndarray, float]] | None
) -> np.ndarray:
    """See `KnowledgeBase.similarities`."""
    if (text is None) == (query_mix is None):
        raise BowerbirdError("similarities: give text or query_mix, one of them")
    vectors = query.mix_queries(base.encoder, query_mix if query_mix is not None else [(str(text), 1.0)])
    return query.sample_similarities(base.store.snapshot, vectors)[0]


def proposal(store: Store, k: int) -> dict[int, int]:
    """See `KnowledgeBase.proposal`."""
    snapshot, normalize = store.snapshot, bool(store.manifest["encoder"]["normalize"])
    rows = snapshot.rows_of(store.ids())
    counts: Counter[int] = Counter(dict.fromkeys(rows.tolist(), 0))
    for start in range(0, len(rows), 512):
        own = rows[start : start + 512]
        found = snapshot.dense(dense.prepare(snapshot.embeddings(own), normalize), min(k + 1, len(store)))
        counts.update(query.without(found, own, k)[0].ravel().tolist())
    counts.pop(ABSENT, None)
    return dict(zip(snapshot.ids_of(rows).tolist(), (counts[row] for row in rows.tolist()), strict=True))
