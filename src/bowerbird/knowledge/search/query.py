"""Searching a snapshot: by vectors, by words, or by both fused. Knows rows and an encoder, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import ABSENT, Encoder
from bowerbird.data.columns import clean
from bowerbird.knowledge.search import dense, fusion
from bowerbird.knowledge.search.protocol import Searchable
from bowerbird.knowledge.search.typos import Near

if TYPE_CHECKING:
    from PIL import Image

Found = tuple[np.ndarray, np.ndarray]
Measures = dict[str, np.ndarray]
SAMPLE = 1000
"""Items that stand for a random one."""


@dataclass(frozen=True)
class TextResult:
    """`found`: `(rows, scores)`, each `(Q, k)`; what it was found by: the raw `vectors` `(Q, d)` of the texts, and the
    best `(rows, scores)` by words. None for what the mode does not look at. `near`: for each text, which words were
    searched in place of those that no item has."""

    found: Found
    vectors: np.ndarray | None = None
    words: Found | None = None
    near: tuple[Near, ...] = ()


def by_words(snapshot: Searchable, texts: Sequence[str], k: int, allowed: Any, near: Sequence[Near]) -> Found:
    """`(rows, scores)`, each `(Q, k)`, by BM25."""
    pairs = [snapshot.words(text, k, allowed, near=others) for text, others in zip(texts, near, strict=True)]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


@dataclass(frozen=True)
class TextOptions:
    """How texts are searched: `mode` (`by_text`), whether vectors are compared by cosine, whether with `exact`ly all;
    `alpha` None fuses by ranks, a share from 0 to 1 weighs scores, that much the dense ones; `typos`: search near words
    in place of those that no item has."""

    mode: str
    normalize: bool
    exact: bool = False
    alpha: float | None = None
    typos: bool = True


def by_text(
    snapshot: Searchable,
    encoder: Encoder | None,
    texts: Sequence[str],
    k: int,
    *,
    allowed: Any,
    options: TextOptions,
    as_written: Sequence[str] = (),
) -> TextResult:
    """The k best for each text: `dense`, `bm25`, `mixed` (see `mixed`), or `hybrid`, which fuses both rankings, the
    dense one led by the words.

    `as_written`: phrases whose words are taken as they are.
    """
    mode, normalize, exact, alpha = options.mode, options.normalize, options.exact, options.alpha
    fixed = {word for phrase in as_written for word in snapshot.analyzer.query_words(phrase)}
    looked = [snapshot.near_words(text) if options.typos and mode != "dense" else {} for text in texts]
    near = tuple({word: others for word, others in each.items() if word not in fixed} for each in looked)
    if mode == "bm25" or encoder is None:
        words = by_words(snapshot, texts, k, allowed, near)
        return TextResult(words, words=words, near=near)
    vectors = encoder.embed_text(texts)
    if mode == "dense":
        return TextResult(snapshot.dense(dense.prepare(vectors, normalize), k, allowed, exact=exact), vectors)
    depth = min(len(snapshot), max(50, 2 * k))
    words = by_words(snapshot, texts, depth, allowed, near)
    if mode == "mixed":
        looks = snapshot.dense(dense.prepare(vectors, normalize), depth, allowed, exact=exact)
        return TextResult(mixed(snapshot, encoder, vectors, [words[0], looks[0]], k), vectors, words, near)
    looks = snapshot.dense(dense.prepare(_feedback(snapshot, vectors, *words), normalize), depth, allowed, exact=exact)
    if alpha is None:
        fused = [fusion.reciprocal_rank_fusion([words[0][q], looks[0][q]], k) for q in range(len(texts))]
    else:
        pairs = [[(found[0][q], found[1][q]) for found in (words, looks)] for q in range(len(texts))]
        fused = [fusion.weighted_fusion(pair, (1 - alpha, alpha), k) for pair in pairs]
    return TextResult((np.stack([f[0] for f in fused]), np.stack([f[1] for f in fused])), vectors, words, near)


def joined(parts: Sequence[TextResult]) -> TextResult:
    """The results of several searches of one text each as one."""

    def stack(pairs: Sequence[Found]) -> Found:
        return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])

    vectors = [part.vectors for part in parts if part.vectors is not None]
    words = [part.words for part in parts if part.words is not None]
    return TextResult(
        stack([part.found for part in parts]),
        np.concatenate(vectors) if vectors else None,
        stack(words) if words else None,
        tuple(near for part in parts for near in part.near or ({},)),
    )


def unranked(rows: np.ndarray, k: int) -> TextResult:
    """Rows `(n,)` that nothing ranks, as a result by words with a score of 0."""
    found, scores = np.full((1, k), ABSENT, np.int64), np.full((1, k), -np.inf, np.float32)
    found[0, : len(rows)], scores[0, : len(rows)] = rows, 0
    return TextResult((found, scores), words=(found, scores))


def mixed(snapshot: Searchable, encoder: Encoder, vectors: np.ndarray, candidates: list[np.ndarray], k: int) -> Found:
    """The k best for raw query vectors `(Q, d)` among `candidates`, rows `(Q, n)` each: by the mean of an item's text
    and image halves, both of length 1, in the dimensions that texts and pictures share. A query is one half.

    Captions are embedded as they are met, so any knowledge base can be searched so. Source: RA-CM3, arXiv 2211.12561,
    section 3.2; its exact search is, here, one among the best by words and by either half.
    """
    shared = encoder.shared_dim
    rows, scores = np.full((len(vectors), k), ABSENT, np.int64), np.full((len(vectors), k), -np.inf, np.float32)
    asked = dense.prepare(vectors[:, :shared], True)
    for q in range(len(vectors)):
        found = np.unique(np.concatenate([part[q] for part in candidates]))
        found = found[found != ABSENT]
        if not len(found):
            continue
        looks = dense.prepare(snapshot.embeddings(found)[:, :shared], True)
        captions = snapshot.describe(found[None])[0][0]
        said = encoder.embed_text([caption or "picture" for caption in captions])[:, :shared]
        texts = dense.prepare(said, True) * np.asarray([[float(bool(caption.strip()))] for caption in captions])
        score = dense.prepare(looks + texts, True) @ asked[q]
        best = np.argsort(-score, kind="stable")[:k]
        rows[q, : len(best)], scores[q, : len(best)] = found[best], score[best]
    return rows, scores


def measure(snapshot: Searchable, rows: np.ndarray, vectors: np.ndarray | None, words: Found | None) -> Measures:
    """What a person can read of `rows` `(Q, K)`, float32 `(Q, K)` each: `similarity`, the cosine to the query's
    `vectors`, and `bm25`, the score by words; NaN where a row is none, or none of those that `words` found."""
    measures: Measures = {}
    if vectors is not None:
        near = snapshot.embeddings(rows)
        unit = dense.prepare(near.reshape(-1, near.shape[-1]), True).reshape(near.shape)
        cosines = np.einsum("qd,qkd->qk", dense.prepare(vectors, True), unit)
        measures["similarity"] = np.where(rows == ABSENT, np.nan, cosines).astype(np.float32)
    if words is not None:
        known = [dict(zip(*(side[q].tolist() for side in words), strict=True)) for q in range(len(rows))]
        scores = [
            [np.nan if r == ABSENT else of.get(r, np.nan) for r in line] for line, of in zip(rows, known, strict=True)
        ]
        measures["bm25"] = np.asarray(scores, np.float32).reshape(rows.shape)
    return measures


def at_least(found: Found, values: np.ndarray, least: float) -> Found:
    """Each query's results whose value `(Q, K)` is `least` or more; the others are padding at the end."""
    rows, scores = np.full_like(found[0], ABSENT), np.full_like(found[1], -np.inf)
    for q, good in enumerate(values >= least):
        rows[q, : good.sum()], scores[q, : good.sum()] = found[0][q, good], found[1][q, good]
    return rows, scores


