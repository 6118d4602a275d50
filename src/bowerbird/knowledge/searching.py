"""What `KnowledgeBase.search` does: a request checked, the items it finds, what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.images import check_opened
from bowerbird.core.text import in_shell
from bowerbird.core.types import ABSENT, Neighbors, TextEncoder
from bowerbird.data.columns import clean
from bowerbird.knowledge.items import neighbors, rows_of
from bowerbird.knowledge.rerank.registry import NONE, Rerank, load_reranker
from bowerbird.knowledge.rerank.search import SearchableCollection, search_reranked
from bowerbird.knowledge.search import dense, query
from bowerbird.knowledge.search.terms import Terms, all_of, is_plain, parse, words_of
from bowerbird.knowledge.search.typos import shown
from bowerbird.knowledge.storage.protocol import CAPTIONS

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.storage.protocol import Store

    QueryMix = Sequence[tuple[str | Image.Image | np.ndarray, float]]

MODES = ("dense", "bm25", "hybrid", "captions", "mixed")
DEFAULT_K = 4
"""Results of a search that does not say how many, where there are as many."""
PASSED_ON = ("mode", "where", "exact", "alpha", "diversity", "min_score", "typos", "operators")
"""What the searches behind a reranker are asked with too."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """The arguments of `KnowledgeBase.search`, where they are explained."""

    text: str | Sequence[str] | None = None
    images: Sequence[Image.Image] | None = None
    embeddings: np.ndarray | None = None
    ids: Sequence[int] | None = None
    query_mix: QueryMix | None = None
    k: int | None = None
    mode: str = "hybrid"
    where: str | None = None
    include_self: bool = False
    exact: bool = False
    alpha: float | Literal["auto", "even"] = query.AUTO
    diversity: float = 0.0
    min_score: float | None = None
    typos: bool = True
    operators: bool = True
    rerank: Rerank = NONE


class Searched(SearchableCollection, Protocol):
    """What a search needs of a knowledge base. Encoders are read when a query needs them: loading takes seconds."""

    store: Store

    @property
    def caption_encoder(self) -> TextEncoder | None: ...
    def pictures(self, ids: np.ndarray) -> list[list[Image.Image | None]]: ...


def search(base: Searched, request: SearchRequest) -> Neighbors:
    """The k nearest items of each query. Raises: BowerbirdError, as `KnowledgeBase.search`."""
    count, store = len(base), base.store
    given = (request.text, request.images, request.embeddings, request.ids, request.query_mix)
    if sum(one is not None for one in given) != 1:
        raise BowerbirdError(
            "search: give one of text, images, embeddings, ids, query_mix; a text with a picture is a query_mix, as"
            ' [("red", 1), (picture, 1)]'
        )
    check_opened([request.images] if isinstance(request.images, str | bytes) else request.images or (), "images")
    if request.mode not in MODES:
        raise BowerbirdError(f"search mode {request.mode!r} is not known; choose one of {', '.join(MODES)}")
    if not count:
        raise BowerbirdError(
            f"{store.path} holds no items; add pictures: bowerbird kb add {in_shell(store.path)} SOURCE"
        )
    k = min(DEFAULT_K, count) if request.k is None else request.k
    if (reranker := load_reranker(request.rerank)) is not None:
        options = {name: getattr(request, name) for name in PASSED_ON}
        return search_reranked(
            base,
            reranker,
            text=request.text,
            words=partial(words_of, columns=store.columns()) if request.operators else str,
            images=request.images,
            k=k,
            options=options,
        )
    _check(request, k, count, store)
    texts = _texts(request)
    allowed = store.allowed(request.where) if request.where is not None else None
    wanted = min(count, 4 * k + 20) if request.diversity else k
    answer = _by_text(base, request, texts, wanted, allowed) if texts else _by_vectors(base, request, wanted, allowed)
    found, measures = _narrowed(store, request, answer, k)
    known = neighbors(store, *found, base.pictures)
    return replace(
        known,
        queries=tuple(texts),
        corrected=tuple(map(shown, answer.near)),
        measures=measures,
        notes=_notes(texts, known, answer) if request.mode == "hybrid" else (),
    )


def _notes(texts: Sequence[str], found: Neighbors, answer: query.TextResult) -> tuple[tuple[str, ...], ...]:
    """For each text that no item has a word of, and for which something was found all the same, a line."""
    if answer.words is None:
        return ()
    unsaid = (answer.words[0] == ABSENT).all(1) & found.mask.any(1)
    lines = [
        (f"no item has a word of {text!r}; the nearest by embedding were found",) if none else ()
        for text, none in zip(texts, unsaid, strict=True)
    ]
    return tuple(lines) if any(lines) else ()


def _check(request: SearchRequest, k: int, count: int, store: Store) -> None:
    """Raises: BowerbirdError for a number that is out of its range."""
    if not 1 <= k <= count:
        raise BowerbirdError(
            f"k = {k} neighbors are asked for and {store.path} holds {count} items; choose k from 1 to {count}"
        )
    diversity, alpha, min_score = request.diversity, request.alpha, request.min_score
    share = 0.0 if alpha in (query.AUTO, query.EVEN) else alpha
    if not 0 <= diversity <= 1 or isinstance(share, str) or not 0 <= share <= 1:
        raise BowerbirdError(
            f"diversity and alpha are shares from 0 to 1, got {diversity} and {alpha}; alpha may be auto or even"
        )
    words_alone = request.text is not None and request.mode == "bm25"
    if min_score is not None and not (min_score >= 0 if words_alone else -1 <= min_score <= 1):
        raise BowerbirdError(
            f"`min_score` {min_score}: a cosine from -1 to 1, as in 0.3; with `mode=bm25` a BM25 score of 0 or more"
        )


def _texts(request: SearchRequest) -> list[str]:
    """The texts of a query, none where it is something else. Raises: BowerbirdError for an empty one."""
    if request.text is None:
        return []
    given = [request.text] if isinstance(request.text, str) else request.text
    texts = [clean(one) for one in given]  # a command line may hand over what is no character
    if not texts or any(not one.strip() for one in texts):
        raise BowerbirdError("search: the text is empty; say what to look for")
    return texts


def _by_text(
    base: Searched, request: SearchRequest, texts: Sequence[str], wanted: int, allowed: Any
) -> query.TextResult:
    """The `wanted` best of each text."""
    store, mode = base.store, request.mode
    normalize = bool(store.manifest["encoder"]["normalize"])
    options = query.TextOptions(mode, normalize, request.exact, request.alpha, request.typos)
    if request.operators and not all(map(is_plain, texts)):
        columns = store.columns()
        return query.joined([_by_terms(base, parse(text, columns), wanted, request.where, options) for text in texts])
    encoder = None if mode == "bm25" else base.encoder
    captions = _captions_for(base, mode)
    return query.by_text(store.snapshot, encoder, texts, wanted, allowed=allowed, options=options, captions=captions)


def _by_terms(base: Searched, terms: Terms, k: int, where: str | None, options: query.TextOptions) -> query.TextResult:
    """The k best for one text with phrases and fields."""
    store, snapshot = base.store, base.store.snapshot
    both = all_of(where, terms.where)
    allowed = store.allowed(both) if both is not None else None
    for phrase in terms.phrases:
        allowed = snapshot.narrowed(phrase, allowed)
    if options.mode == "bm25" and not terms.words:  # fields alone: what has them, in the order of ids
        rows = snapshot.rows_of(np.sort(store.ids(both))[:k])
        return query.unranked(rows, k)
    return query.by_text(
        snapshot,
        None if options.mode == "bm25" else base.encoder,
        [terms.text],
        k,
        allowed=allowed,
        options=options,
        as_written=terms.phrases,
        captions=_captions_for(base, options.mode),
    )


def _captions_for(base: Searched, mode: str) -> TextEncoder | None:
    """The encoder of captions, where a search of this mode goes by it. Raises: BowerbirdError where there is none and
    the mode needs it."""
    if mode == "captions" and CAPTIONS not in base.store.manifest:
        raise BowerbirdError(
            f"{base.path}: captions have no vectors here; search with `mode=hybrid`, or build it again with"
            " `caption_encoder=minilm`"
        )
    return base.caption_encoder if mode in ("captions", "hybrid") else None


def _by_vectors(base: Searched, request: SearchRequest, wanted: int, allowed: Any) -> query.TextResult:
    """The `wanted` best of each query that is no text."""
    store, snapshot, mixed = base.store, base.store.snapshot, request.mode == "mixed"
    own = rows_of(store, request.ids) if request.ids is not None else None
    alone = own is None or request.include_self
    vectors = snapshot.embeddings(own) if own is not None else _query_vectors(base, request)
    least = wanted if alone else min(wanted + 1, len(base))
    depth = min(len(base), max(50, 2 * least)) if mixed else least
    prepared = dense.prepare(vectors, bool(store.manifest["encoder"]["normalize"]))
    found = snapshot.dense(prepared, depth, allowed, exact=request.exact)
    if mixed:
        found = query.mixed(snapshot, base.encoder, vectors, [found[0]], least)
    if own is not None and not request.include_self:
        found = query.without(found, own, wanted)
    return query.TextResult(found, vectors)


def _query_vectors(base: Searched, request: SearchRequest) -> np.ndarray:
    """The vectors of pictures, embeddings or a mix of queries, raw `(Q, d)`. Raises: MismatchError for embeddings of
    another dimension."""
    if request.query_mix is not None:
        return query.mix_queries(base.encoder, request.query_mix)
    vectors: np.ndarray = (
        base.encoder.embed_images(list(request.images))
        if request.images is not None
        else np.asarray(request.embeddings, np.float32)
    )
    if vectors.ndim != 2 or vectors.shape[1] != base.store.dim:
        raise MismatchError(
            f"{base.path}: its embedding dimension is {base.store.dim}, the query has shape {vectors.shape}; embed it"
            f" with encoder {base.store.manifest['encoder']['name']!r}"
        )
    return vectors


def _narrowed(
    store: Store, request: SearchRequest, answer: query.TextResult, k: int
) -> tuple[query.Found, query.Measures]:
    """The k that stay: unlike each other, and as similar as the request says; with what was measured of them."""
    snapshot, found = store.snapshot, answer.found
    if request.diversity:
        found = query.various(snapshot, found, k, request.diversity)
    measures = query.measure(snapshot, found[0], answer.vectors, answer.words, answer.said)
    if request.min_score is not None:
        known = next((measures[n] for n in ("similarity", "caption_similarity", "bm25") if n in measures), found[1])
        found = query.at_least(found, known, request.min_score)
        measures = query.measure(snapshot, found[0], answer.vectors, answer.words, answer.said)
    return found, measures
