"""Searching a snapshot: by vectors, by words, or by both fused. Knows rows and an encoder, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import ABSENT, Encoder, TextEncoder, embeds_text
from bowerbird.data.columns import clean
from bowerbird.knowledge.search import compounds, dense, fusion, typos
from bowerbird.knowledge.search.bm25 import further_words
from bowerbird.knowledge.search.protocol import Searchable
from bowerbird.knowledge.search.typos import Near
from bowerbird.knowledge.search.words import bare_name, follow

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.search.protocol import SearchesCaptions

Found = tuple[np.ndarray, np.ndarray]
Measures = dict[str, np.ndarray]
CAPTIONS_FROM = 0.7
"""Of the nearest caption's cosine: what is less near counts for nothing when rankings are fused."""
LEADING_FROM = 0.9
"""Of the nearest caption's cosine: the pictures of these say what to look for, where no words do."""
SAMPLE = 1000
"""Items that stand for a random one."""
AUTO: Literal["auto"] = "auto"
EVEN: Literal["even"] = "even"
LOOKED_AT = 10
"""Best items by words that say what of a query the words find."""


@dataclass(frozen=True)
class TextResult:
    """`found`: `(rows, scores)`, each `(Q, k)`; what it was found by: the raw `vectors` `(Q, d)` of the texts, and the
    best `(rows, scores)` by words. None for what the mode does not look at. `near`: for each text, which words were
    searched in place of those that no item has. `said`: the raw vectors `(Q, d)` of the texts among captions."""

    found: Found
    vectors: np.ndarray | None = None
    words: Found | None = None
    near: tuple[Near, ...] = ()
    said: np.ndarray | None = None


@dataclass(frozen=True)
class TextOptions:
    """How texts are searched: `mode` (`by_text`), whether vectors are compared by cosine, whether with `exact`ly all;
    `alpha`: a share from 0 to 1 weighs scores, that much the dense ones; `even` fuses by ranks, and so does `auto`, of
    which the dense ones count what the words leave open; `typos`: search near words in place of those that no item
    has."""

    mode: str
    normalize: bool
    exact: bool = False
    alpha: float | Literal["auto", "even"] = AUTO
    typos: bool = True


@dataclass(frozen=True)
class _Texts:
    """What is searched, in what, and among which of its rows; `near`: for each text, the words in place of those that
    no item has."""

    snapshot: Searchable
    texts: Sequence[str]
    allowed: Any
    options: TextOptions
    near: tuple[Near, ...]

    def by_words(self, k: int) -> Found:
        """The k best `(rows, scores)` of each text by BM25."""
        pairs = zip(self.texts, self.near, strict=True)
        found = [self.snapshot.words(text, k, self.allowed, near=near) for text, near in pairs]
        return np.stack([rows for rows, _ in found]), np.stack([scores for _, scores in found])

    def by_vectors(self, vectors: np.ndarray, k: int) -> Found:
        """The k best `(rows, scores)` of each of these raw vectors."""
        prepared = dense.prepare(vectors, self.options.normalize)
        return self.snapshot.dense(prepared, k, self.allowed, exact=self.options.exact)

    def by_captions(self, vectors: np.ndarray, k: int) -> Found:
        """The k best `(rows, cosines)` of each of these raw vectors of what captions mean."""
        return cast("SearchesCaptions", self.snapshot).captions(vectors, k, self.allowed)


