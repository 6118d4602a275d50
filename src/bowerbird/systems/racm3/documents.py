"""What RA-CM3 learns from: the codes of every picture under several views, and which documents a query retrieves.

A document's vector is the mean of the text half and the image half of an embedding, both of length 1; a query is one
half alone, so that what is asked for cannot be read off the documents it retrieves.

Source: RA-CM3, arXiv 2211.12561, section 3.2.
Differs from the paper: the limit on similarity, to the target and among what is retrieved, is on pictures. Ours are
drawings of things that have the same caption in every style, which mixed vectors would all take for one document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data import variation
from bowerbird.data.pictures import Pictures
from bowerbird.data.variation import Variation
from bowerbird.systems.latent_cache import embed_tensors, fit_size, views_of

BLOCK = 1024
PART = 256
"""Pictures that are encoded at once."""


@dataclass(frozen=True)
class DocumentCache:
    """`codes` int16 `(V, n, N)` of n pictures under V views (view 0 unchanged, the last under variations), and in
    `tables` `(T, n, k_stored)` the rows of the documents each retrieves, best first, -1 behind: by its picture, by its
    picture within its style, and by its caption, each time with other words left out. `vectors` float16 `(n, d)`: those
    of the documents, of length 1."""

    codes: Tensor
    tables: Tensor
    vectors: Tensor

    def to_tensors(self) -> dict[str, Tensor]:
        """The form it is stored in."""
        return {"codes": self.codes, "tables": self.tables, "vectors": self.vectors}

    @staticmethod
    def from_tensors(stored: Mapping[str, Tensor]) -> DocumentCache:
        """What `to_tensors` gave."""
        return DocumentCache(stored["codes"], stored["tables"], stored["vectors"])


@torch.no_grad()
def build_documents(
    config: Any,
    pictures: Pictures,
    encode: Callable[[Tensor], Tensor],
    encoder: Encoder,
    size: int,
    seed: int,
    device: str,
) -> DocumentCache:
    """The codes of `pictures` at edge `size`, by `encode` (float `(n, 3, S, S)` -> int16 `(n, N)` on the CPU), and the
    documents they retrieve among one another."""
    parts = [tensors.to_uint8(fit_size(part, size)) for part in torch.split(pictures.pixels, PART)]
    codes = [
        torch.cat([encode(view(tensors.to_float(part))) for part in parts])
        for view in views_of(config, size, seed)  # the first is unchanged
    ]
    for number in range(config.varied_views):
        change = one_variation(seeds.torch_generator(seed, "varied documents", number))
        codes.append(torch.cat([encode(part) for part in varied(pictures, change, size, device)]))
    whole = torch.cat([embed_tensors(encoder, tensors.to_float(part)) for part in parts]).float()
    image = F.normalize(whole[:, : encoder.shared_dim], dim=1)
    text = text_half(encoder, pictures.captions)
    mixed = F.normalize(image + text, dim=1)
    rng = seeds.numpy_generator(seed, "dropped words")
    queries: list[tuple[Tensor, list[str] | None]] = [
        (image, None),
        (image, pictures.column(config.style_key) if config.style_key else None),
    ]
    for _ in range(config.text_queries):
        dropped = [drop_words(caption, config.query_dropout, rng) for caption in pictures.captions]
        queries.append((text_half(encoder, dropped), None))
    tables = [
        retrieve(
            query,
            mixed,
            config.k_stored,
            guard=F.normalize(whole, dim=1),
            ids=np.asarray(pictures.ids, np.int64),
            max_similarity=config.max_similarity,
            within=within,
            device=device,
        )
        for query, within in queries
    ]
    return DocumentCache(torch.stack(codes), torch.stack(tables), mixed.half())


def one_variation(generator: torch.Generator) -> Variation:
    """A change that the pictures of a sample can share: a ground most of the time, other colors half of the time, and
    nothing moved."""
    return variation.draw(1, generator, colored=0.5, moved=0.0, grounded=0.85, drawn=0.1, several=0.0)


def varied(pictures: Pictures, change: Variation, size: int, device: str) -> Iterator[Tensor]:
    """All pictures in parts under the same change, float `(n, 3, size, size)` in [-1, 1]."""
    alpha = pictures.opacity()
    for rows in torch.split(torch.arange(len(pictures)), PART):
        same = change.select(torch.zeros_like(rows))
        yield variation.apply(same, pictures.pixels[rows].to(device), alpha[rows].to(device), size)


def text_half(encoder: Encoder, texts: Any) -> Tensor:
    """The dimensions of the embeddings of n texts that pictures have too, of length 1, float `(n, shared_dim)`."""
    embedded = torch.from_numpy(encoder.embed_text(list(texts))[:, : encoder.shared_dim])
    return F.normalize(embedded.float(), dim=1)


def drop_words(text: str, share: float, rng: np.random.Generator) -> str:
    """`text` without a `share` of its words, but never without all. Source: RA-CM3, section 3.2 (query dropout)."""
    words = text.split()
    kept = [word for word in words if rng.random() >= share]
    return " ".join(kept or words)


def retrieve(
    queries: Tensor,
    documents: Tensor,
    k: int,
    *,
    guard: Tensor,
    ids: np.ndarray,
    max_similarity: float | None,
    within: list[str] | None = None,
    device: str = "cpu",
) -> Tensor:
    """The rows of `documents` `(n, d)` that each of their n `queries` retrieves, int32 `(n, k)`, -1 behind.

    The ranked list is walked: skipped is the query's own document (by `ids`), one whose picture is more similar than
    `max_similarity` to the query's or to one already taken (by the vectors `guard` `(n, d)` of length 1), and one of
    another value of `within`.
    """
    n, depth = len(documents), min(3 * k, len(documents))
    groups = None if within is None else np.unique(within, return_inverse=True)[1]
    own, group = (None if each is None else torch.from_numpy(each).to(device) for each in (ids, groups))
    queries, documents, guard = (each.to(device) for each in (queries, documents, guard))
    assert own is not None
    found = torch.full((n, k), ABSENT, dtype=torch.int32)
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        scores = queries[rows] @ documents.T
        forbidden = own[rows, None] == own[None]
        if max_similarity is not None:
            forbidden |= guard[rows] @ guard.T > max_similarity
        if group is not None:
            forbidden |= group[rows, None] != group[None]
        best, ranked = scores.masked_fill(forbidden, -torch.inf).topk(depth)
        taken = best > -torch.inf
        if max_similarity is not None:
            near = guard[ranked] @ guard[ranked].transpose(1, 2) > max_similarity
            for place in range(1, depth):
                taken[:, place] &= ~(near[:, place, :place] & taken[:, :place]).any(1)
        order = (~taken).long().argsort(dim=1, stable=True)[:, :k]  # what is taken first, in rank order
        chosen = torch.where(taken.gather(1, order), ranked.gather(1, order), ABSENT)
        found[rows, : chosen.shape[1]] = chosen.int().cpu()
    return found