def sample_similarities(snapshot: Searchable, vectors: np.ndarray) -> np.ndarray:
    """The cosines of raw query `vectors` `(Q, d)` with up to `SAMPLE` items spread over all, `(Q, n)`, ascending: what
    is to be expected of an item that has nothing to do with the query."""
    ids = np.sort(snapshot.ids)
    some = ids[np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids))).astype(np.int64)]
    near = dense.prepare(snapshot.embeddings(snapshot.rows_of(some)), True)
    return np.sort(dense.prepare(vectors, True) @ near.T, axis=1)


def _feedback(snapshot: Searchable, vectors: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Text embeddings moved to the pictures whose words matched best (pseudo-relevance feedback).

    A small encoder does not know a new name, but the pictures that carry it show what to look for. Without any match
    in words the text embedding stays as it is.
    """
    moved = dense.prepare(vectors, True)
    for q in range(len(moved)):
        best = [
            int(r) for r, s in zip(rows[q, :4], scores[q, :4], strict=True) if r != ABSENT and s >= 0.7 * scores[q, 0]
        ]
        if best:
            moved[q] = 0.5 * moved[q] + dense.prepare(snapshot.embeddings(np.asarray(best)), True).mean(0)
    return moved


def mix_queries(encoder: Encoder, parts: Sequence[tuple[str | Image.Image | np.ndarray, float]]) -> np.ndarray:
    """One query out of several with weights, negative ones to keep away from: the sum of their unit vectors, `(1, d)`.

    Raises: BowerbirdError when they cancel, or there are none.
    """
    total = np.zeros((1, encoder.dim), np.float32)
    for what, weight in parts:
        if isinstance(what, str):
            if not what.strip():
                raise BowerbirdError("search: a text of the query_mix is empty; say what to look for")
            vector = encoder.embed_text([clean(what)])
        else:
            vector = (
                np.asarray(what, np.float32).reshape(1, -1)
                if isinstance(what, np.ndarray)
                else encoder.embed_images([what])
            )
        if vector.shape[1] != encoder.dim:
            raise MismatchError(
                f"a vector of dimension {vector.shape[1]} in a query_mix; encoder {encoder.name!r} has {encoder.dim}"
            )
        total += weight * dense.prepare(vector, True)
    if np.linalg.norm(total) < 1e-6:
        raise BowerbirdError("the queries of this query_mix cancel each other; give other weights")
    return total


def various(snapshot: Searchable, found: Found, k: int, diversity: float) -> Found:
    """The k of each query's results that are good and unlike each other."""
    rows, scores = np.full((len(found[0]), k), ABSENT, np.int64), np.full((len(found[0]), k), -np.inf, np.float32)
    for q in range(len(rows)):
        there = np.flatnonzero(found[0][q] != ABSENT)
        if len(there):
            unit = dense.prepare(snapshot.embeddings(found[0][q, there]), True)
            picked = there[fusion.most_various(unit, found[1][q, there], k, diversity)]
            rows[q, : len(picked)], scores[q, : len(picked)] = found[0][q, picked], found[1][q, picked]
    return rows, scores


def without(found: Found, own: np.ndarray, k: int) -> Found:
    """Each query's results without its own row, cut or padded to k."""
    rows, scores = np.full((len(own), k), ABSENT, np.int64), np.full((len(own), k), -np.inf, np.float32)
    for q in range(len(own)):
        keep = np.flatnonzero(found[0][q] != own[q])[:k]
        rows[q, : len(keep)], scores[q, : len(keep)] = found[0][q, keep], found[1][q, keep]
    return rows, scores