def by_text(
    snapshot: Searchable,
    encoder: Encoder | None,
    texts: Sequence[str],
    k: int,
    *,
    allowed: Any,
    options: TextOptions,
    as_written: Sequence[str] = (),
    captions: TextEncoder | None = None,
) -> TextResult:
    """The k best for each text: `dense`, `bm25`, `captions` (what captions mean), `mixed` (see `mixed`), or `hybrid`,
    which fuses the rankings there are: by words, by embeddings, led by the words, and by captions.

    `encoder` None: by words, whatever the mode. `as_written`: phrases whose words are taken as they are. `captions`:
    the encoder of the captions' vectors, where the snapshot has them.
    """
    mode = options.mode
    fixed = {word for phrase in as_written for word in snapshot.analyzer.query_words(phrase)}
    looked = [snapshot.near_words(text) if options.typos and mode != "dense" else {} for text in texts]
    near = tuple({word: others for word, others in each.items() if word not in fixed} for each in looked)
    asked = _Texts(snapshot, texts, allowed, options, near)
    if mode == "bm25" or encoder is None:
        words = asked.by_words(k)
        return TextResult(words, words=words, near=near)
    if mode == "captions" and captions is not None:
        said = captions.embed_text(texts)
        return TextResult(asked.by_captions(said, k), near=({},) * len(texts), said=said)
    if mode == "hybrid":
        return _hybrid(asked, encoder, captions, k)
    vectors = encoder.embed_text(texts)
    if mode == "dense":
        return TextResult(asked.by_vectors(vectors, k), vectors)
    depth = _depth(snapshot, k)
    words, looks = asked.by_words(depth), asked.by_vectors(vectors, depth)
    return TextResult(mixed(snapshot, encoder, vectors, [words[0], looks[0]], k), vectors, words, near)


def _depth(snapshot: Searchable, k: int) -> int:
    """Results of each ranking that are fused into k."""
    return min(len(snapshot), max(50, 2 * k))


def _hybrid(asked: _Texts, encoder: Encoder, captions: TextEncoder | None, k: int) -> TextResult:
    """The k best of each text by all rankings there are."""
    snapshot, texts, alpha = asked.snapshot, asked.texts, asked.options.alpha
    depth = _depth(snapshot, k)
    said, meaning = None, _nothing(len(texts), depth)
    if captions is not None:
        said = captions.embed_text(texts)
        meaning = asked.by_captions(said, depth)
    blind = said is not None and not embeds_text(encoder)  # pictures alone: others say what to look for
    vectors = np.zeros((len(texts), encoder.dim), np.float32) if blind else encoder.embed_text(texts)
    words = asked.by_words(depth)
    led = _feedback(snapshot, vectors, *(_first_of(words, meaning) if blind else words))
    covered = np.ones(len(texts))
    if alpha == AUTO:
        rows = zip(texts, words[0], asked.near, strict=True)
        covered = np.asarray([_coverage(snapshot, text, found, near) for text, found, near in rows])
        if not blind:  # pictures that have few of the words do not show what to look for
            led[covered < fusion.COVERED] = dense.prepare(vectors, True)[covered < fusion.COVERED]
    looks = asked.by_vectors(led, depth)
    looks[0][~led.any(1)] = ABSENT  # nothing says what to look for
    rankings = [words, looks] if said is None else [words, looks, _near_enough(meaning, CAPTIONS_FROM)]
    each = [[(found[0][q], found[1][q]) for found in rankings] for q in range(len(texts))]
    if alpha == EVEN:
        fused = [fusion.reciprocal_rank_fusion([found[0] for found in one], k) for one in each]
    elif isinstance(alpha, str):
        fused = [_fuse(one, float(share), k) for one, share in zip(each, covered, strict=True)]
    else:
        shares = (1 - alpha, alpha) if said is None else ((1 - alpha) / 2, alpha, (1 - alpha) / 2)
        fused = [fusion.weighted_fusion(one, shares, k) for one in each]
    best = np.stack([rows for rows, _ in fused]), np.stack([scores for _, scores in fused])
    return TextResult(best, None if blind else vectors, words, asked.near, said)


def _fuse(rankings: Sequence[Found], covered: float, k: int) -> Found:
    """One ranking by words, embedding and, where there is one, captions, by their ranks: the embedding counts as much
    as the words leave open, and where they leave nothing open it orders those that they rank the same."""
    weights = [1.0, fusion.weight_beside_words(covered), 1.0][: len(rankings)]
    tied = fusion.shared_ranks(rankings[0][1]) if covered >= fusion.COVERED else None
    ranks = [tied, None, None][: len(rankings)]
    return fusion.reciprocal_rank_fusion([found[0] for found in rankings], k, weights=weights, ranks=ranks)


