"""How probable real pictures are to a model that says so exactly: given their neighbors, another picture's, and none.

What neighbors are worth in bits, without a picture generated or a judge asked. Source: the autoregressive half of
arXiv 2204.11824, whose likelihood is a product over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bowerbird.core import tensors
from bowerbird.core.types import Neighbors
from bowerbird.evaluation.metrics.intervals import over_groups

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.progress import Progress
    from bowerbird.data.pictures import Pictures
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System

BATCH = 16
"""Pictures in one pass."""
SAME, SPARE = 0.999, 8
"""Cosine from which on an item is the picture itself, whatever its id, as where its caption was changed; and how many
more than k are looked up for that."""


def likelihood(
    pipe: System,
    kb: KnowledgeBase,
    pictures: Pictures,
    rows: Sequence[int] | np.ndarray,
    k: int,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Bits a token of the `rows` of `pictures`, means over pictures with intervals.

    Its own neighbors are the k items nearest to the picture, itself and its copies left out; of a system that reads
    captions too, the documents that it retrieves for the picture (none more like it than the system allows), with its
    caption as the text. Those of another are half the rows away. Pictures without a neighbor count as they are.
    """
    chosen = tensors.to_pil(pictures.pixels[np.asarray(rows)])
    if pipe.capabilities.captions:
        hits = Neighbors.stack([pipe.retrieve_like(picture, kb, k) for picture in chosen])
        hits = replace(hits, queries=tuple(pictures.captions[row] for row in rows))
    else:
        found_by_picture = pipe.check_knowledge_base(kb).search(images=chosen, k=min(k + SPARE, len(kb)))
        hits = without_itself(found_by_picture, [int(pictures.ids[row]) for row in rows], k)
    cases = [("own neighbors", hits, False), ("no neighbors", hits, True)]
    if len(hits) > 1:  # one picture has no other
        another = hits.rows(np.roll(np.arange(len(hits)), len(hits) // 2))
        cases.insert(1, ("another's neighbors", replace(another, queries=hits.queries), False))
    edge = max(pipe.capabilities.sizes)
    found: dict[str, np.ndarray] = {}
    for number, (name, given, null) in enumerate(cases):
        parts = []
        for start in range(0, len(chosen), BATCH):
            part = np.arange(start, min(start + BATCH, len(chosen)))
            x = _prepared([chosen[i] for i in part], edge)
            parts.append(pipe.bits_per_token(x, given.rows(part), null=null).numpy())
            if progress is not None:
                progress(number * len(chosen) + int(part[-1]) + 1, len(cases) * len(chosen))
        found[name] = np.concatenate(parts)
    report: dict[str, Any] = {f"bits a token, {name}": asdict(over_groups(bits)) for name, bits in found.items()}
    saved = found["no neighbors"] - found["own neighbors"]
    return report | {"bits a token that its own neighbors save": asdict(over_groups(saved)), "pictures": len(chosen)}


def without_itself(hits: Neighbors, ids: Sequence[int], k: int) -> Neighbors:
    """The k best of each row of `hits` but for the item of its id in `ids` and those that score `SAME` or more."""
    rows = []
    for i, own in enumerate(ids):
        kept = [column for column in range(hits.k) if hits.ids[i, column] != own and hits.scores[i, column] < SAME]
        rows.append(hits.rows([i]).select(kept[:k]).padded(k, hits.embeddings.shape[-1]))
    return Neighbors.stack(rows)


def _prepared(pictures: Sequence[Image.Image], edge: int) -> torch.Tensor:
    from bowerbird.core.images import square

    return tensors.to_float(tensors.stack([square(picture, edge) for picture in pictures]))
