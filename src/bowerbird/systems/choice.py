"""From phrases to references: each phrase searched for itself, and items chosen so that the phrases are covered.

A set cover in place of the k nearest to the whole prompt (the idea of Cross-modal RAG, arXiv 2505.21956), without items
like one taken (as RA-CM3 does, arXiv 2211.12561), and nothing rather than something bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import shorten
from bowerbird.core.types import ABSENT, embeds_text
from bowerbird.knowledge.search.bm25 import further_words
from bowerbird.knowledge.search.words import bare_name
from bowerbird.systems.calibration import calibrate
from bowerbird.systems.phrases.phrase import Phrase
from bowerbird.systems.phrases.word_classes import GROUNDS
from bowerbird.systems.relevance import unit

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.search.analyzer import Analyzer

MOST_REFERENCES = 64
HEAD_SHARE = 2 / 3
"""What the head counts among a phrase's words; its attributes are the rest."""


@dataclass(frozen=True, kw_only=True)
class ChoiceSettings:
    """How references are chosen. `max_references` in all, `per_phrase` at most for one phrase; `candidates`: items
    looked at for each.

    `redundancy`: what likeness to a reference taken costs, beside scores from 0 to 1; `max_similarity`: the cosine
    from which an item is left out for it. `min_relevance`: the share of the knowledge base's own captions that has to
    be less like its picture than the phrase is like an item that has the phrase's words; `min_relevance_unnamed`: like
    one that has not. 0 for both takes the best there is. `where` and `search_mode`: as in a search.
    Raises: BowerbirdError for a value out of range.
    """

    max_references: int = 4
    per_phrase: int = 1
    candidates: int = 100
    redundancy: float = 0.1
    max_similarity: float = 0.9
    min_relevance: float = 0.05
    min_relevance_unnamed: float = 0.95
    where: str | None = None
    search_mode: str = "hybrid"

    def __post_init__(self) -> None:
        if not 1 <= self.max_references <= MOST_REFERENCES:
            raise BowerbirdError(f"`max_references` is from 1 to {MOST_REFERENCES}; got {self.max_references}")
        if self.per_phrase < 1 or self.candidates < 1:
            raise BowerbirdError(
                f"`per_phrase` and `candidates` are 1 or more; got {self.per_phrase} and {self.candidates}"
            )
        for name in ("redundancy", "max_similarity", "min_relevance", "min_relevance_unnamed"):
            if not 0 <= getattr(self, name) <= 1:
                raise BowerbirdError(f"`{name}` is from 0 to 1; got {getattr(self, name):g}")


@dataclass(frozen=True)
class ChosenReference:
    """An item for a phrase: its `score` from 0 to 1, and `why` it was taken."""

    phrase: Phrase
    item: int
    score: float
    why: str


@dataclass(frozen=True)
class Choice:
    """References in the order of their phrases, and the phrases without one, each with the reason."""

    references: tuple[ChosenReference, ...]
    without: tuple[tuple[Phrase, str], ...] = ()


@dataclass(frozen=True, eq=False)
class _Candidates:
    """What was found for P phrases, C items: `scores` `(P, C)`, 0 where an item will not do; `relevance` `(P, C)`;
    `reasons` for each; `vectors`: unit `(C, d)`."""

    ids: np.ndarray
    scores: np.ndarray
    relevance: np.ndarray
    reasons: list[list[str]]
    vectors: np.ndarray


def choose_references(
    kb: KnowledgeBase,
    phrases: Sequence[Phrase],
    *,
    settings: ChoiceSettings | None = None,
    exclude: Sequence[int] = (),
) -> Choice:
    """The references for `phrases`, none of `exclude`: greedily the item that adds most to the sum over phrases of the
    best score, less `redundancy` times its likeness to what is taken.

    The same for the same knowledge base, phrases and settings. Raises: BowerbirdError for a wrong condition, or where
    no item has a caption to calibrate by.
    """
    settings = settings or ChoiceSettings()
    asked = [phrase for phrase in phrases if phrase.head.casefold() not in GROUNDS]
    without = [(phrase, "it names a ground, and no thing") for phrase in phrases if phrase not in asked]
    if not asked:
        return Choice((), tuple(without))
    found = _candidates(kb, asked, settings, exclude)
    taken = _cover(found, settings)
    rows = sorted(taken, key=lambda pair: -found.scores[pair])[: settings.max_references]
    references = [
        ChosenReference(asked[p], int(found.ids[c]), float(found.scores[p, c]), found.reasons[p][c])
        for p, c in sorted(rows)
    ]
    served = {p for p, _ in rows}
    without += [(phrase, _reason(found, p, settings)) for p, phrase in enumerate(asked) if p not in served]
    return Choice(tuple(references), tuple(without))