def _coverage(snapshot: Searchable, text: str, rows: np.ndarray, near: Near) -> float:
    """The share of the words of a text that the best `rows` by words have, one or another, in caption, tags or name: a
    text of two things is covered by an item of each. A word counts as there when one near it is, or a compound with
    it, but no pair of Han characters for one of them; all do where the text has the whole caption of the best item, as
    the others then say how it is to look."""
    best = rows[:LOOKED_AT][rows[:LOOKED_AT] != ABSENT]
    asked = dict.fromkeys(snapshot.analyzer.query_words(text))
    if not len(best) or not asked:
        return float(len(best) > 0)
    captions, metadata = snapshot.describe(best[None])
    if follow(snapshot.analyzer.words(captions[0][0]), snapshot.analyzer.words(text)):
        return 1.0
    texts = zip(captions[0], metadata[0], snapshot.names(best), strict=True)
    said = " ".join(" ".join([caption, further_words(facts), bare_name(name)]) for caption, facts, name in texts)
    own = set(snapshot.analyzer.words(said))
    ends = tuple(own) if snapshot.analyzer.compounds else ()
    there = sum(
        word in own
        or (bool(own & near.get(word, {}).keys()) and not typos.signs(word))
        or any(_meet(word, other) for other in ends)
        for word in asked
    )
    return there / len(asked)


def _meet(word: str, other: str) -> bool:
    """Whether one of two words is the first or last part of the other."""
    short, long = sorted((word, other), key=len)
    return len(short) >= compounds.LEAST and (long.startswith(short) or long.endswith(short))


def _nothing(queries: int, k: int) -> Found:
    return np.full((queries, k), ABSENT, np.int64), np.full((queries, k), -np.inf, np.float32)


def _near_enough(meaning: Found, share: float) -> Found:
    """Without captions that are less near than this share of the nearest: every caption has some cosine to every
    text."""
    rows, scores = meaning
    far = scores < share * np.maximum(scores[:, :1], 0)
    return np.where(far, ABSENT, rows), np.where(far, -np.inf, scores)


def _first_of(words: Found, meaning: Found) -> Found:
    """Of each query the first that found anything: what shows an encoder of pictures alone what to look for."""
    none, meaning = (words[0] == ABSENT).all(1)[:, None], _near_enough(meaning, LEADING_FROM)
    return np.where(none, meaning[0], words[0]), np.where(none, meaning[1], words[1])


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
        np.concatenate([part.said for part in parts if part.said is not None])
        if any(part.said is not None for part in parts)
        else None,
    )


def unranked(rows: np.ndarray, k: int) -> TextResult:
    """Rows `(n,)` that nothing ranks, as a result by words with a score of 0."""
    found, scores = _nothing(1, k)
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


def measure(
    snapshot: Searchable,
    rows: np.ndarray,
    vectors: np.ndarray | None,
    words: Found | None,
    said: np.ndarray | None = None,
) -> Measures:
    """What a person can read of `rows` `(Q, K)`, float32 `(Q, K)` each: `similarity`, the cosine to the query's
    `vectors`, `bm25`, the score by words, and `caption_similarity`, the cosine of the caption to what is `said`; NaN
    where a row is none, or none of those that `words` found, or has no caption."""
    measures: Measures = {}
    if vectors is not None:
        measures["similarity"] = _cosines(vectors, snapshot.embeddings(rows), np.asarray(rows == ABSENT))
    if said is not None:
        captions = cast("SearchesCaptions", snapshot).caption_embeddings(rows)
        measures["caption_similarity"] = _cosines(said, captions, np.asarray(~captions.any(-1)))
    if words is not None:
        known = [dict(zip(*(side[q].tolist() for side in words), strict=True)) for q in range(len(rows))]
        scores = [
            [np.nan if r == ABSENT else of.get(r, np.nan) for r in line] for line, of in zip(rows, known, strict=True)
        ]
        measures["bm25"] = np.asarray(scores, np.float32).reshape(rows.shape)
    return measures


def _cosines(queries: np.ndarray, vectors: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Of raw `(Q, d)` and `(Q, K, d)`, float32 `(Q, K)`; NaN where `unknown`."""
    unit = dense.prepare(vectors.reshape(-1, vectors.shape[-1]), True).reshape(vectors.shape)
    cosines = np.einsum("qd,qkd->qk", dense.prepare(queries, True), unit)
    return np.where(unknown, np.nan, cosines).astype(np.float32)


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
