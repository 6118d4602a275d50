"""What can be known of the candidates of a search without looking at any one collection: numbers that mean the same in
every knowledge base."""

from __future__ import annotations

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.data.color_words import colors_in
from bowerbird.knowledge.search.bm25 import further_words
from bowerbird.knowledge.search.dense import prepare
from bowerbird.knowledge.search.words import query_words, words

FACTS = (
    "similarity",  # cosine of the query's and the candidate's embedding
    "similarity, scaled",  # the same, less the mean over the candidates, by their spread
    "similarity rank",  # 1 of the nearest, 1/2 of the second, …
    "rank",  # the same by the order of the search
    "bm25",  # as a share of the best candidate's; 0 where the search did not look at words
    "query share",  # of those words of the query that any candidate has, the share that its caption has
    "query share, tags",  # and its caption and tags have
    "caption share",  # of the words of its caption, the share that the query has
    "named",  # 1 where the query has every word of its caption
    "color",  # 1 where its caption names a color of the query, -1 where it names others
    "agreement",  # mean cosine to the other candidates with as many of the query's words as the best
    "typical",  # mean cosine to the other candidates
    "repeated",  # largest cosine to another candidate
)
"""Names of the columns of `candidate_facts`; a model is stored with those it was trained on."""


def candidate_facts(found: Neighbors, vectors: np.ndarray) -> np.ndarray:
    """Facts of the candidates `found` `(Q, N)` for their queries' raw embeddings `vectors` `(Q, d)`, float32 `(Q, N,
    len(FACTS))`; zeros where there is no candidate. A row depends on no other."""
    facts = np.zeros((*found.ids.shape, len(FACTS)), np.float32)
    asked = prepare(vectors, True)
    for row in range(len(found)):
        there = np.flatnonzero(found.mask[row])
        if len(there):
            unit = prepare(found.embeddings[row, there], True)
            columns = [*_by_vectors(unit, asked[row]), there.astype(np.float64), _bm25(found, row, there)]
            columns[3] = 1 / (1 + columns[3])
            columns += _by_words(found, row, there)
            columns += _by_others(unit, columns[5])
            facts[row, there] = np.stack(columns, 1)
    return facts


def _by_vectors(unit: np.ndarray, query: np.ndarray) -> list[np.ndarray]:
    cosines = unit @ query
    place = np.empty(len(cosines))
    place[np.argsort(-cosines, kind="stable")] = np.arange(len(cosines))
    return [cosines, (cosines - cosines.mean()) / max(float(cosines.std()), 1e-6), 1 / (1 + place)]


def _bm25(found: Neighbors, row: int, there: np.ndarray) -> np.ndarray:
    if "bm25" not in found.measures:
        return np.zeros(len(there))
    scores = np.nan_to_num(found.measures["bm25"][row, there].astype(np.float64), nan=0, posinf=0, neginf=0)
    scaled: np.ndarray = scores / max(float(scores.max()), 1e-6)
    return scaled


def _by_words(found: Neighbors, row: int, there: np.ndarray) -> list[np.ndarray]:
    """Query share, without and with tags, caption share, named, color."""
    query = set(query_words(found.queries[row])) if found.queries else set()
    captions = [set(words(found.captions[row][c])) for c in there]
    tagged = [own | set(words(_tags(found, row, c))) for own, c in zip(captions, there.tolist(), strict=True)]
    known = query & set().union(*tagged)  # "a picture of": words that no candidate has say nothing
    share = [len(own & known) / len(known) if known else 0.0 for own in captions]
    with_tags = [len(own & known) / len(known) if known else 0.0 for own in tagged]
    of_caption = [len(own & query) / len(own) if own else 0.0 for own in captions]
    wanted = colors_in(sorted(query))
    colors = [colors_in(sorted(own)) for own in captions]
    agrees = [0.0 if not wanted or not own else 1.0 if wanted & own else -1.0 for own in colors]
    named = [float(value == 1) for value in of_caption]
    return [np.asarray(values) for values in (share, with_tags, of_caption, named, agrees)]


def _tags(found: Neighbors, row: int, column: int) -> str:
    return further_words(found.metadata[row][column]) if found.metadata else ""


def _by_others(unit: np.ndarray, share: np.ndarray) -> list[np.ndarray]:
    """Agreement, typical, repeated; 0 where a candidate is alone."""
    count = len(unit)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 0)
    best = np.tile(share >= share.max() - 1e-9, (count, 1))
    np.fill_diagonal(best, False)
    agreement = (cosines * best).sum(1) / best.sum(1).clip(min=1)
    np.fill_diagonal(cosines, -1)
    repeated = cosines.max(1) if count > 1 else np.zeros(1)
    np.fill_diagonal(cosines, 0)
    return [agreement, cosines.sum(1) / max(count - 1, 1), repeated]