def _candidates(
    kb: KnowledgeBase, phrases: Sequence[Phrase], settings: ChoiceSettings, exclude: Sequence[int]
) -> _Candidates:
    """The items that a search finds for any of the phrases, each scored for all of them."""
    queries = [phrase.query for phrase in phrases]
    k = min(settings.candidates, len(kb))
    hits = kb.search(text=queries, k=k, mode=settings.search_mode, where=settings.where, typos=False, operators=False)
    out = {ABSENT, *exclude}
    ids = [item for item in dict.fromkeys(hits.ids.T.ravel().tolist()) if item not in out]
    if not ids:
        nothing = np.zeros((len(phrases), 0))
        return _Candidates(np.zeros(0, np.int64), nothing, nothing, [[] for _ in phrases], np.zeros((0, 1)))
    items = kb.get(ids)
    texts = zip(items.captions[0], items.metadata[0], kb.names(ids), strict=True)
    analyzer = kb.store.snapshot.analyzer
    have = [
        {*analyzer.words(caption), *analyzer.words(further_words(more)), *analyzer.words(bare_name(name))}
        for caption, more, name in texts
    ]
    shares = [[_word_share(phrase, own, analyzer) for own in have] for phrase in phrases]
    vectors = items.embeddings[0]
    if embeds_text(kb.encoder):
        relevance, similar = _relevance(kb, queries, vectors, settings)
    else:  # an encoder of pictures alone: what has the words will do, and nothing else
        relevance = np.asarray([[float(named) for _, named in line] for line in shares])
        similar = [[""] * len(ids)] * len(phrases)
    bm25 = _bm25(hits, ids)
    scores = np.zeros(relevance.shape)
    reasons: list[list[str]] = []
    for p in range(len(phrases)):
        reasons.append([])
        for c, (share, named) in enumerate(shares[p]):
            least = settings.min_relevance if named else settings.min_relevance_unnamed
            if relevance[p, c] >= least:
                scores[p, c] = (relevance[p, c] + share + bm25[p, c]) / 3
            caption = shorten(items.captions[0][c], 60)
            reasons[-1].append(f"{caption!r} {'has' if named else 'does not have'} the words{similar[p][c]}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
    return _Candidates(np.asarray(ids, np.int64), scores, relevance, reasons, vectors / lengths)


def _relevance(
    kb: KnowledgeBase, queries: Sequence[str], vectors: np.ndarray, settings: ChoiceSettings
) -> tuple[np.ndarray, list[list[str]]]:
    """How relevant items of these raw `vectors` `(C, d)` are to P queries, `(P, C)`, and how a reason says it."""
    encoder = kb.encoder
    cosines = unit(encoder.embed_text(queries), encoder.shared_dim) @ unit(vectors, encoder.shared_dim).T
    calibrated = settings.min_relevance > 0 or settings.min_relevance_unnamed > 0
    relevance = calibrate(kb).relevance(cosines) if calibrated else np.clip(cosines, 0, 1)
    return relevance, [
        [
            f"; similarity {cosine:.2f}, above {share:.0%} of the captions here"
            for cosine, share in zip(*line, strict=True)
        ]
        for line in zip(cosines, relevance, strict=True)
    ]


def _bm25(hits: Any, ids: Sequence[int]) -> np.ndarray:
    """BM25 scores `(P, C)` as shares of each phrase's best, 0 where an item has none of its words."""
    place = {item: at for at, item in enumerate(ids)}
    found = np.zeros((len(hits), len(ids)))
    for p, (row, values) in enumerate(
        zip(hits.ids.tolist(), hits.measures.get("bm25", hits.scores * np.nan), strict=True)
    ):
        for item, value in zip(row, values.tolist(), strict=True):
            if item in place and np.isfinite(value):
                found[p, place[item]] = value
    return found / found.max(1, keepdims=True).clip(min=1e-12)


def _word_share(phrase: Phrase, own: set[str], analyzer: Analyzer) -> tuple[float, bool]:
    """How much of a phrase's words an item has, from 0 to 1, and whether it has all of the head's."""
    head = analyzer.words(phrase.head or phrase.text)
    attributes = analyzer.words(" ".join(phrase.attributes))
    of_head = sum(word in own for word in head) / len(head) if head else 0.0
    of_attributes = sum(word in own for word in attributes) / len(attributes) if attributes else of_head
    return HEAD_SHARE * of_head + (1 - HEAD_SHARE) * of_attributes, of_head == 1


def _cover(found: _Candidates, settings: ChoiceSettings) -> list[tuple[int, int]]:
    """Pairs of phrase and item, round by round: in each, every phrase can get one."""
    pairs: list[tuple[int, int]] = []
    taken: list[int] = []
    for _ in range(settings.per_phrase):
        room = settings.max_references - len(pairs)
        added = _cover_once(found, taken, room, settings)
        if not added:
            break
        for p in range(len(found.scores)):
            best = max(added, key=lambda c: found.scores[p, c])
            if found.scores[p, best] > 0:
                pairs.append((p, best))
        taken += added
    return pairs


def _cover_once(found: _Candidates, taken: Sequence[int], room: int, settings: ChoiceSettings) -> list[int]:
    """The items that are taken one after another while the sum of the phrases' best scores gains by it.

    One too like what an earlier round took adds nothing to a phrase that has a reference. Another phrase may have no
    other, as an orange rocket beside a red one.
    """
    added: list[int] = []
    covered = np.zeros(len(found.scores))
    served = found.scores[:, list(taken)].max(1, initial=0) > 0
    while len(added) < room and found.scores.size:
        gains = np.maximum(found.scores - covered[:, None], 0)
        chosen = [*taken, *added]
        if chosen:
            alike = (found.vectors @ found.vectors[chosen].T).max(1)
            gains[np.ix_(served, alike > settings.max_similarity)] = 0
            gains[:, chosen] = 0
            gain = gains.sum(0) - settings.redundancy * alike.clip(min=0)
        else:
            gain = gains.sum(0)
        best = int(gain.argmax())
        if gain[best] <= 1e-9:
            break
        added.append(best)
        covered = np.maximum(covered, found.scores[:, best])
    return added


def _reason(found: _Candidates, p: int, settings: ChoiceSettings) -> str:
    """Why a phrase has no reference."""
    if not found.scores.shape[1]:
        return "nothing was found"
    if found.scores[p].max() > 0:
        return f"there is no room for it (`max_references={settings.max_references}`)"
    return f"nothing is near enough; the nearest: {found.reasons[p][int(found.relevance[p].argmax())]}"
