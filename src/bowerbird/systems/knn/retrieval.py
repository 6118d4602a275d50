"""From a text or pictures to KNN-Diffusion's condition: the query's own embedding first, then those of its neighbors,
as tokens.

One search before sampling. Two research modes are off by default: searching again with what the picture is becoming
(`search_again`), and leaving out neighbors less like the query than a database's own pairs are (`relevance.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.diffusion import conditioning
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.systems import common, other_encoder, relevance
from bowerbird.systems.base import System
from bowerbird.systems.queries import Request, class_prompt
from bowerbird.systems.queries import retrieve as retrieve_neighbors

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase


def retrieve(
    config: Any,
    request: Request,
    kb: KnowledgeBase | None,
    count: int,
    *,
    seed: int = 0,
    proposal: dict[int, int] | None = None,
    min_relevance: float | None = None,
) -> Neighbors:
    """The embedding of each prompt (or of the pictures together), and after it its `request.k` neighbors, `count`
    rows each.

    `config`: a pipeline's, with `shared_dim` and its encoder. `min_relevance`: a quantile, see `relevance.keep`.
    Raises: MismatchError as `System.check_knowledge_base`.
    """
    if kb is None:
        raise BowerbirdError("the model generates from a knowledge base; pass knowledge_base=, or neighbors=")
    if not request.k:  # the query alone
        request = replace(request, k=1, text_mode="text", image_mode="image")
    if request.class_name is not None and request.class_key is None:
        request = replace(request, prompts=(class_prompt(request.class_name),), class_name=None)
    text_mode, image_mode = request.text_mode or "text+neighbors", request.image_mode or "image+neighbors"
    more = 0
    if request.prompts is not None and text_mode == "text+neighbors":
        more = 1
    elif request.images is not None and image_mode == "image+neighbors":
        more = len(request.images)
    request = replace(request, k=(request.k or 0) + more, text_mode=text_mode, image_mode=image_mode)
    kb = other_encoder.read_with(kb, config)
    hits = retrieve_neighbors(kb, request, count, seed=seed, counts=proposal or {})
    return hits if min_relevance is None else relevance.keep(kb, hits, min_relevance, config.shared_dim)


def is_due(every: int, step: int, steps: int) -> bool:
    """Whether to search again after step `step`, from 0, of `steps`: never after the last. Raises: BowerbirdError for
    a negative `every`."""
    if every < 0:
        raise BowerbirdError(f"retrieval_interval is a number of steps, 0 for never; got {every}")
    return every > 0 and (step + 1) % every == 0 and step + 1 < steps


def search_again(
    config: Any,
    kb: KnowledgeBase | None,
    hits: Neighbors,
    pictures: Sequence[Image.Image],
    *,
    where: str | None = None,
    min_relevance: float | None = None,
) -> Neighbors:
    """`hits` with their neighbors replaced by those nearest to `pictures`, one a row; queries, which stand first, stay.
    Raises: BowerbirdError without a knowledge base."""
    if kb is None:
        raise BowerbirdError("retrieval_interval searches the knowledge base while it generates; pass knowledge_base=")
    queries = count_queries(hits)
    if hits.k == queries:
        return hits
    kb = other_encoder.read_with(kb, config)
    found = kb.search(images=pictures, k=hits.k - queries, where=where)
    found = replace(found, queries=hits.queries, weights=None if hits.weights is None else hits.weights[:, queries:])
    if not queries:
        return found
    joined = Neighbors.concat(hits.select(range(queries)), found)
    return joined if min_relevance is None else relevance.keep(kb, joined, min_relevance, config.shared_dim)


def count_queries(hits: Neighbors) -> int:
    """How many columns are queries, not neighbors. Raises: BowerbirdError when they do not stand first in
    every row."""
    queries = hits.ids < ABSENT
    count = int(queries.sum(1).max(initial=0))
    if not queries[:, :count].all():
        raise BowerbirdError("the query stands before its neighbors in every row; select columns in that order")
    return count


def condition(config: Any, width: int, hits: Neighbors, device: Any, dtype: torch.dtype) -> Conditioning:
    """Queries and neighbors -> tokens of `width` numbers. Raises: MismatchError when the embeddings have another
    width."""
    if hits.embeddings.shape[-1] != width - 1:
        raise MismatchError(
            f"the neighbors' embeddings have {hits.embeddings.shape[-1]} dimensions, the model reads {width - 1}; use"
            f" the encoder {config.encoder_name!r}"
        )
    weights = common.weights_of(hits, dtype)
    queries = torch.from_numpy(hits.ids < ABSENT)
    tokens = conditioning.query_tokens(
        torch.from_numpy(hits.embeddings), torch.from_numpy(weights), queries, config.shared_dim
    )
    null = tokens.neighbors_null
    assert isinstance(null, Tokens)
    return Conditioning(tokens.neighbors.to(device, dtype), null.to(device, dtype))


class KNNSystem(System):
    """What both of KNN-Diffusion's pipelines do alike: the query's embedding first, then its neighbors'."""

    def retrieve(
        self,
        request: Request,
        kb: KnowledgeBase | None,
        count: int = 1,
        *,
        seed: int = 0,
        proposal: dict[int, int] | None = None,
        min_relevance: float | None = None,
    ) -> Neighbors:
        """The embedding of each prompt, or of the pictures together, and after it its neighbors; k = 0: it alone.

        `min_relevance`: leave out neighbors below this quantile of the knowledge base's own similarities.
        Raises: MismatchError as `check_knowledge_base`.
        """
        request = self.resolve(request, kb)
        return retrieve(self.config, request, kb, count, seed=seed, proposal=proposal, min_relevance=min_relevance)

    def weigh(self, hits: Neighbors, weights: Sequence[float]) -> Neighbors:
        """`hits` with one weight a neighbor (the query counts once), or one a column, the query's first."""
        queries = count_queries(hits)
        return hits.weighted([1.0] * queries + list(weights) if len(weights) == hits.k - queries else weights)
